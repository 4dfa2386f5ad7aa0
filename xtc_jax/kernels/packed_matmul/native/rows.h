// What is done to a token at a time: quantization, and LayerNorm. See lanes.h for how it is included.
#pragma once
#include "lanes.h"

namespace xtc {
namespace {

constexpr std::int32_t kAbs = 0x7fffffff, kInfinity = 0x7f800000, kSmallest = 0x00800000;
constexpr float kLargest = FLT_MAX / 1024;  // what an infinity counts as
constexpr float kRound = 12582912.0f;       // 1.5 * 2^23: a sum with it is rounded to a whole number, half to even

XTC_INLINE integers codes_of(floats x, floats inverse) {
  const integers bits = bits_of(x) & all(kAbs);
  const floats value = choose((bits < all(kSmallest)) | (all(kInfinity) < bits), floats{}, x);
  const floats clipped = smaller(larger(value * inverse, all(-128.0f)), all(127.0f));
  return whole((clipped + all(kRound)) - all(kRound));
}

// The largest of a row without its signs, as bits: the order of floats, and NaN above infinity.
std::int32_t largest_of(const float* x, std::size_t k) {
  integers largest[4] = {};
  const std::size_t full = k / (4 * kWidth) * (4 * kWidth);
  for (std::size_t i = 0; i < full; i += 4 * kWidth)
    for (std::size_t j = 0; j < 4; ++j) largest[j] = larger(bits_of(load(x + i + j * kWidth)) & all(kAbs), largest[j]);
  for (std::size_t i = full; i < k; i += kWidth)
    largest[0] = larger(bits_of(k - i < kWidth ? load_some(x + i, k - i) : load(x + i)) & all(kAbs), largest[0]);
  std::int32_t lanes[kWidth], top = 0;
  store(lanes, larger(larger(largest[0], largest[1]), larger(largest[2], largest[3])));
  for (std::size_t i = 0; i < kWidth; ++i) top = lanes[i] > top ? lanes[i] : top;
  return top;
}

// quantize_tokens of reference.py as XLA:CPU compiles it: a multiplication by the reciprocal of the scale, subnormal numbers
// taken for 0, a NaN for code 0 (its row has scale NaN, and is divided by 1).
void quantize_row(const float* x, std::size_t k, const Tokens& to, std::size_t row) {
  const std::int32_t top = largest_of(x, k);
  float most;
  std::memcpy(&most, &top, 4);
  const bool nan = top > kInfinity;
  float step = (most < kLargest ? most : kLargest) / 128;
  if (step < FLT_MIN) step = 0;
  to.scale[row] = nan ? most : step;
  const floats inverse = all(nan || step == 0 ? 1.0f : 1.0f / step);
  std::int8_t* codes = to.codes + row * to.width;
  integers total = {};
  std::size_t i = 0;
  if (!nan && most < kLargest && step > 4 * FLT_MIN)  // nothing to look for: what is subnormal is rounded to 0 as it is
    for (; i + 4 * kWidth <= k; i += 4 * kWidth) {
      floats each[4];
      for (std::size_t j = 0; j < 4; ++j) each[j] = load(x + i + j * kWidth) * inverse;
      store_rounded(codes + i, each, total);
    }
  for (; i < k; i += kWidth) {
    const std::size_t count = k - i < kWidth ? k - i : kWidth;
    const integers each = codes_of(count < kWidth ? load_some(x + i, count) : load(x + i), inverse);
    store_bytes(codes + i, each, count);
    total = total + each;
  }
  if (k < to.width) std::memset(codes + k, 0, to.width - k);
  std::int32_t lanes[kWidth];
  store(lanes, total);
  to.sum[row] = 0;
  for (std::size_t lane = 0; lane < kWidth; ++lane) to.sum[row] += lanes[lane];
}

void norm_row(const float* x, const float* residual, const float* weight, const float* bias, float eps, std::size_t k,
              float* out) {
  floats total = {}, more = {}, squares = {}, rest = {};
  const auto add = [=](std::size_t i) {
    const floats each = load(x + i) + load(residual + i);
    store(out + i, each);
    return each;
  };
  const std::size_t even = k / (2 * kWidth) * (2 * kWidth);
  for (std::size_t i = 0; i < even; i += 2 * kWidth) total += add(i), more += add(i + kWidth);
  if (even < k) total += add(even);
  const floats mean = all(sum(total + more) / static_cast<float>(k));
  const auto apart = [=](std::size_t i) { return load(out + i) - mean; };
  for (std::size_t i = 0; i < even; i += 2 * kWidth) {
    squares = fma(apart(i), apart(i), squares);
    rest = fma(apart(i + kWidth), apart(i + kWidth), rest);
  }
  if (even < k) squares = fma(apart(even), apart(even), squares);
  const floats inverse = all(1.0f / std::sqrt(sum(squares + rest) / static_cast<float>(k) + eps));
  for (std::size_t i = 0; i < k; i += kWidth) store(out + i, fma(apart(i) * inverse, load(weight + i), load(bias + i)));
}

}  // namespace
}  // namespace xtc
