// int8 tokens times packed 1- and 2-bit weights: what the files of this folder share.
//
// Layout of the weights: (groups, k4, 64) bytes. A group is 16 * P outputs, P = 8 / bits planes. In step s, byte 4 * i + kk,
// bits bits * j upwards, is the code of output group * 16 * P + 16 * j + i at k = 4 * s + kk. What is padded has code 0.
// Look-ups (lookup.h) have weights of 1 bit in another: (groups, 4 * k16, 64) bytes, a group is 128 outputs. In step s, word i of
// 16 bits, bit b, is the code of output group * 128 + i at k = 16 * s + b.
#pragma once
#include <cfloat>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <iterator>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

// What the compiler can make. Clang compiles for sdot only where all of a program may use it.
#if defined(__x86_64__) && __has_include(<avxvnniintrin.h>)
#define XTC_HAS_AVXVNNI 1
#endif
#if defined(__aarch64__) && (defined(__ARM_FEATURE_DOTPROD) || !defined(__clang__))
#define XTC_HAS_NEON 1
#endif

namespace xtc {

constexpr std::size_t kLanes = 16;        // outputs of a plane, and floats that are computed together
constexpr std::size_t kStep = 64;         // bytes of a step: 16 outputs, 4 k each
constexpr std::size_t kRowsPerUnit = 96;  // tokens that one thread takes with a group: their codes stay in the L2 cache
constexpr std::size_t kWord = 16;         // k of a word, where sums are looked up

enum Isa : int { kPortable = 0, kAvx2 = 1, kAvx512Vnni = 2, kAvx512Lut = 3, kAvxVnni = 4, kNeon = 5 };
constexpr int kIsas = 6;
enum Activation : int { kNone = 0, kGelu = 1, kRelu = 2 };

// A matrix (n, k) with its bias. A code c stands for 2c - 1 (1 bit) or c - 1 (2 bits), times the scale.
struct Weight {
  const std::uint8_t* codes;  // (groups, k4, 64)
  const float* scale;         // (scales,): one, or one for each output
  std::size_t scales;
  const float* bias;  // (n,), or null
  std::size_t n, k;
  int bits;
  std::size_t planes() const { return 8 / bits; }
  std::size_t k4() const { return (k + 3) / 4; }
  std::size_t k16() const { return (k + kWord - 1) / kWord; }
  std::size_t group_width() const { return kLanes * planes(); }
  std::size_t groups() const { return (n + group_width() - 1) / group_width(); }
};

// Quantized tokens.
struct Tokens {
  std::int8_t* codes;  // (m, width), zeros beyond k
  std::int32_t* sum;   // (m,), of a row of codes
  float* scale;        // (m,)
  std::size_t width;   // padded_width(k)
};

inline std::size_t padded_width(std::size_t k) { return (k + kWord - 1) / kWord * kWord; }

// A product, and what follows it: the sums as they are, or activation(sums * scales + bias).
struct Problem {
  Tokens x;
  Weight w;
  Activation activation;
  std::int32_t* sums;  // (m, n), or null
  float* out;          // (m, n), where sums is null
};

// A part of a problem: some planes of some groups, for some tokens.
struct Part {
  std::size_t first_group, last_group, first_plane, last_plane, first_row, last_row;
};

// One head of the attention of one sentence. Rows of query, key, value and out are stride floats apart.
struct Head {
  const float *query, *key, *value;
  const std::int32_t* mask;  // (length,), 0 for padding
  std::size_t length, size, stride;
  float* scratch;  // head_scratch(length, size) floats
  float* out;
};

constexpr std::size_t kQueries = 8;  // computed together
inline std::size_t padded(std::size_t length) { return (length + kLanes - 1) / kLanes * kLanes; }
inline std::size_t head_scratch(std::size_t length, std::size_t size) {
  return padded(length) * (size + kQueries + 1) + kQueries * size;
}

// What there is for each instruction set.
struct Kernels {
  // Bytes, from an address that 64 divides, which prepare() fills for the product of up to most_rows tokens of k; 0: it needs none.
  std::size_t (*scratch)(std::size_t k);
  std::size_t most_rows;
  std::size_t tile_rows;  // what a worker takes through a layer (encoder_tiles.h); at most most_rows
  void (*prepare)(const Tokens&, std::size_t first_row, std::size_t last_row, std::uint8_t* scratch);
  void (*product)(const Problem&, const Part&, const std::uint8_t* scratch);
  void (*quantize_row)(const float* x, std::size_t k, const Tokens& to, std::size_t row);
  // out = LayerNorm(x + residual): k floats each; out may be x or residual.
  void (*norm_row)(const float* x, const float* residual, const float* weight, const float* bias, float eps, std::size_t k,
                   float* out);
  void (*attend)(const Head&);
};

extern const Kernels kernels_portable, kernels_avx2, kernels_avx512vnni, kernels_avx512lut, kernels_avxvnni, kernels_neon;

// Where the product reads the tokens themselves.
inline std::size_t no_scratch(std::size_t) { return 0; }
inline void prepare_nothing(const Tokens&, std::size_t, std::size_t, std::uint8_t*) {}

inline const Kernels& kernels(Isa isa) {
#if defined(__x86_64__)
  if (isa == kAvx512Lut) return kernels_avx512lut;
  if (isa == kAvx512Vnni) return kernels_avx512vnni;
  if (isa == kAvx2) return kernels_avx2;
#endif
#if defined(XTC_HAS_AVXVNNI)
  if (isa == kAvxVnni) return kernels_avxvnni;
#endif
#if defined(XTC_HAS_NEON)
  if (isa == kNeon) return kernels_neon;
#endif
  return kernels_portable;
}

// Whether this processor, and this library, have an instruction set; any number.
bool runs_here(std::int64_t isa);
// The fastest of them.
Isa best_isa();

}  // namespace xtc
