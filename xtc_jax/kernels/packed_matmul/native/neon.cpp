// The product with sdot: Arm processors since 2018.
#include "packed.h"
#if defined(XTC_HAS_NEON)
#if !defined(__clang__)
#pragma GCC target("arch=armv8.2-a+dotprod")
#endif
#define XTC_REGISTER 16
#include "attention.h"
#include "planes.h"
#include "rows.h"

namespace xtc {
namespace {

constexpr int kQuarters = 4;  // registers of a step, of four outputs each

template <int ROWS>
__attribute__((noinline)) void tile(const std::int8_t* x, std::size_t stride, const std::uint8_t* codes,
                                    std::size_t steps, std::int32_t* sums) {
  int32x4_t total[ROWS][kQuarters];
#pragma GCC unroll 5
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int q = 0; q < kQuarters; ++q) total[r][q] = vld1q_s32(sums + r * kLanes + 4 * q);
  for (std::size_t s = 0; s < steps; ++s) {
    int8x16_t four[kQuarters];
#pragma GCC unroll 4
    for (int q = 0; q < kQuarters; ++q) four[q] = vreinterpretq_s8_u8(vld1q_u8(codes + s * kStep + 16 * q));
#pragma GCC unroll 5
    for (int r = 0; r < ROWS; ++r) {
      std::int32_t one;
      std::memcpy(&one, x + r * stride + 4 * s, 4);
      const int8x16_t token = vreinterpretq_s8_s32(vdupq_n_s32(one));
#pragma GCC unroll 4
      for (int q = 0; q < kQuarters; ++q) total[r][q] = vdotq_s32(total[r][q], four[q], token);
    }
  }
#pragma GCC unroll 5
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int q = 0; q < kQuarters; ++q) vst1q_s32(sums + r * kLanes + 4 * q, total[r][q]);
}

const Tile kTiles[] = {tile<1>, tile<2>, tile<3>, tile<4>, tile<5>};  // by 4 registers: 20 of 32 are sums

void product(const Problem& p, const Part& part, const std::uint8_t*) { product_by_planes(p, part, kTiles); }

}  // namespace

const Kernels kernels_neon = {no_scratch, kRowsPerUnit, 4 * std::size(kTiles), prepare_nothing, product, quantize_row, norm_row, attend};

}  // namespace xtc
#endif
