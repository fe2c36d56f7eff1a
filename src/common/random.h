// Random numbers by counter: no draw depends on the order of the others.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>

namespace prescore {

/// A well mixed function of its argument (splitmix64, Steele et al. 2014).
constexpr std::uint64_t mix(std::uint64_t x) noexcept {
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9u;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebu;
  return x ^ (x >> 31);
}
/// Uniform in [0, 1) from the top 53 bits.
constexpr double unit(std::uint64_t bits) noexcept {
  return static_cast<double>(bits >> 11) * 0x1p-53;
}

/// Standard normal number `i` of a stream (Box and Muller 1958).
inline double normal(std::uint64_t stream, std::uint64_t i) noexcept {
  const double u = 1.0 - unit(mix(stream + 2 * i)), v = unit(mix(stream + 2 * i + 1));
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * v);
}

}  // namespace prescore
