// The product with vpmaddubsw.
//
// Sums of 16 bits hold 128 steps (1 bit: 2 products of at most 128 each) or 64 (2 bits: at most 256): -32,768 at worst.
#include "packed.h"
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define XTC_REGISTER 32
#include "attention.h"
#include "planes.h"
#include "rows.h"

namespace xtc {
namespace {

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

const Tile kTiles[] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};

void product(const Problem& p, const Part& part, const std::uint8_t*) {
  product_by_planes(p, part, kTiles, p.w.bits == 1 ? kMaxSteps : kMaxSteps / 2);
}

}  // namespace

const Kernels kernels_avx2 = {no_scratch, kRowsPerUnit, 4 * std::size(kTiles), prepare_nothing, product, quantize_row, norm_row, attend};

}  // namespace xtc
#endif
