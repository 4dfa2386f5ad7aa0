// Steps of units, one step after the other, divided among the caller and helpers.
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
#include <vector>

namespace xtc {

struct alignas(64) Counter {
  std::atomic<std::size_t> next{0};
  alignas(64) std::atomic<std::size_t> done{0};
};

struct Steps {
  explicit Steps(std::vector<std::size_t> sizes) : units(std::move(sizes)), counters(new Counter[units.size()]) {}
  const std::vector<std::size_t> units;       // of each step
  const std::unique_ptr<Counter[]> counters;  // of each step
  std::function<void(std::size_t step, std::size_t unit, std::size_t worker)> work;  // workers: the caller, 0, and the helpers
};

inline void pause() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#endif
}

inline void work_on(Steps& steps, std::size_t worker) {
  for (std::size_t step = 0; step < steps.units.size(); ++step) {
    Counter& counter = steps.counters[step];
    const std::size_t units = steps.units[step];
    for (std::size_t unit; (unit = counter.next.fetch_add(1, std::memory_order_relaxed)) < units;) {
      steps.work(step, unit, worker);
      counter.done.fetch_add(1, std::memory_order_release);
    }
    for (int turn = 0; counter.done.load(std::memory_order_acquire) < units; ++turn)
      turn < 2000 ? pause() : std::this_thread::yield();
  }
}

// schedule(task) hands a task to another thread, now or later; helpers: how many are asked for.
template <typename Schedule>
void run(const std::shared_ptr<Steps>& steps, std::size_t helpers, Schedule schedule) {
  for (std::size_t i = 1; i <= helpers; ++i) schedule([steps, i] { work_on(*steps, i); });
  work_on(*steps, 0);
}

}  // namespace xtc
