// What follows the sums of a plane: epilogue() of reference.py as XLA:CPU compiles it, to the bit. See lanes.h.
#pragma once
#include "lanes.h"

namespace xtc {
namespace {

constexpr std::int32_t kNotFinite = 0x7f800000;  // as bits; above it is NaN

// x / 2 (1 + erf(x / sqrt(2))), erf as XLA expands it: a ratio of polynomials, +-1 from 3.7439 on.
XTC_INLINE floats gelu(floats x) {
  const floats scaled = x * all(0x1.6a09e6p-1f), edge = all(0x1.df38dp+1f);
  const floats low = choose(scaled < all(-0x1.df38dp+1f), all(-0x1.df38dp+1f), scaled), z = choose(edge < low, edge, low);
  const floats square = z * z;
  floats above = fma(square, all(0x1.e05aa2p-13f), all(0x1.bebb44p-9f));
  above = fma(above, square, all(0x1.a16dd6p-5f));
  above = fma(above, square, all(0x1.7b4e8p-3f));
  above = z * fma(above, square, all(0x1.20dd74p+0f));
  floats below = fma(square, all(-0x1.fa720cp-24f), all(0x1.8b11bep-16f));
  below = fma(below, square, all(0x1.0ada5p-10f));
  below = fma(below, square, all(0x1.cd0fa8p-7f));
  below = fma(below, square, all(0x1.c69842p-4f));
  below = fma(below, square, all(0x1.fd6894p-2f));
  below = fma(below, square, all(1.0f));
  const floats sign = floats_of((bits_of(scaled) & all(INT32_MIN)) | bits_of(all(1.0f)));
  const floats size = floats_of(bits_of(scaled) & all(INT32_MAX));
  const floats erf = choose(bits_of(size) < bits_of(edge), above / below, choose(all(kNotFinite) < bits_of(size), x, sign));
  return (x * all(0.5f)) * (erf + all(1.0f));
}

XTC_INLINE floats finished(const Problem& p, std::size_t row, integers sums, const float* scale, const float* bias) {
  const floats each = as_floats(sums);
  const floats by = all(p.x.scale[row]) * (p.w.scales == 1 ? all(*p.w.scale) : load(scale));
  const floats y = bias ? fma(each, by, load(bias)) : each * by;
  if (p.activation == kGelu) return gelu(y);
  return p.activation == kRelu ? choose(y < all(0.0f), floats{}, y) : y;
}

XTC_INLINE integers plain_sums(const Problem& p, std::size_t row, const std::int32_t* lanes) {
  return (p.w.bits == 1 ? load(lanes) + load(lanes) : load(lanes)) - all(p.x.sum[row]);
}

// What is left of a row where fewer than sixteen outputs are.
void finish_some(const Problem& p, std::size_t column, std::size_t row, const std::int32_t* lanes, std::size_t count) {
  float scale[kLanes] = {}, bias[kLanes] = {}, out[kLanes];
  std::int32_t sums[kLanes];
  if (p.w.scales > 1) std::memcpy(scale, p.w.scale + column, count * sizeof(float));
  if (p.w.bias) std::memcpy(bias, p.w.bias + column, count * sizeof(float));
  for (std::size_t i = 0; i < kLanes; i += kWidth) {
    store(sums + i, plain_sums(p, row, lanes + i));
    if (!p.sums) store(out + i, finished(p, row, load(sums + i), scale + i, p.w.bias ? bias + i : nullptr));
  }
  const std::size_t at = row * p.w.n + column;
  p.sums ? std::memcpy(p.sums + at, sums, count * sizeof(std::int32_t)) : std::memcpy(p.out + at, out, count * sizeof(float));
}

// One plane of one row: sixteen outputs from column on, from their sums of codes.
void finish(const Problem& p, std::size_t column, std::size_t row, const std::int32_t* lanes) {
  if (p.w.n - column < kLanes) return finish_some(p, column, row, lanes, p.w.n - column);
  const std::size_t at = row * p.w.n + column;
  for (std::size_t i = 0; i < kLanes; i += kWidth) {
    const integers sums = plain_sums(p, row, lanes + i);
    if (p.sums)
      store(p.sums + at + i, sums);
    else
      store(p.out + at + i, finished(p, row, sums, p.w.scale + column + i, p.w.bias ? p.w.bias + column + i : nullptr));
  }
}

}  // namespace
}  // namespace xtc
