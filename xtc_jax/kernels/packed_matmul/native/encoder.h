// The layers of a BERT, one after the other, in one call: bert/model.py without dropout, every Linear on quantized tokens.
#pragma once
#include <array>

#include "multiply.h"

namespace xtc {

struct Norm {
  const float *weight, *bias;
};

struct Layer {
  Weight query, key, value, attended, inner, outer;
  Norm first, second;
};

struct EncoderCall {
  const float* x;            // (batch, length, hidden)
  const std::int32_t* mask;  // (batch, length)
  const std::vector<Layer>& layers;
  std::size_t batch, length, hidden, inner, heads;
  float eps;
  Activation activation;
  Isa isa;
  float* out;  // (batch, length, hidden)
};

// Quantized rows, with their memory.
class TokenStore {
 public:
  TokenStore(std::size_t rows, std::size_t k)
      : codes_(new std::int8_t[rows * padded_width(k)]), sums_(new std::int32_t[rows]), scales_(new float[rows]), k_(k) {}
  Tokens tokens() const { return {codes_.get(), sums_.get(), scales_.get(), padded_width(k_)}; }

 private:
  std::unique_ptr<std::int8_t[]> codes_;
  std::unique_ptr<std::int32_t[]> sums_;
  std::unique_ptr<float[]> scales_;
  std::size_t k_;
};

// Query, key, value and context of some sentences, and their attention.
class Attention {
 public:
  Attention(const EncoderCall& call, std::size_t sentences)
      : call_(call),
        size_(call.hidden / call.heads),
        each_(sentences * call.length * call.hidden),
        floats_(new float[4 * each_]),
        scratch_size_(head_scratch(call.length, size_)),
        scratch_(new float[sentences * call.heads * scratch_size_]) {}
  float* query() const { return floats_.get(); }
  float* key() const { return query() + each_; }
  float* value() const { return key() + each_; }
  float* context() const { return value() + each_; }

  // One head of one sentence; first: of these sentences, among all.
  void attend(const Kernels& isa, std::size_t unit, std::size_t first) const {
    const std::size_t sentence = unit / call_.heads, head = unit % call_.heads;
    const std::size_t at = sentence * call_.length * call_.hidden + head * size_;
    const std::int32_t* mask = call_.mask + (first + sentence) * call_.length;
    isa.attend({query() + at, key() + at, value() + at, mask, call_.length, size_, call_.hidden,
                scratch_.get() + unit * scratch_size_, context() + at});
  }

 private:
  const EncoderCall& call_;
  const std::size_t size_, each_;
  const std::unique_ptr<float[]> floats_;
  const std::size_t scratch_size_;
  const std::unique_ptr<float[]> scratch_;
};

// Sentences do not see each other: a few at a time go through all layers, so that what is between two steps stays in the caches.
inline std::size_t sentences_at_once(const EncoderCall& call) {
  return std::min(call.batch, std::max<std::size_t>(1, kRowsPerUnit / call.length));
}

}  // namespace xtc
