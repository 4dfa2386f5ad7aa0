// The product where registers are few: a plane of a group is unpacked into a buffer in the L1 cache, and multiplied by a few
// tokens at a time. Included by the files of those instruction sets, after "epilogue.h".
#pragma once
#include "epilogue.h"

namespace xtc {
namespace {

constexpr std::size_t kMaxSteps = 128;  // of the buffer: 8 KiB

// Adds the products of some tokens, rows of x that are stride apart, with codes (steps, 64), aligned, to sums (rows, 16).
using Tile = void (*)(const std::int8_t* x, std::size_t stride, const std::uint8_t* codes, std::size_t steps, std::int32_t* sums);

void unpack(const std::uint8_t* weights, std::size_t steps, int bits, int plane, std::uint8_t* codes) {
  const std::uint64_t mask = ((1 << bits) - 1) * 0x0101010101010101u;
  for (std::size_t at = 0; at < steps * kStep; at += sizeof mask) {
    std::uint64_t bytes;
    std::memcpy(&bytes, weights + at, sizeof bytes);
    bytes = bytes >> (bits * plane) & mask;  // what crosses a byte is masked off
    std::memcpy(codes + at, &bytes, sizeof bytes);
  }
}

// tiles[r]: for r + 1 tokens; most: steps of one call of a tile, at most kMaxSteps.
template <std::size_t ROWS>
void product_of_group(const Problem& p, const Part& part, std::size_t group, const Tile (&tiles)[ROWS], std::size_t most) {
  const std::size_t total = part.last_row - part.first_row, blocks = (total + ROWS - 1) / ROWS;
  const std::size_t stride = p.x.width, k4 = p.w.k4();
  const std::uint8_t* weights = p.w.codes + group * k4 * kStep;
  alignas(64) std::uint8_t codes[kMaxSteps * kStep];
  alignas(64) std::int32_t sums[kRowsPerUnit * kLanes];
  for (std::size_t plane = part.first_plane; plane < part.last_plane; ++plane) {
    const std::size_t column = group * p.w.group_width() + plane * kLanes;
    if (column >= p.w.n) return;
    std::memset(sums, 0, total * kLanes * sizeof(std::int32_t));
    for (std::size_t from = 0; from < k4; from += most) {
      const std::size_t steps = k4 - from < most ? k4 - from : most;
      unpack(weights + from * kStep, steps, p.w.bits, static_cast<int>(plane), codes);
      for (std::size_t b = 0; b < blocks; ++b) {  // nearly equal blocks
        const std::size_t row = total * b / blocks, end = total * (b + 1) / blocks;
        tiles[end - row - 1](p.x.codes + (part.first_row + row) * stride + 4 * from, stride, codes, steps, sums + row * kLanes);
      }
    }
    for (std::size_t row = 0; row < total; ++row) finish(p, column, part.first_row + row, sums + row * kLanes, kLanes);
  }
}

template <std::size_t ROWS>
void product_by_planes(const Problem& p, const Part& part, const Tile (&tiles)[ROWS], std::size_t most = kMaxSteps) {
  for (std::size_t group = part.first_group; group < part.last_group; ++group) product_of_group(p, part, group, tiles, most);
}

}  // namespace
}  // namespace xtc
