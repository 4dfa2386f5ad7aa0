// int8 tokens times packed 1- and 2-bit weights: what the files of this folder share.
//
// Layout of the weights: (groups, k4, 64) bytes. A group is 16 * P outputs, P = 8 / bits planes. In step s, byte 4 * i + kk,
// bits bits * j upwards, is the code of output group * 16 * P + 16 * j + i at k = 4 * s + kk. What is padded has code 0.
#pragma once
#include <cstddef>
#include <cstdint>

namespace xtc {

constexpr std::size_t kLanes = 16;       // outputs of a plane
constexpr std::size_t kStep = 64;        // bytes of a step: 16 outputs, 4 k each
constexpr std::size_t kRowsPerUnit = 96; // tokens that one thread takes with a group: their codes stay in the L2 cache

enum Isa : int { kPortable = 0, kAvx2 = 1, kAvx512Vnni = 2 };

struct Problem {
  const std::int8_t* x;         // (m, 4 * k4), zeros beyond k
  const std::int32_t* row_sum;  // (m,), of x
  const std::uint8_t* weights;  // (groups, k4, 64)
  std::int32_t* out;            // (m, n)
  std::size_t m, n, k4;
  int bits;
  std::size_t planes() const { return 8 / bits; }
  std::size_t group_width() const { return kLanes * planes(); }
  std::size_t groups() const { return (n + group_width() - 1) / group_width(); }
};

// Writes out[first_row .. last_row) for the outputs of one group.
using Product = void (*)(const Problem&, std::size_t group, std::size_t first_row, std::size_t last_row);

void product_portable(const Problem&, std::size_t, std::size_t, std::size_t);
void product_avx2(const Problem&, std::size_t, std::size_t, std::size_t);
void product_avx512vnni(const Problem&, std::size_t, std::size_t, std::size_t);

// One token: codes (padded to width with zeros), their sum, and the scale. See quantize.cpp.
void quantize_row(Isa isa, const float* x, std::size_t k, std::size_t width, std::int8_t* codes, std::int32_t* sum, float* scale);

// The best that this processor has.
Isa best_isa();

// One plane of one row, from sums of codes: a code c stands for 2c - 1 (1 bit) or c - 1 (2 bits).
inline void store_plane(const Problem& p, std::size_t group, std::size_t plane, std::size_t row, const std::int32_t* sums) {
  const std::size_t column = group * p.group_width() + plane * kLanes;
  if (column >= p.n) return;
  const std::size_t count = p.n - column < kLanes ? p.n - column : kLanes;
  const std::int32_t factor = p.bits == 1 ? 2 : 1, less = p.row_sum[row];
  std::int32_t* out = p.out + row * p.n + column;
  for (std::size_t i = 0; i < count; ++i) out[i] = factor * sums[i] - less;
}

}  // namespace xtc
