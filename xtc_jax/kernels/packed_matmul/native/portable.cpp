// Plain C++, for any processor; and which instruction sets this one has.
#if defined(__aarch64__) && defined(__linux__)
#include <asm/hwcap.h>
#include <sys/auxv.h>
#endif

#define XTC_REGISTER 16
#include "attention.h"
#include "epilogue.h"
#include "rows.h"

namespace xtc {
namespace {

void product_of_group(const Problem& p, const Part& part, std::size_t group) {
  const std::uint8_t* weights = p.w.codes + group * p.w.k4() * kStep;
  const int mask = (1 << p.w.bits) - 1;
  for (std::size_t row = part.first_row; row < part.last_row; ++row) {
    const std::int8_t* x = p.x.codes + row * p.x.width;
    for (std::size_t plane = part.first_plane; plane < part.last_plane; ++plane) {
      const std::size_t column = group * p.w.group_width() + plane * kLanes;
      if (column >= p.w.n) break;
      const int shift = p.w.bits * static_cast<int>(plane);
      std::int32_t sums[kLanes] = {};
      for (std::size_t s = 0; s < p.w.k4(); ++s) {
        const std::uint8_t* bytes = weights + s * kStep;
        for (std::size_t i = 0; i < kLanes; ++i)
          for (std::size_t kk = 0; kk < 4; ++kk) sums[i] += ((bytes[4 * i + kk] >> shift) & mask) * x[4 * s + kk];
      }
      finish(p, column, row, sums, kLanes);
    }
  }
}

void product(const Problem& p, const Part& part, const std::uint8_t*) {
  for (std::size_t group = part.first_group; group < part.last_group; ++group) product_of_group(p, part, group);
}

}  // namespace

const Kernels kernels_portable = {no_scratch, kRowsPerUnit, 4, prepare_nothing, product, quantize_row, norm_row, attend};

bool runs_here(std::int64_t isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
  if (isa == kAvx2) return avx2;
  if (isa == kAvx512Vnni || isa == kAvx512Lut) return avx512 && __builtin_cpu_supports("avx512vnni");
#endif
#if defined(XTC_HAS_AVXVNNI)
#if defined(XTC_EMULATE_AVXVNNI)
  if (isa == kAvxVnni) return avx2;
#else
  if (isa == kAvxVnni) return avx2 && __builtin_cpu_supports("avxvnni");
#endif
#endif
#if defined(XTC_HAS_NEON)
#if defined(__linux__)
  if (isa == kNeon) return getauxval(AT_HWCAP) & HWCAP_ASIMDDP;
#else
  if (isa == kNeon) return true;
#endif
#endif
  return isa == kPortable;
}

Isa best_isa() {
#if defined(__x86_64__)
  // A look-up, vpermw, costs an AMD processor one cycle for 171 products on average, an Intel one two or more.
  if (runs_here(kAvx512Vnni)) return __builtin_cpu_is("amd") ? kAvx512Lut : kAvx512Vnni;
#endif
  for (const Isa isa : {kAvxVnni, kNeon, kAvx2})
    if (runs_here(isa)) return isa;
  return kPortable;
}

}  // namespace xtc
