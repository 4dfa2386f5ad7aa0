// softmax(q k^T / sqrt(size) + mask) v of one head of one sentence, in float32. See lanes.h for how it is included.
#pragma once
#include "lanes.h"

namespace xtc {
namespace {

constexpr float kMasked = -1e9f;  // added to the scores of padding, as in bert/model.py

// e^x for x <= 0 or NaN; 0 below -87. Cephes' expf: x = n ln 2 + r, a polynomial of r, times 2^n.
XTC_INLINE floats exponential(floats x) {
  const floats shift = all(12582912.0f), n = fma(x, all(0x1.715476p+0f), shift) - shift;
  const floats r = fma(n, all(0x1.bd0106p-13f), fma(n, all(-0x1.63p-1f), x));
  floats y = fma(r, all(1.9875691500e-4f), all(1.3981999507e-3f));
  y = fma(y, r, all(8.3334519073e-3f));
  y = fma(y, r, all(4.1665795894e-2f));
  y = fma(y, r, all(1.6666665459e-1f));
  y = fma(y, r, all(5.0000001201e-1f));
  y = fma(y, r * r, r) + all(1.0f);
  const integers tiny = x < all(-87.0f);
  const integers power = (whole(choose(tiny, floats{}, n)) + all(127)) << 23;
  return choose(tiny, floats{}, y * floats_of(power));
}

// out (ROWS, kWidth * VECTORS) = left (ROWS, depth) right (depth, kWidth * VECTORS); rows are the given numbers of floats apart.
template <int ROWS, int VECTORS>
void small_product(const float* left, std::size_t left_stride, const float* right, std::size_t right_stride, std::size_t depth,
                   float* out, std::size_t out_stride) {
  floats sums[ROWS][VECTORS];
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) sums[r][v] = all(0.0f);
  for (std::size_t i = 0; i < depth; ++i) {
    floats columns[VECTORS];
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) columns[v] = load(right + i * right_stride + kWidth * v);
#pragma GCC unroll 8
    for (int r = 0; r < ROWS; ++r) {
      const floats each = all(left[r * left_stride + i]);
#pragma GCC unroll 4
      for (int v = 0; v < VECTORS; ++v) sums[r][v] = fma(each, columns[v], sums[r][v]);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < ROWS; ++r)
#pragma GCC unroll 4
    for (int v = 0; v < VECTORS; ++v) store(out + r * out_stride + kWidth * v, sums[r][v]);
}

constexpr int kTileRows = kRegister == 64 ? 8 : kRegister == 32 ? 4 : 2;  // accumulators for the registers there are
static_assert(kQueries % kTileRows == 0, "tiles fill a block of queries");

// The same for kQueries rows and any multiple of kWidth columns.
void product_of(const float* left, std::size_t left_stride, const float* right, std::size_t right_stride, std::size_t depth,
                std::size_t columns, float* out, std::size_t out_stride) {
  for (std::size_t row = 0; row < kQueries; row += kTileRows) {
    const float* from = left + row * left_stride;
    float* to = out + row * out_stride;
    std::size_t column = 0;
    for (; column + 2 * kWidth <= columns; column += 2 * kWidth)
      small_product<kTileRows, 2>(from, left_stride, right + column, right_stride, depth, to + column, out_stride);
    if (column < columns)
      small_product<kTileRows, 1>(from, left_stride, right + column, right_stride, depth, to + column, out_stride);
  }
}

// Scores of one query to exponentials; returns one over their sum.
float softmax_row(float* scores, const float* mask, std::size_t width) {
  floats top = all(-INFINITY), total = {};
  for (std::size_t j = 0; j < width; j += kWidth) {
    const floats each = load(scores + j) + load(mask + j);
    store(scores + j, each);
    top = larger(each, top);
  }
  const floats most = all(maximum(top));
  for (std::size_t j = 0; j < width; j += kWidth) {
    const floats each = exponential(load(scores + j) - most);
    store(scores + j, each);
    total = total + each;
  }
  return 1.0f / sum(total);
}

void attend(const Head& h) {
  const std::size_t width = padded(h.length);
  float *keys = h.scratch, *scores = keys + width * h.size, *mask = scores + kQueries * width, *queries = mask + width;
  for (std::size_t i = 0; i < h.size; ++i)
    for (std::size_t j = h.length; j < width; ++j) keys[i * width + j] = 0;
  for (std::size_t j = 0; j < h.length; ++j)
    for (std::size_t i = 0; i < h.size; ++i) keys[i * width + j] = h.key[j * h.stride + i];
  for (std::size_t j = 0; j < width; ++j) mask[j] = j >= h.length ? -INFINITY : h.mask[j] > 0 ? 0.0f : kMasked;
  const floats scale = all(1.0f / std::sqrt(static_cast<float>(h.size)));
  for (std::size_t first = 0; first < h.length; first += kQueries) {
    const std::size_t count = h.length - first < kQueries ? h.length - first : kQueries;
    for (std::size_t r = 0; r < kQueries; ++r)
      for (std::size_t i = 0; i < h.size; i += kWidth)
        store(queries + r * h.size + i, r < count ? load(h.query + (first + r) * h.stride + i) * scale : all(0.0f));
    product_of(queries, h.size, keys, width, h.size, width, scores, width);
    float inverse[kQueries];
    for (std::size_t r = 0; r < kQueries; ++r) inverse[r] = softmax_row(scores + r * width, mask, width);
    product_of(scores, width, h.value, h.stride, h.length, h.size, queries, h.size);
    for (std::size_t r = 0; r < count; ++r)
      for (std::size_t i = 0; i < h.size; i += kWidth)
        store(h.out + (first + r) * h.stride + i, load(queries + r * h.size + i) * all(inverse[r]));
  }
}

}  // namespace
}  // namespace xtc
