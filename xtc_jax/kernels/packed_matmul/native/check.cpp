// Random calls beside plain sums, for a build with -fsanitize=address,undefined: check COUNT. Every buffer is as long as its call
// says and no longer.
#include <cstdio>
#include <cstdlib>
#include <random>
#include <thread>
#include <vector>

#include "multiply.h"

namespace {

std::mt19937 random_bits(0);

std::size_t below(std::size_t limit) { return random_bits() % limit; }

// Exactly size bytes or numbers, so that one read too far is seen.
template <typename T>
std::unique_ptr<T[]> block(std::size_t size) {
  return std::unique_ptr<T[]>(new T[size]());
}

bool one_call() {
  const int bits = 1 + static_cast<int>(below(2));
  const std::size_t m = below(40), k = below(200), n = below(200), k4 = (k + 3) / 4, planes = 8 / bits, width = 16 * planes;
  const std::size_t groups = (n + width - 1) / width;
  auto values = block<int>(n * k);
  auto codes = block<std::uint8_t>(groups * k4 * 64);
  for (std::size_t o = 0; o < n; ++o)
    for (std::size_t i = 0; i < k; ++i) {
      const std::size_t code = below(bits == 1 ? 2 : 3), inner = o % width;
      values[o * k + i] = bits == 1 ? 2 * static_cast<int>(code) - 1 : static_cast<int>(code) - 1;
      codes[(o / width * k4 + i / 4) * 64 + 4 * (inner % 16) + i % 4] |= static_cast<std::uint8_t>(code << (bits * (inner / 16)));
    }
  const bool given = below(2);
  auto tokens = block<std::int8_t>(m * k);
  auto floats = block<float>(given ? 0 : m * k);
  for (std::size_t row = 0; row < m; ++row)
    for (std::size_t i = 0; i < k; ++i) {
      tokens[row * k + i] = static_cast<std::int8_t>(i == 0 && !given ? -128 : static_cast<int>(below(256)) - 128);
      if (!given) floats[row * k + i] = static_cast<float>(tokens[row * k + i]);  // scale 1: these very codes
    }
  auto out = block<std::int32_t>(m * n);
  auto scale = block<float>(given ? 0 : m);
  const xtc::Isa isa = static_cast<xtc::Isa>(below(xtc::best_isa() + 1));
  const xtc::Call call{given ? nullptr : floats.get(), given ? tokens.get() : nullptr, codes.get(), m, k, n, bits, isa,
                       out.get(), given ? nullptr : scale.get()};
  std::vector<std::thread> helpers;
  xtc::multiply(call, 1 + below(3), [&](auto task) { helpers.emplace_back(std::move(task)); });
  for (auto& each : helpers) each.join();
  for (std::size_t row = 0; row < m; ++row)
    for (std::size_t o = 0; o < n; ++o) {
      std::int32_t sum = 0;
      for (std::size_t i = 0; i < k; ++i) sum += tokens[row * k + i] * values[o * k + i];
      if (out[row * n + o] != sum) return false;
    }
  return true;
}

}  // namespace

int main(int count, char** arguments) {
  const int calls = count > 1 ? std::atoi(arguments[1]) : 1;
  for (int i = 0; i < calls; ++i)
    if (!one_call()) return std::fprintf(stderr, "call %d differs\n", i), 1;
  std::printf("%d calls, all equal\n", calls);
}
