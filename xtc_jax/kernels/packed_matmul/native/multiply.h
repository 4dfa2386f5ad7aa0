// Products of the same tokens with one or more matrices, in units, and the call that makes one product.
#pragma once
#include <algorithm>
#include <cstring>

#include "fresh.h"
#include "schedule.h"

namespace xtc {

constexpr std::size_t kRowsAtOnce = 4;  // a unit of what is done to tokens one at a time

inline std::size_t row_units(std::size_t rows) { return (rows + kRowsAtOnce - 1) / kRowsAtOnce; }

// Calls act(row) for the rows of a unit.
template <typename Act>
void rows_of(std::size_t unit, std::size_t rows, Act act) {
  for (std::size_t row = unit * kRowsAtOnce; row < rows && row < (unit + 1) * kRowsAtOnce; ++row) act(row);
}

// Blocks of at most most tokens, as many for each thread.
inline std::size_t even_blocks(std::size_t m, std::size_t threads, std::size_t most) {
  const std::size_t fewest = (m + most - 1) / most;
  return fewest < threads ? fewest : std::min(m, (fewest + threads - 1) / threads * threads);
}

// How the product of some tokens with a matrix is divided. Where a worker prepares tokens: by tokens, and by groups where there
// would be too few parts. Else by groups, by planes of a group where there would be few parts for many threads (a thread that is
// held up delays all by a part), and by tokens.
class Division {
 public:
  Division(const Weight& w, std::size_t m, std::size_t threads, const Kernels& isa)
      : groups_(w.groups()), planes_(w.planes()), rows_(m), blocks_((m + isa.most_rows - 1) / isa.most_rows) {
    if (isa.scratch(1)) {
      blocks_ = even_blocks(m, threads, isa.most_rows);
      each_ = blocks_ < threads ? std::max<std::size_t>(1, groups_ * blocks_ / (2 * threads)) : std::max<std::size_t>(1, groups_);
      ranges_ = (groups_ + each_ - 1) / each_;
      return;
    }
    ranges_ = groups_;
    const std::size_t fewest = m <= 3 ? 8 : m <= 6 ? 4 : 2;  // planes that a tile of so few tokens needs (avx512vnni.cpp)
    while (planes_ / splits_ > fewest && threads > 1 && units() < 8 * threads) splits_ *= 2;
  }
  std::size_t units() const { return ranges_ * splits_ * blocks_; }
  Part part(std::size_t unit) const {
    const std::size_t block = unit % blocks_, split = unit / blocks_ % splits_, range = unit / blocks_ / splits_;
    const std::size_t planes = planes_ / splits_;
    return {range * each_, std::min(groups_, (range + 1) * each_), split * planes, (split + 1) * planes,
            rows_ * block / blocks_, rows_ * (block + 1) / blocks_};
  }

 private:
  std::size_t groups_, planes_, rows_, blocks_, ranges_ = 1, each_ = 1, splits_ = 1;
};

// What the workers of a call write on, each for itself.
class Scratch {
 public:
  Scratch(std::size_t workers, std::size_t bytes)
      : each_((bytes + kStep - 1) / kStep * kStep), memory_(new std::uint8_t[workers * each_ + kStep]) {}
  std::uint8_t* of(std::size_t worker) const {
    const std::size_t past = reinterpret_cast<std::uintptr_t>(memory_.get()) % kStep;
    return memory_.get() + (kStep - past) % kStep + worker * each_;
  }

 private:
  std::size_t each_;
  std::unique_ptr<std::uint8_t[]> memory_;
};

inline void copy_row(const std::int8_t* x, std::size_t k, const Tokens& to, std::size_t row) {
  std::int32_t total = 0;
  for (std::size_t i = 0; i < k; ++i) total += x[i];
  std::int8_t* codes = to.codes + row * to.width;
  if (k) std::memcpy(codes, x, k);
  if (to.width > k) std::memset(codes + k, 0, to.width - k);
  to.sum[row] = total;
}

// One product: of floats (m, k), which are quantized, or of codes (m, k), whose scales are given or not needed.
struct Call {
  const float* floats;       // or null
  const std::int8_t* codes;  // or null
  std::size_t m;
  Isa isa;
  float* scale;  // (m,), written where floats are given
  Weight weight;
  Activation activation;
  std::int32_t* sums;  // (m, n), or null
  float* out;          // (m, n), or null
  Fresh fresh;         // the weight, where it has no codes yet
};

template <typename Schedule>
void multiply(const Call& call, std::size_t threads, Schedule schedule) {
  if (call.m == 0) return;
  const std::size_t k = call.weight.k, width = padded_width(k);
  std::unique_ptr<std::int8_t[]> codes(new std::int8_t[call.m * width + 1]);
  std::unique_ptr<std::int32_t[]> sums(new std::int32_t[call.m]);
  const Tokens tokens{codes.get(), sums.get(), call.scale, width};
  Weight weight = call.weight;
  const std::size_t groups = call.fresh.values ? weight.groups() : 0;  // to be packed
  const Scratch packed(1, groups * packed_steps(weight, call.fresh.words) * kStep);
  if (call.fresh.values) weight.codes = packed.of(0);
  const Problem problem{tokens, weight, call.activation, call.sums, call.out};
  const Kernels& isa = kernels(call.isa);
  const Division division(weight, call.m, threads, isa);
  const Scratch scratch(threads, isa.scratch(k));
  auto steps = std::make_shared<Steps>(std::vector<std::size_t>{groups + row_units(call.m), division.units()});
  steps->work = [&](std::size_t step, std::size_t unit, std::size_t worker) {
    if (step) {
      const Part part = division.part(unit);
      isa.prepare(tokens, part.first_row, part.last_row, scratch.of(worker));
      return isa.product(problem, part, scratch.of(worker));
    }
    if (unit < groups) return pack_group(call.fresh, weight, unit, packed.of(0));
    rows_of(unit - groups, call.m, [&](std::size_t row) {
      call.floats ? isa.quantize_row(call.floats + row * k, k, tokens, row) : copy_row(call.codes + row * k, k, tokens, row);
    });
  };
  const std::size_t most = std::max(steps->units[0], steps->units[1]);
  run(steps, most ? std::min(threads, most) - 1 : 0, schedule);
}

}  // namespace xtc
