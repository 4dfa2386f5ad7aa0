// Tokens to int8 as quantize_tokens of reference.py, as XLA:CPU compiles it: a multiplication by the reciprocal of the scale,
// subnormal numbers taken for 0, a NaN for code 0 (its row has scale NaN, and is divided by 1).
#include <cfloat>
#include <cmath>
#include <cstring>

#include "packed.h"
#if defined(__x86_64__)
#define XTC_CLONE(isa) __attribute__((target(isa)))
#endif

namespace xtc {
namespace {

constexpr std::uint32_t kAbs = 0x7fffffffu, kInfinity = 0x7f800000u, kSmallest = 0x00800000u;
constexpr float kLargest = FLT_MAX / 1024;  // what an infinity counts as
constexpr float kRound = 12582912.0f;       // 1.5 * 2^23: a sum with it is rounded to a whole number, half to even

inline __attribute__((always_inline)) std::uint32_t bits_of(float value) {
  std::uint32_t bits;
  std::memcpy(&bits, &value, 4);
  return bits;
}

inline __attribute__((always_inline)) std::int32_t code(float value) {
  const float low = value < -128.0f ? -128.0f : value, clipped = low > 127.0f ? 127.0f : low;
  return static_cast<std::int32_t>((clipped + kRound) - kRound);
}

inline __attribute__((always_inline)) void body(const float* x, std::size_t k, std::int8_t* codes, std::int32_t* sum,
                                                float* scale) {
  std::uint32_t largest = 0;  // as bits: the order of floats without a sign, and NaN above infinity
  for (std::size_t i = 0; i < k; ++i) {
    const std::uint32_t bits = bits_of(x[i]) & kAbs;
    largest = bits > largest ? bits : largest;
  }
  float most;
  std::memcpy(&most, &largest, 4);
  const bool nan = largest > kInfinity;
  float step = (most < kLargest ? most : kLargest) / 128;
  if (step < FLT_MIN) step = 0;
  *scale = nan ? most : step;
  const float inverse = nan || step == 0 ? 1.0f : 1.0f / step;
  std::int32_t total = 0;
  for (std::size_t i = 0; i < k; ++i) {
    const std::uint32_t bits = bits_of(x[i]) & kAbs;
    const float value = bits < kSmallest || bits > kInfinity ? 0.0f : x[i];
    const std::int32_t each = code(value * inverse);
    codes[i] = static_cast<std::int8_t>(each);
    total += each;
  }
  *sum = total;
}

void row_portable(const float* x, std::size_t k, std::int8_t* c, std::int32_t* sum, float* scale) { body(x, k, c, sum, scale); }
#if defined(__x86_64__)
XTC_CLONE("avx2") void row_avx2(const float* x, std::size_t k, std::int8_t* c, std::int32_t* sum, float* scale) {
  body(x, k, c, sum, scale);
}
XTC_CLONE("avx512f,avx512bw,avx512vl")
void row_avx512(const float* x, std::size_t k, std::int8_t* c, std::int32_t* sum, float* scale) { body(x, k, c, sum, scale); }
#endif

}  // namespace

void quantize_row(Isa isa, const float* x, std::size_t k, std::size_t width, std::int8_t* codes, std::int32_t* sum,
                  float* scale) {
#if defined(__x86_64__)
  if (isa == kAvx512Vnni)
    row_avx512(x, k, codes, sum, scale);
  else if (isa == kAvx2)
    row_avx2(x, k, codes, sum, scale);
  else
#endif
    row_portable(x, k, codes, sum, scale);
  std::memset(codes + k, 0, width - k);
}

Isa best_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512vnni") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl"))
    return kAvx512Vnni;
  if (__builtin_cpu_supports("avx2")) return kAvx2;
#endif
  return kPortable;
}

}  // namespace xtc
