// Two phases of units, the tokens and the products, divided among the caller and helpers.
//
// The caller works too, and waits only for units that another thread has begun: it cannot wait for ever where it runs on the
// pool itself. A helper that comes late finds no unit left and touches nothing but its own reference to the counters.
#pragma once
#include <atomic>
#include <cstddef>
#include <functional>
#include <memory>
#include <thread>
#include <utility>

namespace xtc {

struct Phase {
  std::size_t units = 0;
  std::function<void(std::size_t)> work;
  std::atomic<std::size_t> next{0}, done{0};
};

struct Phases {
  Phase first, second;
};

inline void work_on(Phase& phase) {
  for (std::size_t unit; (unit = phase.next.fetch_add(1, std::memory_order_relaxed)) < phase.units;) {
    phase.work(unit);
    phase.done.fetch_add(1, std::memory_order_release);
  }
  for (int turn = 0; phase.done.load(std::memory_order_acquire) < phase.units; ++turn)
    if (turn > 2000) std::this_thread::yield();
}

// schedule(task) hands a task to another thread, now or later; helpers: how many are asked for.
template <typename Schedule>
void run(const std::shared_ptr<Phases>& phases, std::size_t helpers, Schedule schedule) {
  for (std::size_t i = 0; i < helpers; ++i)
    schedule([phases] {
      work_on(phases->first);
      work_on(phases->second);
    });
  work_on(phases->first);
  work_on(phases->second);
}

}  // namespace xtc
