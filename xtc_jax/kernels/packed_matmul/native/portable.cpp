// The product in plain C++, for any processor.
#include "packed.h"

namespace xtc {

void product_portable(const Problem& p, std::size_t group, std::size_t first_row, std::size_t last_row) {
  const std::uint8_t* weights = p.weights + group * p.k4 * kStep;
  const int mask = (1 << p.bits) - 1;
  for (std::size_t row = first_row; row < last_row; ++row) {
    const std::int8_t* x = p.x + row * p.k4 * 4;
    for (std::size_t plane = 0; plane < p.planes(); ++plane) {
      const int shift = p.bits * static_cast<int>(plane);
      std::int32_t sums[kLanes] = {};
      for (std::size_t s = 0; s < p.k4; ++s) {
        const std::uint8_t* bytes = weights + s * kStep;
        for (std::size_t i = 0; i < kLanes; ++i)
          for (std::size_t kk = 0; kk < 4; ++kk) sums[i] += ((bytes[4 * i + kk] >> shift) & mask) * x[4 * s + kk];
      }
      store_plane(p, group, plane, row, sums);
    }
  }
}

}  // namespace xtc
