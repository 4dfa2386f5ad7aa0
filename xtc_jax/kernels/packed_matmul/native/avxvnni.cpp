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
#include "rows.h"
#include "tile256.h"

namespace xtc {
namespace {

struct Products {
  static XTC_INLINE void add(__m256i& low, __m256i& high, __m256i first, __m256i second, const std::int8_t* four) {
    std::int32_t codes;
    std::memcpy(&codes, four, 4);
    const __m256i token = _mm256_set1_epi32(codes);
    add_one(low, first, token);
    add_one(high, second, token);
  }
  static XTC_INLINE __m256i widened(__m256i sums) { return sums; }

 private:
  // Inline assembly: GCC 12 spills the sums of the intrinsic, and takes its form of AVX-512 where there is one.
  static XTC_INLINE void add_one(__m256i& sums, __m256i codes, __m256i token) {
#if defined(XTC_EMULATE_AVXVNNI)
    sums = _mm256_add_epi32(sums, _mm256_madd_epi16(_mm256_maddubs_epi16(codes, token), _mm256_set1_epi16(1)));
#else
    asm("%{vex%} vpdpbusd %[token], %[codes], %[sums]" : [sums] "+x"(sums) : [codes] "x"(codes), [token] "x"(token));
#endif
  }
};

void product(const Problem& p, const Part& part, const std::uint8_t*) { product_by_planes(p, part, kTiles<Products>); }

}  // namespace

const Kernels kernels_avxvnni = {no_scratch, kRowsPerUnit, 4 * std::size(kTiles<Products>), prepare_nothing, product, quantize_row, norm_row, attend};

}  // namespace xtc
#endif
