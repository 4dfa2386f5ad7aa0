// The product with vpdpbusd on 512-bit registers.
//
// Unpacking is one AND: a plane stays where it lies in its byte, so that its accumulator holds the sum times 2^(bits * plane),
// and is shifted right, without a remainder, at the end. 128 * 128 * K fits int32 below K = 2^17.
#include "packed.h"
#if defined(__x86_64__)
#include <immintrin.h>

#include <cstring>
#define XTC_TARGET __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))

namespace xtc {
namespace {

// ROWS tokens by PLANES planes from first_plane on. Inline assembly: GCC 12 spills the accumulators of the intrinsic.
template <int ROWS, int PLANES>
__attribute__((noinline)) XTC_TARGET void tile(const Problem& p, std::size_t group, std::size_t first_row, int first_plane) {
  const std::size_t stride = p.k4 * 4;
  const std::int8_t* x = p.x + first_row * stride;
  const std::uint8_t* weights = p.weights + group * p.k4 * kStep;
  __m512i sums[ROWS][PLANES], masks[PLANES];
#pragma GCC unroll 8
  for (int j = 0; j < PLANES; ++j)
    masks[j] = _mm512_set1_epi8(static_cast<char>(((1 << p.bits) - 1) << (p.bits * (first_plane + j))));
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < PLANES; ++j) sums[r][j] = _mm512_setzero_si512();
  for (std::size_t s = 0; s < p.k4; ++s) {
    const __m512i bytes = _mm512_loadu_si512(weights + s * kStep);
    __m512i codes[PLANES];
#pragma GCC unroll 8
    for (int j = 0; j < PLANES; ++j) codes[j] = _mm512_and_si512(bytes, masks[j]);
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) {
      std::int32_t four;
      std::memcpy(&four, x + r * stride + 4 * s, 4);
      const __m512i token = _mm512_set1_epi32(four);
#pragma GCC unroll 8
      for (int j = 0; j < PLANES; ++j) asm("vpdpbusd %2, %1, %0" : "+v"(sums[r][j]) : "v"(codes[j]), "v"(token));
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < PLANES; ++j) {
      alignas(64) std::int32_t lanes[kLanes];
      const __m128i shift = _mm_cvtsi32_si128(p.bits * (first_plane + j));
      _mm512_store_si512(lanes, _mm512_sra_epi32(sums[r][j], shift));
      store_plane(p, group, first_plane + j, first_row + r, lanes);
    }
}

using Tile = void (*)(const Problem&, std::size_t, std::size_t, int);
constexpr std::size_t kMaxRows = 12;  // by 2 planes: 24 of 32 registers are accumulators
const Tile kTwoPlanes[] = {tile<7, 2>, tile<8, 2>, tile<9, 2>, tile<10, 2>, tile<11, 2>, tile<12, 2>};
const Tile kFourPlanes[] = {tile<1, 4>, tile<2, 4>, tile<3, 4>, tile<4, 4>, tile<5, 4>, tile<6, 4>};
const Tile kEightPlanes[] = {tile<1, 8>, tile<2, 8>, tile<3, 8>};

void rows(const Problem& p, std::size_t group, std::size_t row, std::size_t count) {
  const int planes = static_cast<int>(p.planes());
  const bool eight = planes == 8 && count <= 3;
  const int step = eight ? 8 : count <= 6 ? 4 : 2;
  const Tile function = eight ? kEightPlanes[count - 1] : count <= 6 ? kFourPlanes[count - 1] : kTwoPlanes[count - 7];
  for (int plane = 0; plane < planes; plane += step)
    if (group * p.group_width() + plane * kLanes < p.n) function(p, group, row, plane);
}

}  // namespace

void product_avx512vnni(const Problem& p, std::size_t group, std::size_t first_row, std::size_t last_row) {
  const std::size_t total = last_row - first_row, blocks = (total + kMaxRows - 1) / kMaxRows;
  for (std::size_t b = 0; b < blocks; ++b) {  // nearly equal blocks
    const std::size_t from = total * b / blocks, to = total * (b + 1) / blocks;
    rows(p, group, first_row + from, to - from);
  }
}

}  // namespace xtc
#else
namespace xtc {
void product_avx512vnni(const Problem& p, std::size_t g, std::size_t a, std::size_t b) { product_portable(p, g, a, b); }
}  // namespace xtc
#endif
