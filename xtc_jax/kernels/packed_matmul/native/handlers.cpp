// What XLA calls: checks of sizes, then the work with XLA's own threads.
#include "encoder_tiles.h"
#include "multiply.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

using Floats = ffi::Buffer<ffi::F32>;
using Codes = ffi::Buffer<ffi::U8>;
using Dimensions = ffi::Span<const int64_t>;

ffi::Error wrong(const std::string& what) { return ffi::Error(ffi::ErrorCode::kInvalidArgument, "native_cpu: " + what); }

// "" or what is wrong with a matrix (n, k); name says which it is.
std::string wrong_weight(const std::string& name, Dimensions codes, std::size_t scales, const xtc::Weight& w, std::int64_t isa) {
  if (w.bits != 1 && w.bits != 2) return name + ": bits must be 1 or 2";
  const std::size_t steps = isa == xtc::kAvx512Lut && w.bits == 1 ? 4 * w.k16() : w.k4();
  if (codes.size() != 3 || codes[2] != 64 || static_cast<std::size_t>(codes[1]) != steps ||
      static_cast<std::size_t>(codes[0]) != w.groups())
    return name + ": codes are not those of a weight of this shape";
  if (w.k >= (1 << 17)) return name + ": K must be below 2^17";
  return scales == 1 || scales == w.n ? "" : name + ": one scale, or one for each output";
}

std::size_t threads_of(std::int64_t asked, ffi::ThreadPool& pool) {
  return asked > 0 ? asked : std::max<std::int64_t>(pool.num_threads(), 1);
}

ffi::Error multiply(xtc::Call call, Dimensions x, Dimensions codes, std::int64_t isa, std::int64_t threads, ffi::ThreadPool& pool) {
  if (!xtc::runs_here(isa)) return wrong("this processor lacks the instruction set asked for");
  call.m = x[0], call.weight.k = x[1], call.isa = static_cast<xtc::Isa>(isa);
  const std::string why = wrong_weight("weight", codes, call.weight.scales, call.weight, isa);
  if (!why.empty()) return wrong(why);
  xtc::multiply(call, threads_of(threads, pool), [&](auto task) { pool.Schedule(std::move(task)); });
  return ffi::Error::Success();
}

// int8 tokens (m, k) and codes: int32 sums (m, n).
ffi::Error integers(ffi::ThreadPool pool, ffi::Buffer<ffi::S8> x, Codes codes, ffi::ResultBuffer<ffi::S32> out, int64_t bits,
                    int64_t isa, int64_t threads) {
  const Dimensions rows = x.dimensions(), result = out->dimensions();
  if (rows.size() != 2 || result.size() != 2 || rows[0] != result[0]) return wrong("x (m, k) and sums (m, n)");
  const xtc::Weight weight{codes.typed_data(), nullptr, 1, nullptr, static_cast<std::size_t>(result[1]), 0,
                           static_cast<int>(bits)};
  const xtc::Call call{nullptr, x.typed_data(), 0, xtc::kPortable, nullptr, weight, xtc::kNone, out->typed_data(), nullptr, {}};
  return multiply(call, rows, codes.dimensions(), isa, threads, pool);
}

// int8 tokens (m, k) and a weight (n, k) in int8, which is packed here: int32 sums (m, n).
ffi::Error fresh(ffi::ThreadPool pool, ffi::Buffer<ffi::S8> x, ffi::Buffer<ffi::S8> values, ffi::ResultBuffer<ffi::S32> out,
                 int64_t bits, int64_t isa, int64_t threads) {
  const Dimensions rows = x.dimensions(), shape = values.dimensions(), result = out->dimensions();
  if (rows.size() != 2 || shape.size() != 2 || result.size() != 2 || rows[0] != result[0] || shape[0] != result[1] ||
      rows[1] != shape[1])
    return wrong("x (m, k), weight (n, k) and sums (m, n)");
  if (bits != 1 && bits != 2) return wrong("bits must be 1 or 2");
  if (shape[1] >= (1 << 17)) return wrong("K must be below 2^17");
  if (!xtc::runs_here(isa)) return wrong("this processor lacks the instruction set asked for");
  const xtc::Weight weight{nullptr, nullptr, 1, nullptr, static_cast<std::size_t>(shape[0]), static_cast<std::size_t>(shape[1]),
                           static_cast<int>(bits)};
  const xtc::Call call{nullptr, x.typed_data(), static_cast<std::size_t>(rows[0]), static_cast<xtc::Isa>(isa), nullptr, weight,
                       xtc::kNone, out->typed_data(), nullptr, {values.typed_data(), isa == xtc::kAvx512Lut && bits == 1}};
  xtc::multiply(call, threads_of(threads, pool), [&](auto task) { pool.Schedule(std::move(task)); });
  return ffi::Error::Success();
}

// Float tokens (m, k): int32 sums (m, n) and scales (m, 1).
ffi::Error floats(ffi::ThreadPool pool, Floats x, Codes codes, ffi::ResultBuffer<ffi::S32> out, ffi::ResultBuffer<ffi::F32> scale,
                  int64_t bits, int64_t isa, int64_t threads) {
  const Dimensions rows = x.dimensions(), result = out->dimensions();
  if (rows.size() != 2 || result.size() != 2 || rows[0] != result[0]) return wrong("x (m, k) and sums (m, n)");
  if (scale->element_count() != static_cast<std::size_t>(rows[0])) return wrong("one scale for each token");
  const xtc::Weight weight{codes.typed_data(), nullptr, 1, nullptr, static_cast<std::size_t>(result[1]), 0,
                           static_cast<int>(bits)};
  const xtc::Call call{x.typed_data(), nullptr, 0, xtc::kPortable, scale->typed_data(), weight, xtc::kNone, out->typed_data(),
                       nullptr, {}};
  return multiply(call, rows, codes.dimensions(), isa, threads, pool);
}

// Float tokens (m, k): activation(x w^T + bias), float (m, n), and the scales of the tokens (m, 1).
ffi::Error linear(ffi::ThreadPool pool, Floats x, Codes codes, Floats weight_scale, Floats bias, ffi::ResultBuffer<ffi::F32> out,
                  ffi::ResultBuffer<ffi::F32> scale, int64_t bits, int64_t activation, int64_t isa, int64_t threads) {
  const Dimensions rows = x.dimensions(), result = out->dimensions();
  if (rows.size() != 2 || result.size() != 2 || rows[0] != result[0]) return wrong("x (m, k) and the result (m, n)");
  if (scale->element_count() != static_cast<std::size_t>(rows[0])) return wrong("one scale for each token");
  const std::size_t n = result[1];
  if (bias.element_count() != n && bias.element_count() != 0) return wrong("bias (n,), or empty");
  if (activation < xtc::kNone || activation > xtc::kRelu) return wrong("activation must be 0, 1 or 2");
  const xtc::Weight weight{codes.typed_data(), weight_scale.typed_data(), weight_scale.element_count(),
                           bias.element_count() ? bias.typed_data() : nullptr, n, 0, static_cast<int>(bits)};
  const xtc::Call call{x.typed_data(), nullptr, 0, xtc::kPortable, scale->typed_data(), weight,
                       static_cast<xtc::Activation>(activation), nullptr, out->typed_data(), {}};
  return multiply(call, rows, codes.dimensions(), isa, threads, pool);
}

constexpr std::size_t kLinears = 6, kArrays = 3 * kLinears + 4;  // of a layer

// Reads the arrays of the layers, one after another; the first that does not fit is named.
class Reader {
 public:
  Reader(ffi::RemainingArgs& arrays, ffi::Span<const int64_t> bits, std::int64_t isa) : arrays_(arrays), bits_(bits), isa_(isa) {}

  xtc::Weight weight(const char* name, std::size_t n, std::size_t k) {
    const auto codes = arrays_.get<Codes>(next_);
    const auto scale = arrays_.get<Floats>(next_ + 1);
    next_ += 2;
    const float* bias = vector(name, n);
    if (!codes.has_value() || !scale.has_value()) return fail(where(name), ": codes uint8, scale float32"), xtc::Weight{};
    const std::size_t scales = scale->element_count();
    const xtc::Weight made{codes->typed_data(), scale->typed_data(), scales, bias, n, k, static_cast<int>(bits_[linear_++])};
    fail("", wrong_weight(where(name), codes->dimensions(), scales, made, isa_));
    return made;
  }

  const float* vector(const char* name, std::size_t size) {
    const auto found = arrays_.get<Floats>(next_++);
    if (!found.has_value() || found->element_count() != size) return fail(where(name), ": float32 of another size"), nullptr;
    return found->typed_data();
  }

  const std::string& why() const { return why_; }

 private:
  std::string where(const char* name) const { return "layer " + std::to_string((next_ - 1) / kArrays) + ", " + name; }
  void fail(const std::string& where, const std::string& what) {
    if (why_.empty() && !what.empty()) why_ = where + what;
  }

  ffi::RemainingArgs& arrays_;
  ffi::Span<const int64_t> bits_;
  std::int64_t isa_;
  std::size_t next_ = 0, linear_ = 0;
  std::string why_;
};

xtc::Layer read_layer(Reader& from, std::size_t hidden, std::size_t inner) {
  xtc::Layer layer;
  layer.query = from.weight("query", hidden, hidden);
  layer.key = from.weight("key", hidden, hidden);
  layer.value = from.weight("value", hidden, hidden);
  layer.attended = from.weight("attention output", hidden, hidden);
  layer.first = {from.vector("attention LayerNorm weight", hidden), from.vector("attention LayerNorm bias", hidden)};
  layer.inner = from.weight("intermediate", inner, hidden);
  layer.outer = from.weight("output", hidden, inner);
  layer.second = {from.vector("LayerNorm weight", hidden), from.vector("LayerNorm bias", hidden)};
  return layer;
}

// x (batch, length, hidden) through the layers whose arrays follow, in the order of read_layer.
ffi::Error encoder(ffi::ThreadPool pool, Floats x, ffi::Buffer<ffi::S32> mask, ffi::RemainingArgs arrays,
                   ffi::ResultBuffer<ffi::F32> out, ffi::Span<const int64_t> bits, int64_t inner, int64_t heads, float eps,
                   int64_t activation, int64_t isa, int64_t threads) {
  const Dimensions shape = x.dimensions(), result = out->dimensions(), keys = mask.dimensions();
  if (shape.size() != 3 || result.size() != 3 || !std::equal(shape.begin(), shape.end(), result.begin()))
    return wrong("x and the result (batch, length, hidden)");
  if (keys.size() != 2 || keys[0] != shape[0] || keys[1] != shape[1]) return wrong("mask (batch, length)");
  const std::size_t hidden = shape[2], lanes = xtc::kLanes;
  if (heads < 1 || inner < 1 || hidden % heads || hidden / heads % lanes || hidden == 0)
    return wrong("heads must divide the hidden size into multiples of 16");
  if (arrays.size() % kArrays || bits.size() != arrays.size() / kArrays * kLinears) return wrong("22 arrays for each layer");
  if (activation < xtc::kNone || activation > xtc::kRelu) return wrong("activation must be 0, 1 or 2");
  if (!xtc::runs_here(isa)) return wrong("this processor lacks the instruction set asked for");
  Reader reader(arrays, bits, isa);
  std::vector<xtc::Layer> layers;
  while (layers.size() < arrays.size() / kArrays) layers.push_back(read_layer(reader, hidden, inner));
  if (!reader.why().empty()) return wrong(reader.why());
  if (layers.empty()) return wrong("no layers");
  if (x.element_count() == 0) return ffi::Error::Success();
  const xtc::EncoderCall call{x.typed_data(), mask.typed_data(), layers, static_cast<std::size_t>(shape[0]),
                              static_cast<std::size_t>(shape[1]), hidden, static_cast<std::size_t>(inner),
                              static_cast<std::size_t>(heads), eps, static_cast<xtc::Activation>(activation),
                              static_cast<xtc::Isa>(isa), out->typed_data()};
  xtc::encode(call, threads_of(threads, pool), [&](auto task) { pool.Schedule(std::move(task)); });
  return ffi::Error::Success();
}

}  // namespace

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(xtc_floats, floats,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Codes>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<Floats>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("isa")
                                  .Attr<int64_t>("threads"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(xtc_integers, integers,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::S8>>()
                                  .Arg<Codes>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("isa")
                                  .Attr<int64_t>("threads"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(xtc_fresh, fresh,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::S8>>()
                                  .Arg<ffi::Buffer<ffi::S8>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("isa")
                                  .Attr<int64_t>("threads"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(xtc_linear, linear,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<Codes>()
                                  .Arg<Floats>()
                                  .Arg<Floats>()
                                  .Ret<Floats>()
                                  .Ret<Floats>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("activation")
                                  .Attr<int64_t>("isa")
                                  .Attr<int64_t>("threads"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(xtc_encoder, encoder,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<Floats>()
                                  .Arg<ffi::Buffer<ffi::S32>>()
                                  .RemainingArgs()
                                  .Ret<Floats>()
                                  .Attr<ffi::Span<const int64_t>>("bits")
                                  .Attr<int64_t>("inner")
                                  .Attr<int64_t>("heads")
                                  .Attr<float>("eps")
                                  .Attr<int64_t>("activation")
                                  .Attr<int64_t>("isa")
                                  .Attr<int64_t>("threads"));

extern "C" int xtc_best_isa() { return xtc::best_isa(); }
extern "C" int xtc_runs_here(int isa) { return xtc::runs_here(isa); }
extern "C" int xtc_ffi_major() { return XLA_FFI_API_MAJOR; }
extern "C" int xtc_ffi_minor() { return XLA_FFI_API_MINOR; }
#pragma GCC visibility pop
