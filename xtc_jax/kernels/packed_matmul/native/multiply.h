// Products of the same tokens with one or more matrices, in units, and the call that makes one product.
#pragma once
#include <algorithm>
#include <cstring>

#include "packed.h"
#include "schedule.h"

namespace xtc {

constexpr std::size_t kRowsAtOnce = 4;  // a unit of what is done to tokens one at a time

inline std::size_t row_units(std::size_t rows) { return (rows + kRowsAtOnce - 1) / kRowsAtOnce; }

// Calls act(row) for the rows of a unit.
template <typename Act>
void rows_of(std::size_t unit, std::size_t rows, Act act) {
  for (std::size_t row = unit * kRowsAtOnce; row < rows && row < (unit + 1) * kRowsAtOnce; ++row) act(row);
}

// How the product of some tokens with a matrix is divided: by groups, by planes of a group where there would be few units for
// many threads (a thread that is held up delays all by a unit), and by tokens.
struct Division {
  std::size_t groups, planes, splits, rows, blocks;
  Division(const Weight& w, std::size_t m, std::size_t threads)
      : groups(w.groups()), planes(w.planes()), splits(1), rows(m), blocks((m + kRowsPerUnit - 1) / kRowsPerUnit) {
    const std::size_t fewest = m <= 3 ? 8 : m <= 6 ? 4 : 2;  // planes that a tile of so few tokens needs (avx512vnni.cpp)
    while (planes / splits > fewest && threads > 1 && units() < 8 * threads) splits *= 2;
  }
  std::size_t units() const { return groups * splits * blocks; }
  Part part(std::size_t unit) const {
    const std::size_t block = unit % blocks, split = unit / blocks % splits, each = planes / splits;
    return {unit / blocks / splits, split * each, (split + 1) * each, rows * block / blocks, rows * (block + 1) / blocks};
  }
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
};

template <typename Schedule>
void multiply(const Call& call, std::size_t threads, Schedule schedule) {
  if (call.m == 0) return;
  const std::size_t k = call.weight.k, width = 4 * call.weight.k4();
  std::unique_ptr<std::int8_t[]> codes(new std::int8_t[call.m * width + 1]);
  std::unique_ptr<std::int32_t[]> sums(new std::int32_t[call.m]);
  const Tokens tokens{codes.get(), sums.get(), call.scale, width};
  const Problem problem{tokens, call.weight, call.activation, call.sums, call.out};
  const Kernels& isa = kernels(call.isa);
  const Division division(call.weight, call.m, threads);
  auto steps = std::make_shared<Steps>(std::vector<std::size_t>{row_units(call.m), division.units()});
  steps->work = [&](std::size_t step, std::size_t unit) {
    if (step) return isa.product(problem, division.part(unit));
    rows_of(unit, call.m, [&](std::size_t row) {
      call.floats ? isa.quantize_row(call.floats + row * k, k, tokens, row) : copy_row(call.codes + row * k, k, tokens, row);
    });
  };
  const std::size_t most = std::max(steps->units[0], steps->units[1]);
  run(steps, std::min(threads, most) - (threads && most ? 1 : 0), schedule);
}

}  // namespace xtc
