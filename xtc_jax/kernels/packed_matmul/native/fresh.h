// Packs a matrix that is given as integers, as it is while it trains: a new one in every step.
#pragma once
#include "packed.h"

namespace xtc {

// Integers (n, k), one byte each: -1 and 1 where they are packed in 1 bit, -1 to 2 in 2 bits.
struct Fresh {
  const std::int8_t* values;  // or null
  bool words;                 // packed for look-ups
};

inline std::size_t packed_steps(const Weight& w, bool words) { return words ? 4 * w.k16() : w.k4(); }

// The codes of 4 values, a byte each: 2c - 1 or c - 1 stands for c.
inline std::uint32_t codes_of(const std::int8_t* values, int bits) {
  std::uint32_t four;
  std::memcpy(&four, values, 4);
  return bits == 1 ? (~four >> 7) & 0x01010101u : ((four & 0x03030303u) + 0x01010101u) & 0x03030303u;
}

// One output in the layout of packed.h, of which this has row inner of a group; to: the group, all 0 before its first output.
inline void pack_row(const std::int8_t* values, const Weight& w, std::size_t inner, std::uint8_t* to) {
  const int shift = w.bits * static_cast<int>(inner / kLanes);
  to += 4 * (inner % kLanes);
  const auto add = [&](std::uint32_t codes, std::uint8_t* at) {
    std::uint32_t there;
    std::memcpy(&there, at, 4);
    there |= codes << shift;
    std::memcpy(at, &there, 4);
  };
  std::size_t k = 0;
  for (; k + 4 <= w.k; k += 4, to += kStep) add(codes_of(values + k, w.bits), to);
  if (k == w.k) return;
  std::int8_t rest[4] = {-1, -1, -1, -1};  // code 0 at either width
  std::memcpy(rest, values + k, w.k - k);
  add(codes_of(rest, w.bits), to);
}

// The same for look-ups: words of 16 codes of 1 bit.
inline void pack_row_in_words(const std::int8_t* values, const Weight& w, std::size_t inner, std::uint8_t* to) {
  to += 2 * inner;
  for (std::size_t k = 0; k < w.k; k += kWord, to += 4 * kStep)
    for (std::size_t half = 0; half < 2 && k + 8 * half < w.k; ++half) {
      std::int8_t eight[8] = {-1, -1, -1, -1, -1, -1, -1, -1};
      const std::size_t from = k + 8 * half;
      std::memcpy(eight, values + from, w.k - from < 8 ? w.k - from : 8);
      std::uint64_t signs;
      std::memcpy(&signs, eight, 8);
      signs = (~signs >> 7) & 0x0101010101010101u;  // byte j: the bit of k = from + j, which the product moves to bit 56 + j
      to[half] = static_cast<std::uint8_t>(signs * 0x0102040810204080u >> 56);
    }
}

inline void pack_group(const Fresh& fresh, const Weight& w, std::size_t group, std::uint8_t* codes) {
  const std::size_t size = packed_steps(w, fresh.words) * kStep, width = w.group_width();
  std::uint8_t* to = codes + group * size;
  if (size) std::memset(to, 0, size);
  for (std::size_t inner = 0; inner < width && group * width + inner < w.n; ++inner) {
    const std::int8_t* values = fresh.values + (group * width + inner) * w.k;
    fresh.words ? pack_row_in_words(values, w, inner, to) : pack_row(values, w, inner, to);
  }
}

}  // namespace xtc
