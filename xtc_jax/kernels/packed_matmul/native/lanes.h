// Floats and integers by the registerful. Included by the file of each instruction set after its own "#pragma GCC target" and
// XTC_REGISTER, the bytes of a register: what includes this is compiled once for each. What is done to a number alone means the same to the bit; sums have another order.
#pragma once
#include "packed.h"

namespace xtc {
namespace {

#define XTC_INLINE inline __attribute__((always_inline))
constexpr int kRegister = XTC_REGISTER;  // bytes
constexpr std::size_t kWidth = kRegister / 4;  // numbers in a register; divides kLanes
typedef float floats __attribute__((vector_size(kRegister)));
typedef std::int32_t integers __attribute__((vector_size(kRegister)));

XTC_INLINE floats all(float x) { return x - floats{}; }
XTC_INLINE integers all(std::int32_t x) { return x - integers{}; }
XTC_INLINE integers bits_of(floats a) { return (integers)a; }
XTC_INLINE floats floats_of(integers a) { return (floats)a; }
// By value; towards zero.
XTC_INLINE integers whole(floats a) { return __builtin_convertvector(a, integers); }
XTC_INLINE floats as_floats(integers a) { return __builtin_convertvector(a, floats); }
// Masks come from comparisons: -1 or 0 in every lane.
XTC_INLINE floats choose(integers mask, floats a, floats b) { return mask ? a : b; }
XTC_INLINE integers choose(integers mask, integers a, integers b) { return mask ? a : b; }
// Of two numbers; b where one is NaN.
XTC_INLINE floats smaller(floats a, floats b) { return a < b ? a : b; }
XTC_INLINE floats larger(floats a, floats b) { return a > b ? a : b; }

XTC_INLINE integers larger(integers a, integers b) {
#if XTC_REGISTER == 64
  return (integers)_mm512_max_epi32((__m512i)a, (__m512i)b);
#elif XTC_REGISTER == 32
  return (integers)_mm256_max_epi32((__m256i)a, (__m256i)b);
#else
  return a > b ? a : b;
#endif
}

// a * b + c, rounded once.
XTC_INLINE floats fma(floats a, floats b, floats c) {
#if XTC_REGISTER == 64
  return (floats)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c);
#elif XTC_REGISTER == 32
  return (floats)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c);
#else
  for (std::size_t i = 0; i < kWidth; ++i) c[i] = __builtin_fmaf(a[i], b[i], c[i]);
  return c;
#endif
}

XTC_INLINE floats load(const float* from) {
  floats to;
  std::memcpy(&to, from, sizeof to);
  return to;
}
XTC_INLINE integers load(const std::int32_t* from) {
  integers to;
  std::memcpy(&to, from, sizeof to);
  return to;
}
XTC_INLINE void store(float* to, floats from) { std::memcpy(to, &from, sizeof from); }
XTC_INLINE void store(std::int32_t* to, integers from) { std::memcpy(to, &from, sizeof from); }

// The last numbers of a row, and zeros.
XTC_INLINE floats load_some(const float* from, std::size_t count) {
  float lanes[kWidth] = {};
  std::memcpy(lanes, from, count * sizeof(float));
  return load(lanes);
}

// Whole numbers from -128 to 127 as bytes.
XTC_INLINE void store_bytes(std::int8_t* to, integers from, std::size_t count = kWidth) {
#if XTC_REGISTER == 64
  const __m128i narrow = _mm512_cvtepi32_epi8((__m512i)from);
#elif XTC_REGISTER == 32
  const __m128i low = _mm256_castsi256_si128((__m256i)from), high = _mm256_extracti128_si256((__m256i)from, 1);
  const __m128i words = _mm_packs_epi32(low, high), narrow = _mm_packs_epi16(words, words);
#else
  std::int8_t narrow[kWidth];
  for (std::size_t i = 0; i < kWidth; ++i) narrow[i] = static_cast<std::int8_t>(from[i]);
#endif
  std::memcpy(to, &narrow, count);
}

// Four registers of numbers of at most 2^31 in size, rounded to whole ones, half to even, and to the nearest that a byte holds;
// adds all of them to sums, which lie anywhere in it.
XTC_INLINE void store_rounded(std::int8_t* to, const floats (&x)[4], integers& sums) {
#if XTC_REGISTER == 64
  __m512i each[4];
  for (int i = 0; i < 4; ++i) each[i] = _mm512_cvtps_epi32((__m512)x[i]);
  const __m512i four = _mm512_packs_epi16(_mm512_packs_epi32(each[0], each[1]), _mm512_packs_epi32(each[2], each[3]));
  const __m512i bytes = _mm512_permutexvar_epi32(_mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 2, 6, 10, 14, 3, 7, 11, 15), four);
  const __m512i pairs = _mm512_maddubs_epi16(_mm512_set1_epi8(1), bytes);
  sums += (integers)_mm512_madd_epi16(pairs, _mm512_set1_epi16(1));
  _mm512_storeu_si512(to, bytes);
#elif XTC_REGISTER == 32
  __m256i each[4];
  for (int i = 0; i < 4; ++i) each[i] = _mm256_cvtps_epi32((__m256)x[i]);
  const __m256i four = _mm256_packs_epi16(_mm256_packs_epi32(each[0], each[1]), _mm256_packs_epi32(each[2], each[3]));
  const __m256i bytes = _mm256_permutevar8x32_epi32(four, _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7));
  const __m256i pairs = _mm256_maddubs_epi16(_mm256_set1_epi8(1), bytes);
  sums += (integers)_mm256_madd_epi16(pairs, _mm256_set1_epi16(1));
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), bytes);
#else
  for (int i = 0; i < 4; ++i) {
    const floats shift = all(12582912.0f);  // 1.5 * 2^23: a sum with it is rounded to a whole number
    const integers each = whole(smaller(larger((x[i] + shift) - shift, all(-128.0f)), all(127.0f)));
    store_bytes(to + i * kWidth, each);
    sums += each;
  }
#endif
}

XTC_INLINE float sum(floats x) {
  float lanes[kWidth];
  store(lanes, x);
  for (std::size_t half = kWidth / 2; half; half /= 2)
    for (std::size_t i = 0; i < half; ++i) lanes[i] += lanes[i + half];
  return lanes[0];
}
XTC_INLINE float maximum(floats x) {
  float lanes[kWidth];
  store(lanes, x);
  for (std::size_t half = kWidth / 2; half; half /= 2)
    for (std::size_t i = 0; i < half; ++i) lanes[i] = lanes[i] > lanes[i + half] ? lanes[i] : lanes[i + half];
  return lanes[0];
}

}  // namespace
}  // namespace xtc
