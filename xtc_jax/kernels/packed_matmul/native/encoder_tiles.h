// The encoder by tiles: a worker takes a few tokens from the end of an attention to the beginning of the next, so that workers
// wait for each other twice a layer and what lies between stays in the first caches. Where each worker has a tile.
#pragma once
#include "encoder.h"
#include "encoder_steps.h"

namespace xtc {

class EncoderTiles {
 public:
  EncoderTiles(const EncoderCall& call, std::size_t threads)
      : call_(call),
        isa_(kernels(call.isa)),
        threads_(threads),
        at_once_(sentences_at_once(call)),
        attention_(call, at_once_),
        scratch_(threads, isa_.scratch(std::max(call.hidden, call.inner))) {
    for (std::size_t i = 0; i < threads; ++i) workers_.emplace_back(call, isa_.tile_rows);
  }

  template <typename Schedule>
  void run_all(Schedule schedule) {
    std::vector<std::size_t> sizes;
    for (std::size_t first = 0; first < call_.batch; first += at_once_) {
      sizes.push_back(tiles(first));
      for (std::size_t layer = 0; layer < call_.layers.size(); ++layer) {
        sizes.push_back(sentences(first) * call_.heads);
        sizes.push_back(tiles(first));
      }
    }
    auto steps = std::make_shared<Steps>(std::move(sizes));
    steps->work = [this](std::size_t number, std::size_t unit, std::size_t worker) {
      const std::size_t each = 1 + 2 * call_.layers.size(), first = number / each * at_once_, step = number % each;
      if (step % 2) return attention_.attend(isa_, unit, first);
      tile(first, step / 2, unit, worker);
    };
    xtc::run(steps, threads_ - 1, schedule);
  }

 private:
  struct Worker {
    Worker(const EncoderCall& call, std::size_t rows)
        : narrow(rows, call.hidden), wide(rows, call.inner), y(new float[rows * call.hidden]), inner(new float[rows * call.inner]) {}
    TokenStore narrow, wide;
    std::unique_ptr<float[]> y, inner;
  };
  struct Rows {
    std::size_t count, of_chunk, of_call;  // and the first one's number
  };

  std::size_t sentences(std::size_t first) const { return std::min(at_once_, call_.batch - first); }
  std::size_t tiles(std::size_t first) const { return even_blocks(sentences(first) * call_.length, threads_, isa_.tile_rows); }

  // Before attention number layer: the rest of the layer before, and query, key and value.
  void tile(std::size_t first, std::size_t layer, std::size_t unit, std::size_t worker) {
    const std::size_t rows = sentences(first) * call_.length, blocks = tiles(first), from = rows * unit / blocks;
    const Rows these{rows * (unit + 1) / blocks - from, from, first * call_.length + from};
    const Worker& w = workers_[worker];
    const Tokens tokens = w.narrow.tokens();
    if (layer == 0)
      quantize(call_.x + these.of_call * call_.hidden, call_.hidden, tokens, these.count);
    else
      finish_layer(call_.layers[layer - 1], layer == 1 ? call_.x : call_.out, these, w, scratch_.of(worker));
    if (layer == call_.layers.size()) return;
    const Layer& next = call_.layers[layer];
    if (layer) quantize(call_.out + these.of_call * call_.hidden, call_.hidden, tokens, these.count);
    const std::size_t at = these.of_chunk * call_.hidden;
    product({{next.query, attention_.query() + at}, {next.key, attention_.key() + at}, {next.value, attention_.value() + at}},
            tokens, these.count, kNone, scratch_.of(worker));
  }

  void finish_layer(const Layer& layer, const float* residual, const Rows& rows, const Worker& w, std::uint8_t* scratch) {
    const std::size_t hidden = call_.hidden, at = rows.of_call * hidden;
    const Tokens narrow = w.narrow.tokens(), wide = w.wide.tokens();
    quantize(attention_.context() + rows.of_chunk * hidden, hidden, narrow, rows.count);
    product({{layer.attended, w.y.get()}}, narrow, rows.count, kNone, scratch);
    norm(layer.first, w.y.get(), residual + at, rows);
    quantize(call_.out + at, hidden, narrow, rows.count);
    product({{layer.inner, w.inner.get()}}, narrow, rows.count, call_.activation, scratch);
    quantize(w.inner.get(), call_.inner, wide, rows.count);
    product({{layer.outer, w.y.get()}}, wide, rows.count, kNone, scratch);
    norm(layer.second, w.y.get(), call_.out + at, rows);
  }

  void quantize(const float* x, std::size_t k, const Tokens& to, std::size_t rows) const {
    for (std::size_t row = 0; row < rows; ++row) isa_.quantize_row(x + row * k, k, to, row);
  }

  void norm(const Norm& by, const float* x, const float* residual, const Rows& rows) const {
    const std::size_t hidden = call_.hidden;
    for (std::size_t row = 0; row < rows.count; ++row)
      isa_.norm_row(x + row * hidden, residual + row * hidden, by.weight, by.bias, call_.eps, hidden,
                    call_.out + (rows.of_call + row) * hidden);
  }

  // The products of the same tokens with some matrices.
  void product(std::initializer_list<std::pair<const Weight&, float*>> all, const Tokens& tokens, std::size_t rows,
               Activation activation, std::uint8_t* scratch) const {
    isa_.prepare(tokens, 0, rows, scratch);
    for (const auto& [weight, to] : all)
      isa_.product({tokens, weight, activation, nullptr, to}, {0, weight.groups(), 0, weight.planes(), 0, rows}, scratch);
  }

  const EncoderCall& call_;
  const Kernels& isa_;
  const std::size_t threads_, at_once_;
  const Attention attention_;
  const Scratch scratch_;
  std::vector<Worker> workers_;
};

// The one way or the other: both give the same to the bit.
template <typename Schedule>
void encode(const EncoderCall& call, std::size_t threads, Schedule schedule) {
  if (2 * sentences_at_once(call) * call.length >= threads * kernels(call.isa).tile_rows)
    EncoderTiles(call, threads).run_all(schedule);
  else
    EncoderSteps(call, threads).run_all(schedule);
}

}  // namespace xtc
