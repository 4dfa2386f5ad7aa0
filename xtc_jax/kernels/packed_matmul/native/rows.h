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

// quantize_tokens of reference.py as XLA:CPU compiles it: a multiplication by the reciprocal of the scale, subnormal numbers
// taken for 0, a NaN for code 0 (its row has scale NaN, and is divided by 1).
void quantize_row(const float* x, std::size_t k, const Tokens& to, std::size_t row) {
  const std::size_t full = k / kWidth * kWidth;
  integers largest = {};  // as bits: the order of floats without a sign, and NaN above infinity
  for (std::size_t i = 0; i < k; i += kWidth) {
    const integers bits = bits_of(i < full ? load(x + i) : load_some(x + i, k - i)) & all(kAbs);
    largest = choose(largest < bits, bits, largest);
  }
  std::int32_t lanes[kWidth], top = 0;
  store(lanes, largest);
  for (std::size_t i = 0; i < kWidth; ++i) top = lanes[i] > top ? lanes[i] : top;
  float most;
  std::memcpy(&most, &top, 4);
  const bool nan = top > kInfinity;
  float step = (most < kLargest ? most : kLargest) / 128;
  if (step < FLT_MIN) step = 0;
  to.scale[row] = nan ? most : step;
  const floats inverse = all(nan || step == 0 ? 1.0f : 1.0f / step);
  std::int8_t* codes = to.codes + row * to.width;
  integers total = {};
  for (std::size_t i = 0; i < full; i += kWidth) {
    const integers each = codes_of(load(x + i), inverse);
    store_bytes(codes + i, each);
    total = total + each;
  }
  if (full < k) {
    const integers each = codes_of(load_some(x + full, k - full), inverse);
    store_bytes(codes + full, each, k - full);
    total = total + each;
  }
  if (k < to.width) std::memset(codes + k, 0, to.width - k);
  store(lanes, total);
  to.sum[row] = 0;
  for (std::size_t i = 0; i < kWidth; ++i) to.sum[row] += lanes[i];
}

void norm_row(const float* x, const float* residual, const float* weight, const float* bias, float eps, std::size_t k,
              float* out) {
  floats total = {}, squares = {};
  for (std::size_t i = 0; i < k; i += kWidth) {
    const floats each = load(x + i) + load(residual + i);
    store(out + i, each);
    total = total + each;
  }
  const floats mean = all(sum(total) / static_cast<float>(k));
  for (std::size_t i = 0; i < k; i += kWidth) {
    const floats each = load(out + i) - mean;
    squares = fma(each, each, squares);
  }
  const floats inverse = all(1.0f / std::sqrt(sum(squares) / static_cast<float>(k) + eps));
  for (std::size_t i = 0; i < k; i += kWidth)
    store(out + i, fma((load(out + i) - mean) * inverse, load(weight + i), load(bias + i)));
}

}  // namespace
}  // namespace xtc
