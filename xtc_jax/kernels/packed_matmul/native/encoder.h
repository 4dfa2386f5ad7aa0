// The layers of a BERT, one after the other, in one call: bert/model.py without dropout, every Linear on quantized tokens.
//
// Sentences do not see each other: a few at a time, about kRowsPerUnit tokens, go through all layers, so that what is between two
// steps stays in the caches.
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
  static std::size_t padded_width(std::size_t k) { return (k + 3) / 4 * 4; }
  std::unique_ptr<std::int8_t[]> codes_;
  std::unique_ptr<std::int32_t[]> sums_;
  std::unique_ptr<float[]> scales_;
  std::size_t k_;
};

class Encoder {
 public:
  Encoder(const EncoderCall& call, std::size_t threads)
      : call_(call),
        isa_(kernels(call.isa)),
        threads_(threads),
        at_once_(std::min(call.batch, std::max<std::size_t>(1, kRowsPerUnit / call.length))),
        rows_(at_once_ * call.length),
        narrow_(rows_, call.hidden),
        wide_(rows_, call.inner),
        floats_(new float[rows_ * (5 * call.hidden + call.inner)]),
        scratch_per_head_(head_scratch(call.length, call.hidden / call.heads)),
        scratch_(new float[at_once_ * call.heads * scratch_per_head_]) {}

  template <typename Schedule>
  void run_all(Schedule schedule) {
    const std::size_t chunks = (call_.batch + at_once_ - 1) / at_once_;
    std::vector<std::size_t> sizes;
    for (std::size_t chunk = 0; chunk < chunks; ++chunk)
      for (const Layer& layer : call_.layers)
        for (std::size_t step = 0; step < kSteps; ++step) sizes.push_back(units(layer, step, sentences(chunk)));
    auto steps = std::make_shared<Steps>(std::move(sizes));
    steps->work = [this](std::size_t number, std::size_t unit) {
      const std::size_t layers = call_.layers.size();
      work(number / kSteps / layers, number / kSteps % layers, number % kSteps, unit);
    };
    xtc::run(steps, threads_ - 1, schedule);
  }

 private:
  static constexpr std::size_t kSteps = 10;

  std::size_t sentences(std::size_t chunk) const { return std::min(at_once_, call_.batch - chunk * at_once_); }

  // Query, key and value are one step: their units follow one another.
  std::array<Division, 3> projections(const Layer& layer, std::size_t rows) const {
    return {Division(layer.query, rows, threads_), Division(layer.key, rows, threads_), Division(layer.value, rows, threads_)};
  }

  std::size_t units(const Layer& layer, std::size_t step, std::size_t sentences) const {
    const std::size_t rows = sentences * call_.length;
    switch (step) {
      case 0: return &layer == call_.layers.data() ? row_units(rows) : 0;  // later ones: step 9 of the layer before
      case 1: {
        std::size_t total = 0;
        for (const Division& each : projections(layer, rows)) total += each.units();
        return total;
      }
      case 2: return sentences * call_.heads;
      case 4: return Division(layer.attended, rows, threads_).units();
      case 6: return Division(layer.inner, rows, threads_).units();
      case 8: return Division(layer.outer, rows, threads_).units();
      default: return row_units(rows);
    }
  }

  void work(std::size_t chunk, std::size_t number, std::size_t step, std::size_t unit) {
    const Layer& layer = call_.layers[number];
    const std::size_t hidden = call_.hidden, rows = sentences(chunk) * call_.length, first = chunk * rows_;
    float *out = call_.out + first * hidden, *query = floats_.get(), *key = query + rows_ * hidden,
          *value = key + rows_ * hidden, *context = value + rows_ * hidden, *y = context + rows_ * hidden,
          *inner = y + rows_ * hidden;
    const float* x = number ? out : call_.x + first * hidden;
    const Tokens narrow = narrow_.tokens(), wide = wide_.tokens();
    const auto product = [&](const Weight& w, const Tokens& tokens, float* to, Activation activation, std::size_t which) {
      isa_.product({tokens, w, activation, nullptr, to}, Division(w, rows, threads_).part(which));
    };
    switch (step) {
      case 0:
        return rows_of(unit, rows, [&](std::size_t row) { isa_.quantize_row(x + row * hidden, hidden, narrow, row); });
      case 1: {
        const std::array<Division, 3> each = projections(layer, rows);
        const std::size_t a = each[0].units(), b = each[1].units();
        if (unit < a) return product(layer.query, narrow, query, kNone, unit);
        if (unit < a + b) return product(layer.key, narrow, key, kNone, unit - a);
        return product(layer.value, narrow, value, kNone, unit - a - b);
      }
      case 2: return attend(unit, chunk, query, key, value, context);
      case 3:
        return rows_of(unit, rows, [&](std::size_t row) { isa_.quantize_row(context + row * hidden, hidden, narrow, row); });
      case 4: return product(layer.attended, narrow, y, kNone, unit);
      case 5:
        return rows_of(unit, rows, [&](std::size_t row) {
          norm(layer.first, y + row * hidden, x + row * hidden, out + row * hidden);
          isa_.quantize_row(out + row * hidden, hidden, narrow, row);
        });
      case 6: return product(layer.inner, narrow, inner, call_.activation, unit);
      case 7:
        return rows_of(unit, rows, [&](std::size_t row) { isa_.quantize_row(inner + row * call_.inner, call_.inner, wide, row); });
      case 8: return product(layer.outer, wide, y, kNone, unit);
      default:
        return rows_of(unit, rows, [&](std::size_t row) {
          norm(layer.second, y + row * hidden, out + row * hidden, out + row * hidden);
          if (number + 1 < call_.layers.size()) isa_.quantize_row(out + row * hidden, hidden, narrow, row);
        });
    }
  }

  void norm(const Norm& by, const float* x, const float* residual, float* to) const {
    isa_.norm_row(x, residual, by.weight, by.bias, call_.eps, call_.hidden, to);
  }

  void attend(std::size_t unit, std::size_t chunk, const float* query, const float* key, const float* value, float* context) {
    const std::size_t sentence = unit / call_.heads, head = unit % call_.heads, size = call_.hidden / call_.heads;
    const std::size_t at = sentence * call_.length * call_.hidden + head * size;
    const std::int32_t* mask = call_.mask + (chunk * at_once_ + sentence) * call_.length;
    isa_.attend({query + at, key + at, value + at, mask, call_.length, size, call_.hidden,
                 scratch_.get() + unit * scratch_per_head_, context + at});
  }

  const EncoderCall& call_;
  const Kernels& isa_;
  const std::size_t threads_, at_once_, rows_;
  const TokenStore narrow_, wide_;
  const std::unique_ptr<float[]> floats_;
  const std::size_t scratch_per_head_;
  const std::unique_ptr<float[]> scratch_;
};

}  // namespace xtc
