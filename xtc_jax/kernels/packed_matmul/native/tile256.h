// The tile of registers of 32 bytes: tokens by one unpacked plane, the sums of its 16 outputs in two registers each. Included by
// the files of those instruction sets, after "planes.h".
#pragma once
#include "planes.h"

namespace xtc {
namespace {

// Products::add(low, high, first, second, four) adds the products of a token's four codes with a step to sums of any width;
// Products::widened(sums): in 32 bits.
template <typename Products, int ROWS>
__attribute__((noinline)) void tile(const std::int8_t* x, std::size_t stride, const std::uint8_t* codes,
                                    std::size_t steps, std::int32_t* sums) {
  __m256i low[ROWS], high[ROWS];
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) low[r] = high[r] = _mm256_setzero_si256();
  for (std::size_t s = 0; s < steps; ++s) {
    const __m256i first = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes + s * kStep));
    const __m256i second = _mm256_load_si256(reinterpret_cast<const __m256i*>(codes + s * kStep + 32));
#pragma GCC unroll 6
    for (int r = 0; r < ROWS; ++r) Products::add(low[r], high[r], first, second, x + r * stride + 4 * s);
  }
#pragma GCC unroll 6
  for (int r = 0; r < ROWS; ++r) {
    __m256i* to = reinterpret_cast<__m256i*>(sums + r * kLanes);
    _mm256_storeu_si256(to, _mm256_add_epi32(_mm256_loadu_si256(to), Products::widened(low[r])));
    _mm256_storeu_si256(to + 1, _mm256_add_epi32(_mm256_loadu_si256(to + 1), Products::widened(high[r])));
  }
}

template <typename Products>
const Tile kTiles[] = {tile<Products, 1>, tile<Products, 2>, tile<Products, 3>,
                       tile<Products, 4>, tile<Products, 5>, tile<Products, 6>};

}  // namespace
}  // namespace xtc
