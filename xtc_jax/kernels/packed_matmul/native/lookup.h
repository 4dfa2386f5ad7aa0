// The product with weights of 1 bit by look-up: sums of 6, 5 and 5 codes of a token lie ready in tables in the registers, and
// vpermw adds a word of 16 weights to each of 32 outputs in three look-ups. Included by avx512vnni.cpp.
//
// A table has the sums of every subset of its codes, in 16 bits. 128 * 256 fits: sums of 16 words, and are widened then.
#pragma once
#include "epilogue.h"

namespace xtc {
namespace {

constexpr std::size_t kLookupRows = 4;              // tokens at once: by 4 registers of outputs, 16 of 32 registers are sums
constexpr std::size_t kVectors = 4, kOutputs = 32;  // registers of outputs, and outputs of each: a group is 128
constexpr std::size_t kTables = 4 * kStep;          // bytes of the tables of a word: of 64, 32 and 32 sums
constexpr std::size_t kWordsAtOnce = 16;

std::size_t tables_size(std::size_t k) { return kLookupRows * padded_width(k) / kWord * kTables; }

// Numbers 0 to 31 in words, and functions of them.
inline __m512i every(int x) { return _mm512_set1_epi16(static_cast<short>(x)); }
inline __m512i counted() {
  alignas(64) std::int16_t each[kOutputs];
  for (std::size_t i = 0; i < kOutputs; ++i) each[i] = static_cast<std::int16_t>(i);
  return _mm512_load_si512(each);
}
// Where among pairs' sums (four of a pair: none, the first, the second, both) those for bits from shift on of a number are.
inline __m512i entry(int pair, int shift, int mask) {
  return _mm512_add_epi16(_mm512_and_si512(_mm512_srl_epi16(counted(), _mm_cvtsi32_si128(shift)), every(mask)), every(4 * pair));
}

// Tables of the tokens first_row to last_row: (words, rows, 4, 64) bytes.
void make_tables(const Tokens& x, std::size_t first_row, std::size_t last_row, std::uint8_t* to) {
  const __m512i pair_of = _mm512_srli_epi16(counted(), 2);
  const __m512i one = _mm512_and_si512(counted(), every(1)), two = _mm512_and_si512(_mm512_slli_epi16(counted(), 7), every(256));
  const __m512i taken = _mm512_or_si512(one, two);  // bytes: whether the first and the second of a pair are in the sum
  const __m512i a0 = entry(0, 0, 3), a1 = entry(1, 2, 3), a2 = entry(2, 4, 1), a3 = every(4 * 2 + 2);
  const __m512i b0 = entry(3, 0, 3), b1 = entry(4, 2, 3), b2 = entry(5, 4, 1);
  const __m512i c0 = _mm512_add_epi16(_mm512_slli_epi16(one, 1), every(4 * 5)), c1 = entry(6, 1, 3), c2 = entry(7, 3, 3);
  const std::size_t words = x.width / kWord, rows = last_row - first_row;
  for (std::size_t row = 0; row < rows; ++row)
    for (std::size_t s = 0; s < words; ++s) {
      const std::int8_t* from = x.codes + (first_row + row) * x.width + kWord * s;
      const __m512i codes = _mm512_castsi128_si512(_mm_loadu_si128(reinterpret_cast<const __m128i*>(from)));
      const __m512i pairs = _mm512_maddubs_epi16(taken, _mm512_permutexvar_epi16(pair_of, codes));
      const auto sums = [pairs](__m512i i, __m512i j, __m512i k) {
        const __m512i two = _mm512_add_epi16(_mm512_permutexvar_epi16(i, pairs), _mm512_permutexvar_epi16(j, pairs));
        return _mm512_add_epi16(two, _mm512_permutexvar_epi16(k, pairs));
      };
      std::uint8_t* tables = to + (s * rows + row) * kTables;
      const __m512i five = sums(a0, a1, a2);
      _mm512_store_si512(tables, five);
      _mm512_store_si512(tables + kStep, _mm512_add_epi16(five, _mm512_permutexvar_epi16(a3, pairs)));
      _mm512_store_si512(tables + 2 * kStep, sums(b0, b1, b2));
      _mm512_store_si512(tables + 3 * kStep, sums(c0, c1, c2));
    }
}

// Adds the sums found in a table of 64 or of 32. Inline assembly: GCC 12 spills the sums of intrinsics; and where each addition
// follows its look-up at once, a Zen 4 sends additions to the ports of look-ups, and the loop takes 1.2 times as long.
XTC_INLINE void add_found(__m512i (&total)[kVectors], const __m512i (&which)[kVectors], __m512i low, __m512i high) {
  __m512i a = which[0], b = which[1], c = which[2], d = which[3];
  asm("vpermi2w %[high], %[low], %[a]\n\tvpermi2w %[high], %[low], %[b]\n\t"
      "vpermi2w %[high], %[low], %[c]\n\tvpermi2w %[high], %[low], %[d]\n\t"
      "vpaddw %[a], %[ta], %[ta]\n\tvpaddw %[b], %[tb], %[tb]\n\tvpaddw %[c], %[tc], %[tc]\n\tvpaddw %[d], %[td], %[td]"
      : [a] "+v"(a), [b] "+v"(b), [c] "+v"(c), [d] "+v"(d), [ta] "+v"(total[0]), [tb] "+v"(total[1]), [tc] "+v"(total[2]),
        [td] "+v"(total[3])
      : [low] "v"(low), [high] "v"(high));
}
XTC_INLINE void add_found(__m512i (&total)[kVectors], const __m512i (&which)[kVectors], __m512i table) {
  __m512i a, b, c, d;
  asm("vpermw %[table], %[wa], %[a]\n\tvpermw %[table], %[wb], %[b]\n\t"
      "vpermw %[table], %[wc], %[c]\n\tvpermw %[table], %[wd], %[d]\n\t"
      "vpaddw %[a], %[ta], %[ta]\n\tvpaddw %[b], %[tb], %[tb]\n\tvpaddw %[c], %[tc], %[tc]\n\tvpaddw %[d], %[td], %[td]"
      : [a] "=&v"(a), [b] "=&v"(b), [c] "=&v"(c), [d] "=&v"(d), [ta] "+v"(total[0]), [tb] "+v"(total[1]), [tc] "+v"(total[2]),
        [td] "+v"(total[3])
      : [table] "v"(table), [wa] "v"(which[0]), [wb] "v"(which[1]), [wc] "v"(which[2]), [wd] "v"(which[3]));
}

// What a group gives ROWS tokens in some words: to sums (ROWS, 128), or added to them.
template <int ROWS>
__attribute__((noinline)) void look_up_words(const std::uint8_t* weights, const std::uint8_t* tables, std::size_t words,
                                             bool add, std::int32_t* sums) {
  __m512i total[ROWS][kVectors];
#pragma GCC unroll 4
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) total[r][v] = _mm512_setzero_si512();
  for (std::size_t s = 0; s < words; ++s, weights += kVectors * kStep) {
#pragma GCC unroll 3
    for (int field = 0; field < 3; ++field) {
      __m512i which[kVectors];
#pragma GCC unroll 4
      for (std::size_t v = 0; v < kVectors; ++v) {
        which[v] = _mm512_loadu_si512(weights + v * kStep);
        if (field) which[v] = _mm512_srli_epi16(which[v], field == 1 ? 6 : 11);
      }
#pragma GCC unroll 4
      for (int r = 0; r < ROWS; ++r) {
        const std::uint8_t* table = tables + (s * ROWS + r) * kTables;
        const __m512i low = _mm512_load_si512(table + (field ? field + 1 : 0) * kStep);
        const __m512i high = field ? low : _mm512_load_si512(table + kStep);
        field ? add_found(total[r], which, low) : add_found(total[r], which, low, high);
      }
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (std::size_t v = 0; v < kVectors; ++v) {
      std::int32_t* to = sums + (r * kVectors + v) * kOutputs;
      const __m512i low = _mm512_cvtepi16_epi32(_mm512_castsi512_si256(total[r][v]));
      const __m512i high = _mm512_cvtepi16_epi32(_mm512_extracti64x4_epi64(total[r][v], 1));
      _mm512_store_si512(to, add ? _mm512_add_epi32(_mm512_load_si512(to), low) : low);
      _mm512_store_si512(to + kLanes, add ? _mm512_add_epi32(_mm512_load_si512(to + kLanes), high) : high);
    }
}

using LookUp = void (*)(const std::uint8_t*, const std::uint8_t*, std::size_t, bool, std::int32_t*);
const LookUp kLookUps[] = {look_up_words<1>, look_up_words<2>, look_up_words<3>, look_up_words<4>};

// The part of a problem whose tokens, at most kLookupRows, are those of the tables.
void look_up(const Problem& p, const Part& part, const std::uint8_t* tables) {
  const std::size_t rows = part.last_row - part.first_row, words = p.w.k16();
  alignas(64) std::int32_t sums[kLookupRows * kVectors * kOutputs];
  for (std::size_t group = part.first_group; group < part.last_group; ++group) {
    const std::uint8_t* weights = p.w.codes + group * words * kVectors * kStep;
    for (std::size_t s = 0; s < words || s == 0; s += kWordsAtOnce)
      kLookUps[rows - 1](weights + s * kVectors * kStep, tables + s * rows * kTables,
                         words - s < kWordsAtOnce ? words - s : kWordsAtOnce, s > 0, sums);
    for (std::size_t row = 0; row < rows; ++row)
      finish(p, group * p.w.group_width(), part.first_row + row, sums + row * kVectors * kOutputs, kVectors * kOutputs);
  }
}

}  // namespace
}  // namespace xtc
