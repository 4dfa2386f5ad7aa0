// The product with vpmaddubsw: a plane of a group is unpacked into a buffer in the L1 cache, and multiplied by up to 6 tokens.
//
// Sums of 16 bits hold 128 steps (1 bit: 2 products of at most 128 each) or 64 (2 bits: at most 256): -32,768 at worst.
#include "packed.h"
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define XTC_REGISTER 32
#include "attention.h"
#include "epilogue.h"
#include "rows.h"

namespace xtc {
namespace {

constexpr std::size_t kMaxSteps = 128;

void unpack(const std::uint8_t* weights, std::size_t steps, int bits, int plane, std::uint8_t* codes) {
  const __m256i mask = _mm256_set1_epi8(static_cast<char>((1 << bits) - 1));
  const __m128i shift = _mm_cvtsi32_si128(bits * plane);
  for (std::size_t at = 0; at < steps * kStep; at += 32) {
    const __m256i bytes = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(weights + at));
    const __m256i plain = _mm256_and_si256(_mm256_srl_epi16(bytes, shift), mask);  // what crosses a byte is masked off
    _mm256_store_si256(reinterpret_cast<__m256i*>(codes + at), plain);
  }
}

// Adds the products of ROWS tokens with one unpacked plane to sums (ROWS, 16). Inline assembly: GCC 12 spills the sums.
template <int ROWS>
__attribute__((noinline)) void tile(const std::int8_t* x, std::size_t stride, const std::uint8_t* codes,
                                    std::size_t steps, std::int32_t* sums) {
  __m256i low[ROWS], high[ROWS];
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) low[r] = high[r] = _mm256_setzero_si256();
  for (std::size_t s = 0; s < steps; ++s) {
    const __m256i first = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes + s * kStep));
    const __m256i second = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes + s * kStep + 32));
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; ++r) {
      __m256i token, product;
      asm("vpbroadcastd %[four], %[token]\n\t"
          "vpmaddubsw %[token], %[first], %[product]\n\tvpmaddubsw %[token], %[second], %[token]\n\t"
          "vpaddw %[product], %[low], %[low]\n\tvpaddw %[token], %[high], %[high]"
          : [low] "+x"(low[r]), [high] "+x"(high[r]), [token] "=&x"(token), [product] "=&x"(product)
          : [first] "x"(first), [second] "x"(second), [four] "m"(*(const std::int32_t*)(x + r * stride + 4 * s)));
    }
  }
  const __m256i ones = _mm256_set1_epi16(1);
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) {
    __m256i* to = reinterpret_cast<__m256i*>(sums + r * kLanes);
    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), _mm256_madd_epi16(low[r], ones)));
    _mm256_storeu_si256(to + 1, _mm256_add_epi32(_mm256_loadu_si256(to + 1), _mm256_madd_epi16(high[r], ones)));
  }
}

using Tile = void (*)(const std::int8_t*, std::size_t, const std::uint8_t*, std::size_t, std::int32_t*);
const Tile kTiles[] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};
constexpr std::size_t kMaxRows = 6;

void product_of_group(const Problem& p, const Part& part, std::size_t group) {
  const std::size_t most = p.w.bits == 1 ? kMaxSteps : kMaxSteps / 2, total = part.last_row - part.first_row;
  const std::size_t blocks = (total + kMaxRows - 1) / kMaxRows, stride = p.x.width, k4 = p.w.k4();
  const std::uint8_t* weights = p.w.codes + group * k4 * kStep;
  alignas(64) std::uint8_t codes[kMaxSteps * kStep];
  alignas(64) std::int32_t sums[kRowsPerUnit * kLanes];
  for (std::size_t plane = part.first_plane; plane < part.last_plane; ++plane) {
    const std::size_t column = group * p.w.group_width() + plane * kLanes;
    if (column >= p.w.n) return;
    std::memset(sums, 0, total * kLanes * sizeof(std::int32_t));
    for (std::size_t from = 0; from < k4; from += most) {
      const std::size_t steps = k4 - from < most ? k4 - from : most;
      unpack(weights + from * kStep, steps, p.w.bits, static_cast<int>(plane), codes);
      for (std::size_t b = 0; b < blocks; ++b) {
        const std::size_t row = total * b / blocks, end = total * (b + 1) / blocks;
        kTiles[end - row - 1](p.x.codes + (part.first_row + row) * stride + 4 * from, stride, codes, steps, sums + row * kLanes);
      }
    }
    for (std::size_t row = 0; row < total; ++row) finish(p, column, part.first_row + row, sums + row * kLanes, kLanes);
  }
}

void product(const Problem& p, const Part& part, const std::uint8_t*) {
  for (std::size_t group = part.first_group; group < part.last_group; ++group) product_of_group(p, part, group);
}

}  // namespace

const Kernels kernels_avx2 = {no_scratch, kRowsPerUnit, 4 * kMaxRows, prepare_nothing, product, quantize_row, norm_row, attend};

}  // namespace xtc
#endif
