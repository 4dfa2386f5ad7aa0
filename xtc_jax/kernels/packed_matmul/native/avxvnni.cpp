// The product with vpdpbusd on 256-bit registers: Intel's processors without AVX-512, since 2021.
#include "packed.h"
#if defined(XTC_HAS_AVXVNNI)
#if defined(XTC_EMULATE_AVXVNNI)  // to check all but the instruction, which becomes two others
#pragma GCC target("avx2,fma")
#else
#pragma GCC target("avx2,fma,avxvnni")
#endif
#define XTC_REGISTER 32
#include "attention.h"
#include "planes.h"
#include "rows.h"

namespace xtc {
namespace {

// Inline assembly: GCC 12 spills the sums of the intrinsic, and takes its form of AVX-512 where there is one.
XTC_INLINE void add_products(__m256i& sums, __m256i codes, __m256i token) {
#if defined(XTC_EMULATE_AVXVNNI)
  sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, token), _mm256_set1_epi16(1)));
#else
  asm("%{vex%} vpdpbusd %[token], %[codes], %[sums]" : [sums] "+x"(sums) : [codes] "x"(codes), [token] "x"(token));
#endif
}

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
      std::int32_t four;
      std::memcpy(&four, x + r * stride + 4 * s, 4);
      const __m256i token = _mm256_set1_epi32(four);
      add_products(low[r], first, token);
      add_products(high[r], second, token);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) {
    __m256i* to = reinterpret_cast<__m256i*>(sums + r * kLanes);
    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), low[r]));
    _mm256_storeu_si256(to + 1, _mm256_add_epi32(_mm256_loadu_si256(to + 1), high[r]));
  }
}

const Tile kTiles[] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>, tile<6>};

void product(const Problem& p, const Part& part, const std::uint8_t*) { product_by_planes(p, part, kTiles); }

}  // namespace

const Kernels kernels_avxvnni = {no_scratch, kRowsPerUnit, 4 * std::size(kTiles), prepare_nothing, product, quantize_row, norm_row, attend};

}  // namespace xtc
#endif
