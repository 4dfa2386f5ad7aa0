// The encoder by steps, each of which all workers divide among them: for many threads and few tokens.
#pragma once
#include "encoder.h"

namespace xtc {

class EncoderSteps {
 public:
  EncoderSteps(const EncoderCall& call, std::size_t threads)
      : call_(call),
        isa_(kernels(call.isa)),
        threads_(threads),
        at_once_(sentences_at_once(call)),
        rows_(at_once_ * call.length),
        narrow_(rows_, call.hidden),
        wide_(rows_, call.inner),
        attention_(call, at_once_),
        floats_(new float[rows_ * (call.hidden + call.inner)]),
        scratch_(threads, isa_.scratch(std::max(call.hidden, call.inner))) {}

  template <typename Schedule>
  void run_all(Schedule schedule) {
    const std::size_t chunks = (call_.batch + at_once_ - 1) / at_once_;
    std::vector<std::size_t> sizes;
    for (std::size_t chunk = 0; chunk < chunks; ++chunk)
      for (const Layer& layer : call_.layers)
        for (std::size_t step = 0; step < kSteps; ++step) sizes.push_back(units(layer, step, sentences(chunk)));
    auto steps = std::make_shared<Steps>(std::move(sizes));
    steps->work = [this](std::size_t number, std::size_t unit, std::size_t worker) {
      const std::size_t layers = call_.layers.size();
      work(number / kSteps / layers, number / kSteps % layers, number % kSteps, unit, scratch_.of(worker));
    };
    xtc::run(steps, threads_ - 1, schedule);
  }

 private:
  static constexpr std::size_t kSteps = 10;

  std::size_t sentences(std::size_t chunk) const { return std::min(at_once_, call_.batch - chunk * at_once_); }
  Division division(const Weight& w, std::size_t rows) const { return Division(w, rows, threads_, isa_); }

  // Query, key and value are one step: their units follow one another.
  std::array<Division, 3> projections(const Layer& layer, std::size_t rows) const {
    return {division(layer.query, rows), division(layer.key, rows), division(layer.value, rows)};
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
      case 4: return division(layer.attended, rows).units();
      case 6: return division(layer.inner, rows).units();
      case 8: return division(layer.outer, rows).units();
      default: return row_units(rows);
    }
  }

  void work(std::size_t chunk, std::size_t number, std::size_t step, std::size_t unit, std::uint8_t* scratch) {
    const Layer& layer = call_.layers[number];
    const std::size_t hidden = call_.hidden, rows = sentences(chunk) * call_.length, first = chunk * rows_;
    float *out = call_.out + first * hidden, *y = floats_.get(), *inner = y + rows_ * hidden;
    const float* x = number ? out : call_.x + first * hidden;
    const float* context = attention_.context();
    const Tokens narrow = narrow_.tokens(), wide = wide_.tokens();
    const auto product = [&](const Weight& w, const Tokens& tokens, float* to, Activation activation, std::size_t which) {
      const Part part = division(w, rows).part(which);
      isa_.prepare(tokens, part.first_row, part.last_row, scratch);
      isa_.product({tokens, w, activation, nullptr, to}, part, scratch);
    };
    switch (step) {
      case 0:
        return rows_of(unit, rows, [&](std::size_t row) { isa_.quantize_row(x + row * hidden, hidden, narrow, row); });
      case 1: {
        const std::array<Division, 3> each = projections(layer, rows);
        const std::size_t a = each[0].units(), b = each[1].units();
        if (unit < a) return product(layer.query, narrow, attention_.query(), kNone, unit);
        if (unit < a + b) return product(layer.key, narrow, attention_.key(), kNone, unit - a);
        return product(layer.value, narrow, attention_.value(), kNone, unit - a - b);
      }
      case 2: return attention_.attend(isa_, unit, chunk * at_once_);
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

  const EncoderCall& call_;
  const Kernels& isa_;
  const std::size_t threads_, at_once_, rows_;
  const TokenStore narrow_, wide_;
  const Attention attention_;
  const std::unique_ptr<float[]> floats_;
  const Scratch scratch_;
};

}  // namespace xtc
