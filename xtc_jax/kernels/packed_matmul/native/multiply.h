// One call: quantize (or copy) the tokens, then multiply.
#pragma once
#include <cstring>
#include <memory>

#include "packed.h"
#include "schedule.h"

namespace xtc {

struct Call {
  const float* floats;       // (m, k), or null where codes are given
  const std::int8_t* codes;  // (m, k), or null
  const std::uint8_t* weights;
  std::size_t m, k, n;
  int bits;
  Isa isa;
  std::int32_t* out;  // (m, n)
  float* scale;       // (m,), where floats are given
};

inline void copy_row(const std::int8_t* x, std::size_t k, std::size_t width, std::int8_t* codes, std::int32_t* sum) {
  std::int32_t total = 0;
  for (std::size_t i = 0; i < k; ++i) total += x[i];
  if (k) std::memcpy(codes, x, k);
  if (width > k) std::memset(codes + k, 0, width - k);
  *sum = total;
}

template <typename Schedule>
void multiply(const Call& call, std::size_t threads, Schedule schedule) {
  constexpr std::size_t rows_at_once = 4;
  if (call.m == 0) return;
  const std::size_t k4 = (call.k + 3) / 4, width = 4 * k4;
  std::unique_ptr<std::int8_t[]> tokens(new std::int8_t[call.m * width + 1]);
  std::unique_ptr<std::int32_t[]> sums(new std::int32_t[call.m]);
  const Problem problem{tokens.get(), sums.get(), call.weights, call.out, call.m, call.n, k4, call.bits};
  const Product product = call.isa == kAvx512Vnni ? product_avx512vnni : call.isa == kAvx2 ? product_avx2 : product_portable;
  auto phases = std::make_shared<Phases>();
  phases->first.units = (call.m + rows_at_once - 1) / rows_at_once;
  phases->first.work = [&](std::size_t unit) {
    for (std::size_t row = unit * rows_at_once; row < call.m && row < (unit + 1) * rows_at_once; ++row) {
      std::int8_t* to = tokens.get() + row * width;
      if (call.floats)
        quantize_row(call.isa, call.floats + row * call.k, call.k, width, to, &sums[row], call.scale + row);
      else
        copy_row(call.codes + row * call.k, call.k, width, to, &sums[row]);
    }
  };
  const std::size_t blocks = (call.m + kRowsPerUnit - 1) / kRowsPerUnit;
  phases->second.units = problem.groups() * blocks;
  phases->second.work = [&](std::size_t unit) {
    const std::size_t block = unit % blocks;
    product(problem, unit / blocks, call.m * block / blocks, call.m * (block + 1) / blocks);
  };
  const std::size_t most = phases->first.units > phases->second.units ? phases->first.units : phases->second.units;
  run(phases, (threads < most ? threads : most) - (threads && most ? 1 : 0), schedule);
}

}  // namespace xtc
