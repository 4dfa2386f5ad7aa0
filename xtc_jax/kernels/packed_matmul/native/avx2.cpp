// The product with vpmaddubsw.
//
// Sums of 16 bits hold 128 steps (1 bit: 2 products of at most 128 each) or 64 (2 bits: at most 256): -32,768 at worst.
#include "packed.h"
#if defined(__x86_64__)
#pragma GCC target("avx2,fma")
#define XTC_REGISTER 32
#include "attention.h"
#include "rows.h"
#include "tile256.h"

namespace xtc {
namespace {

struct Products {
  // Inline assembly: GCC 12 spills the sums.
  static XTC_INLINE void add(__m256i& low, __m256i& high, __m256i first, __m256i second, const std::int8_t* four) {
    __m256i token, product;
    asm("vpbroadcastd %[four], %[token]\n\t"
        "vpmaddubsw %[token], %[first], %[product]\n\tvpmaddubsw %[token], %[second], %[token]\n\t"
        "vpaddw %[product], %[low], %[low]\n\tvpaddw %[token], %[high], %[high]"
        : [low] "+x"(low), [high] "+x"(high), [token] "=&x"(token), [product] "=&x"(product)
        : [first] "x"(first), [second] "x"(second), [four] "m"(*(const std::int32_t*)four));
  }
  static XTC_INLINE __m256i widened(__m256i sums) { return _mm256_madd_epi16(sums, _mm256_set1_epi16(1)); }
};

void product(const Problem& p, const Part& part, const std::uint8_t*) {
  product_by_planes(p, part, kTiles<Products>, p.w.bits == 1 ? kMaxSteps : kMaxSteps / 2);
}

}  // namespace

const Kernels kernels_avx2 = {no_scratch, kRowsPerUnit, 4 * std::size(kTiles<Products>), prepare_nothing, product, quantize_row, norm_row, attend};

}  // namespace xtc
#endif
