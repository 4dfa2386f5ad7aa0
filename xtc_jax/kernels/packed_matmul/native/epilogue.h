// What follows the sums of a token: epilogue() of reference.py as XLA:CPU compiles it, to the bit. See lanes.h.
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

template <int ACTIVATION>
XTC_INLINE floats activated(floats y) {
  if (ACTIVATION == kGelu) return gelu(y);
  return ACTIVATION == kRelu ? choose(y < all(0.0f), floats{}, y) : y;
}

// Outputs of a token from column on, count of them (kWidth divides it), from their sums of codes.
template <int ACTIVATION>
void finish_with(const Problem& p, std::size_t column, std::size_t row, const std::int32_t* lanes, std::size_t count) {
  const floats token = all(p.x.scale[row]), common = token * all(*p.w.scale);
  const integers total = all(p.x.sum[row]);
  const float *scale = p.w.scale + column, *bias = p.w.bias ? p.w.bias + column : nullptr;
  float* out = p.out + row * p.w.n + column;
  for (std::size_t i = 0; i < count; i += kWidth) {
    const integers sums = load(lanes + i);
    const floats each = as_floats((p.w.bits == 1 ? sums + sums : sums) - total);
    const floats by = p.w.scales == 1 ? common : token * load(scale + i);
    store(out + i, activated<ACTIVATION>(bias ? fma(each, by, load(bias + i)) : each * by));
  }
}

void finish_sums(const Problem& p, std::size_t column, std::size_t row, const std::int32_t* lanes, std::size_t count) {
  std::int32_t* out = p.sums + row * p.w.n + column;
  for (std::size_t i = 0; i < count; i += kWidth) {
    const integers sums = load(lanes + i);
    store(out + i, (p.w.bits == 1 ? sums + sums : sums) - all(p.x.sum[row]));
  }
}

void finish_all(const Problem& p, std::size_t column, std::size_t row, const std::int32_t* lanes, std::size_t count) {
  if (p.sums) return finish_sums(p, column, row, lanes, count);
  const auto with = p.activation == kGelu ? finish_with<kGelu> : p.activation == kRelu ? finish_with<kRelu> : finish_with<kNone>;
  with(p, column, row, lanes, count);
}

// What is left of a row where fewer than sixteen outputs are: as sixteen, elsewhere.
void finish_some(const Problem& p, std::size_t column, std::size_t row, const std::int32_t* lanes, std::size_t count) {
  float scale[kLanes] = {}, bias[kLanes] = {}, out[kLanes], token = p.sums ? 0.0f : p.x.scale[row];
  std::int32_t sums[kLanes], sum = p.x.sum[row];
  if (!p.sums) std::memcpy(scale, p.w.scales > 1 ? p.w.scale + column : p.w.scale, (p.w.scales > 1 ? count : 1) * sizeof(float));
  if (p.w.bias) std::memcpy(bias, p.w.bias + column, count * sizeof(float));
  const Weight w{nullptr, scale, p.w.scales > 1 ? kLanes : 1, p.w.bias ? bias : nullptr, kLanes, p.w.k, p.w.bits};
  finish_all({{nullptr, &sum, &token, 0}, w, p.activation, p.sums ? sums : nullptr, p.sums ? nullptr : out}, 0, 0, lanes, kLanes);
  const std::size_t at = row * p.w.n + column;
  p.sums ? std::memcpy(p.sums + at, sums, count * sizeof(std::int32_t)) : std::memcpy(p.out + at, out, count * sizeof(float));
}

// Outputs of a token from column on, as many as there are sums of codes (kLanes divides count), or as the matrix has.
void finish(const Problem& p, std::size_t column, std::size_t row, const std::int32_t* lanes, std::size_t count) {
  if (column >= p.w.n) return;
  const std::size_t left = p.w.n - column < count ? p.w.n - column : count, full = left / kLanes * kLanes;
  if (full) finish_all(p, column, row, lanes, full);
  if (full < left) finish_some(p, column + full, row, lanes + full, left - full);
}

}  // namespace
}  // namespace xtc
