// What XLA calls: checks of sizes, then multiply() with XLA's own threads.
#include <algorithm>

#include "multiply.h"
#include "xla/ffi/api/ffi.h"

namespace ffi = xla::ffi;

namespace {

ffi::Error wrong(const char* what) { return ffi::Error(ffi::ErrorCode::kInvalidArgument, what); }

ffi::Error checked(xtc::Call call, std::int64_t isa, std::int64_t threads, ffi::Span<const int64_t> x,
                   ffi::Span<const int64_t> codes, ffi::Span<const int64_t> out, ffi::ThreadPool& pool) {
  if (x.size() != 2 || codes.size() != 3 || out.size() != 2) return wrong("native_cpu: x, codes and sums have 2, 3, 2 axes");
  if (call.bits != 1 && call.bits != 2) return wrong("native_cpu: bits must be 1 or 2");
  call.m = x[0], call.k = x[1], call.n = out[1];
  const std::size_t width = xtc::kLanes * 8 / call.bits;
  if (out[0] != x[0]) return wrong("native_cpu: as many sums as tokens");
  if (codes[2] != 64 || static_cast<std::size_t>(codes[1]) != (call.k + 3) / 4 ||
      static_cast<std::size_t>(codes[0]) != (call.n + width - 1) / width)
    return wrong("native_cpu: codes are not those of a weight of this shape");
  if (call.k >= (1 << 17)) return wrong("native_cpu: K must be below 2^17");
  if (isa < 0 || isa > xtc::best_isa()) return wrong("native_cpu: this processor lacks the instruction set asked for");
  call.isa = static_cast<xtc::Isa>(isa);
  const std::size_t most = threads > 0 ? threads : std::max<std::int64_t>(pool.num_threads(), 1);
  xtc::multiply(call, most, [&](auto task) { pool.Schedule(std::move(task)); });
  return ffi::Error::Success();
}

ffi::Error floats(ffi::ThreadPool pool, ffi::Buffer<ffi::F32> x, ffi::Buffer<ffi::U8> codes, ffi::ResultBuffer<ffi::S32> out,
                  ffi::ResultBuffer<ffi::F32> scale, int64_t bits, int64_t isa, int64_t threads) {
  if (scale->element_count() != static_cast<size_t>(x.dimensions()[0])) return wrong("native_cpu: one scale for each token");
  const xtc::Call call{x.typed_data(), nullptr, codes.typed_data(), 0, 0, 0, static_cast<int>(bits), xtc::kPortable,
                       out->typed_data(), scale->typed_data()};
  return checked(call, isa, threads, x.dimensions(), codes.dimensions(), out->dimensions(), pool);
}

ffi::Error integers(ffi::ThreadPool pool, ffi::Buffer<ffi::S8> x, ffi::Buffer<ffi::U8> codes, ffi::ResultBuffer<ffi::S32> out,
                    int64_t bits, int64_t isa, int64_t threads) {
  const xtc::Call call{nullptr, x.typed_data(), codes.typed_data(), 0, 0, 0, static_cast<int>(bits), xtc::kPortable,
                       out->typed_data(), nullptr};
  return checked(call, isa, threads, x.dimensions(), codes.dimensions(), out->dimensions(), pool);
}

}  // namespace

#pragma GCC visibility push(default)
XLA_FFI_DEFINE_HANDLER_SYMBOL(xtc_floats, floats,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::F32>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Ret<ffi::Buffer<ffi::F32>>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("isa")
                                  .Attr<int64_t>("threads"));
XLA_FFI_DEFINE_HANDLER_SYMBOL(xtc_integers, integers,
                              ffi::Ffi::Bind()
                                  .Ctx<ffi::ThreadPool>()
                                  .Arg<ffi::Buffer<ffi::S8>>()
                                  .Arg<ffi::Buffer<ffi::U8>>()
                                  .Ret<ffi::Buffer<ffi::S32>>()
                                  .Attr<int64_t>("bits")
                                  .Attr<int64_t>("isa")
                                  .Attr<int64_t>("threads"));

extern "C" int xtc_best_isa() { return xtc::best_isa(); }
extern "C" int xtc_ffi_major() { return XLA_FFI_API_MAJOR; }
extern "C" int xtc_ffi_minor() { return XLA_FFI_API_MINOR; }
#pragma GCC visibility pop
