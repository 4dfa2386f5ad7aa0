// Random calls beside plain sums, for a build with -fsanitize=address,undefined: check COUNT. Every buffer is as long as its call
// says and no longer.
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>

#include "encoder_tiles.h"

namespace {

std::mt19937 random_bits(0);

std::size_t below(std::size_t limit) { return random_bits() % limit; }
float number() { return static_cast<float>(below(2001)) / 1000 - 1; }

// Exactly size bytes or numbers, so that one read too far is seen.
template <typename T>
std::unique_ptr<T[]> block(std::size_t size) {
  return std::unique_ptr<T[]>(new T[size]());
}

std::unique_ptr<float[]> numbers(std::size_t size) {
  auto made = block<float>(size);
  for (std::size_t i = 0; i < size; ++i) made[i] = number();
  return made;
}

// A random matrix with the memory that it points to.
struct Matrix {
  Matrix(std::size_t n, std::size_t k, int bits, xtc::Isa isa) : weight{nullptr, nullptr, below(2) ? 1 : n, nullptr, n, k, bits} {
    values = block<int>(n * k);
    const bool words = isa == xtc::kAvx512Lut && bits == 1;
    const std::size_t steps = words ? 4 * weight.k16() : weight.k4();
    codes = block<std::uint8_t>(weight.groups() * steps * xtc::kStep);
    scale = numbers(weight.scales);
    bias = numbers(n);
    const std::size_t width = weight.group_width();
    for (std::size_t o = 0; o < n; ++o)
      for (std::size_t i = 0; i < k; ++i) {
        const std::size_t code = below(bits == 1 ? 2 : 3), inner = o % width;
        values[o * k + i] = (bits == 1 ? 2 : 1) * static_cast<int>(code) - 1;
        if (words)
          codes[o / width * steps * xtc::kStep + i / 16 * 256 + 2 * inner + i % 16 / 8] |= static_cast<std::uint8_t>(code << i % 8);
        else
          codes[(o / width * steps + i / 4) * xtc::kStep + 4 * (inner % 16) + i % 4] |=
              static_cast<std::uint8_t>(code << (bits * (inner / 16)));
      }
    weight.codes = codes.get(), weight.scale = scale.get(), weight.bias = bias.get();
  }
  xtc::Weight weight;
  std::unique_ptr<int[]> values;
  std::unique_ptr<std::uint8_t[]> codes;
  std::unique_ptr<float[]> scale, bias;
};

// One of those that this processor has.
xtc::Isa some_isa() {
  int isa;
  do isa = static_cast<int>(below(xtc::kIsas));
  while (!xtc::runs_here(isa));
  return static_cast<xtc::Isa>(isa);
}

// Helpers of a call; all have ended when this ends.
struct Helpers {
  ~Helpers() {
    for (auto& each : threads) each.join();
  }
  template <typename Task>
  void operator()(Task task) {
    threads.emplace_back(std::move(task));
  }
  std::vector<std::thread> threads;
};

bool one_product() {
  const std::size_t m = below(40), k = below(200), n = below(200);
  const xtc::Isa isa = some_isa();
  const Matrix matrix(n, k, 1 + static_cast<int>(below(2)), isa);
  const bool given = below(2), finished = below(2) && !given;
  auto tokens = block<std::int8_t>(m * k);
  auto floats = block<float>(given ? 0 : m * k);
  for (std::size_t row = 0; row < m; ++row)
    for (std::size_t i = 0; i < k; ++i) {
      tokens[row * k + i] = static_cast<std::int8_t>(i == 0 && !given ? -128 : static_cast<int>(below(256)) - 128);
      if (!given) floats[row * k + i] = static_cast<float>(tokens[row * k + i]);  // scale 1: these very codes
    }
  auto sums = block<std::int32_t>(finished ? 0 : m * n);
  auto out = block<float>(finished ? m * n : 0), scale = block<float>(given ? 0 : m);
  xtc::Call call{given ? nullptr : floats.get(), given ? tokens.get() : nullptr, m, isa,
                 given ? nullptr : scale.get(), matrix.weight, xtc::kRelu, finished ? nullptr : sums.get(),
                 finished ? out.get() : nullptr, {}};
  auto values = block<std::int8_t>(n * k);
  if (below(2)) {
    for (std::size_t i = 0; i < n * k; ++i) values[i] = static_cast<std::int8_t>(matrix.values[i]);
    call.weight.codes = nullptr, call.fresh = {values.get(), isa == xtc::kAvx512Lut && matrix.weight.bits == 1};
  }
  {
    Helpers helpers;
    xtc::multiply(call, 1 + below(3), [&](auto task) { helpers(std::move(task)); });
  }
  for (std::size_t row = 0; row < m; ++row)
    for (std::size_t o = 0; o < n; ++o) {
      std::int32_t sum = 0;
      for (std::size_t i = 0; i < k; ++i) sum += tokens[row * k + i] * matrix.values[o * k + i];
      const float by = matrix.weight.scales == 1 ? matrix.scale[0] : matrix.scale[o], bias = matrix.bias[o];
      const float y = std::fma(static_cast<float>(sum), by, bias);
      if (finished ? k && out[row * n + o] != (y < 0 ? 0.0f : y) : sums[row * n + o] != sum) return false;
    }
  return true;
}

// The same layers by two numbers of threads: equal to the bit.
bool one_encoder() {
  const std::size_t heads = 1 + below(2), hidden = 16 * heads * (1 + below(2)), inner = 1 + below(100), count = 1 + below(2);
  const std::size_t batch = 1 + below(4), length = 1 + below(60);
  const xtc::Isa isa = some_isa();
  std::vector<Matrix> matrices;
  for (std::size_t i = 0; i < count; ++i)
    for (std::size_t j = 0; j < 6; ++j) matrices.emplace_back(j == 4 ? inner : hidden, j == 5 ? inner : hidden, 1 + below(2), isa);
  const auto norm = numbers(hidden), x = numbers(batch * length * hidden);
  auto mask = block<std::int32_t>(batch * length);
  for (std::size_t i = 0; i < batch * length; ++i) mask[i] = static_cast<std::int32_t>(below(2));
  std::vector<xtc::Layer> layers;
  for (std::size_t i = 0; i < count; ++i) {
    const auto at = [&](std::size_t j) { return matrices[6 * i + j].weight; };
    layers.push_back({at(0), at(1), at(2), at(3), at(4), at(5), {norm.get(), norm.get()}, {norm.get(), norm.get()}});
  }
  auto first = block<float>(batch * length * hidden), second = block<float>(batch * length * hidden);
  for (float* out : {first.get(), second.get()}) {
    const xtc::EncoderCall call{x.get(), mask.get(), layers, batch, length, hidden, inner, heads, 1e-12f, xtc::kGelu, isa, out};
    Helpers helpers;
    xtc::encode(call, out == first.get() ? 1 : 1 + below(20), [&](auto task) { helpers(std::move(task)); });
  }
  return std::memcmp(first.get(), second.get(), batch * length * hidden * sizeof(float)) == 0;
}

}  // namespace

int main(int count, char** arguments) {
  const int calls = count > 1 ? std::atoi(arguments[1]) : 1;
  for (int i = 0; i < calls; ++i)
    if (!(i % 10 ? one_product() : one_encoder())) return std::fprintf(stderr, "call %d differs\n", i), 1;
  std::printf("%d calls, all equal\n", calls);
}
