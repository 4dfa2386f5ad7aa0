// The product with vpdpbusd on 512-bit registers.
//
// Unpacking is one AND: a plane stays where it lies in its byte, so that its accumulator holds the sum times 2^(bits * plane),
// and is shifted right, without a remainder, at the end. 128 * 128 * K fits int32 below K = 2^17.
#include "packed.h"
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,avx512f,avx512bw,avx512vl,avx512vnni")
#define XTC_REGISTER 64
#include "attention.h"
#include "epilogue.h"
#include "lookup.h"
#include "rows.h"

namespace xtc {
namespace {

// ROWS tokens by PLANES planes from first_plane on. Inline assembly: GCC 12 spills the accumulators of the intrinsic.
template <int ROWS, int PLANES>
__attribute__((noinline)) void tile(const Problem& p, std::size_t group, std::size_t first_row, int first_plane) {
  const std::size_t stride = p.x.width, steps = p.w.k4();
  const std::int8_t* x = p.x.codes + first_row * stride;
  const std::uint8_t* weights = p.w.codes + group * steps * kStep;
  __m512i sums[ROWS][PLANES], masks[PLANES];
#pragma GCC unroll 8
  for (int j = 0; j < PLANES; ++j)
    masks[j] = _mm512_set1_epi8(static_cast<char>(((1 << p.w.bits) - 1) << (p.w.bits * (first_plane + j))));
#pragma GCC unroll 12
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 8
    for (int j = 0; j < PLANES; ++j) sums[r][j] = _mm512_setzero_si512();
  for (std::size_t s = 0; s < steps; ++s) {
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
  alignas(64) std::int32_t lanes[ROWS][PLANES][kLanes];
#pragma GCC unroll 8
  for (int j = 0; j < PLANES; ++j) {
    const __m128i shift = _mm_cvtsi32_si128(p.w.bits * (first_plane + j));
#pragma GCC unroll 12
    for (int r = 0; r < ROWS; ++r) _mm512_store_si512(lanes[r][j], _mm512_sra_epi32(sums[r][j], shift));
  }
  const std::size_t column = group * p.w.group_width() + first_plane * kLanes;
  for (int r = 0; r < ROWS; ++r) finish(p, column, first_row + r, lanes[r][0], PLANES * kLanes);
}

using Tile = void (*)(const Problem&, std::size_t, std::size_t, int);
constexpr std::size_t kMaxRows = 12;  // by 2 planes: 24 of 32 registers are accumulators
const Tile kTwoPlanes[] = {tile<1, 2>, tile<2, 2>, tile<3, 2>, tile<4, 2>,  tile<5, 2>,  tile<6, 2>,
                           tile<7, 2>, tile<8, 2>, tile<9, 2>, tile<10, 2>, tile<11, 2>, tile<12, 2>};
const Tile kFourPlanes[] = {tile<1, 4>, tile<2, 4>, tile<3, 4>, tile<4, 4>, tile<5, 4>, tile<6, 4>};
const Tile kEightPlanes[] = {tile<1, 8>, tile<2, 8>, tile<3, 8>};

void rows(const Problem& p, const Part& part, std::size_t group, std::size_t row, std::size_t count) {
  const std::size_t planes = part.last_plane - part.first_plane;
  const int step = planes == 8 && count <= 3 ? 8 : planes >= 4 && count <= 6 ? 4 : 2;
  const Tile function = (step == 8 ? kEightPlanes : step == 4 ? kFourPlanes : kTwoPlanes)[count - 1];
  for (std::size_t plane = part.first_plane; plane < part.last_plane; plane += step)
    if (group * p.w.group_width() + plane * kLanes < p.w.n) function(p, group, row, static_cast<int>(plane));
}

void product(const Problem& p, const Part& part, const std::uint8_t*) {
  const std::size_t total = part.last_row - part.first_row, blocks = (total + kMaxRows - 1) / kMaxRows;
  for (std::size_t group = part.first_group; group < part.last_group; ++group)
    for (std::size_t b = 0; b < blocks; ++b) {  // nearly equal blocks
      const std::size_t from = total * b / blocks, to = total * (b + 1) / blocks;
      rows(p, part, group, part.first_row + from, to - from);
    }
}

// Weights of 1 bit are looked up, those of 2 bits multiplied.
void look_up_or_multiply(const Problem& p, const Part& part, const std::uint8_t* scratch) {
  p.w.bits == 1 ? look_up(p, part, scratch) : product(p, part, scratch);
}

}  // namespace

const Kernels kernels_avx512vnni = {no_scratch, kRowsPerUnit, kMaxRows, prepare_nothing, product, quantize_row, norm_row, attend};
const Kernels kernels_avx512lut = {tables_size, kLookupRows, kLookupRows, make_tables, look_up_or_multiply, quantize_row, norm_row, attend};

}  // namespace xtc
#endif
