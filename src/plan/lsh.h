// Angular locality-sensitive hashing (Charikar 2002): one bit a random direction, the side on which
// a vector lies; two vectors at angle a differ in each bit with probability a / pi.
#pragma once

#include <cstdint>
#include <vector>

#include "prescore/types.h"

namespace prescore {

/// Place of a code in Hamming order (the reflected Gray code): codes at neighbouring places differ
/// in one bit.
constexpr std::uint32_t hamming_place(std::uint32_t code) noexcept {
  for (int shift = 16; shift > 0; shift /= 2) code ^= code >> shift;
  return code;
}
constexpr std::uint32_t hamming_code(std::uint32_t place) noexcept { return place ^ (place >> 1); }

/// Random directions, independent normal numbers from a seed.
class AngularHash {
 public:
  AngularHash(std::int64_t bits, std::int64_t d, std::uint64_t seed);

  std::int64_t bits() const noexcept { return bits_; }
  /// [d]
  const float* direction(std::int64_t bit) const noexcept { return direction_.data() + bit * d_; }
  std::int64_t buckets() const noexcept { return std::int64_t{1} << bits_; }
  /// out [rows][bits] <- the products of rows [first, last) of one head with the directions.
  void project(const Tensor& x, std::int64_t b, std::int64_t h, std::int64_t first,
               std::int64_t last, float* out) const;
  /// The code of one row of products, taken around `centre` [bits].
  std::uint32_t code(const float* products, const float* centre) const noexcept {
    std::uint32_t bits = 0;
    for (std::int64_t i = 0; i < bits_; ++i) bits |= std::uint32_t{products[i] > centre[i]} << i;
    return bits;
  }

 private:
  std::int64_t bits_, d_;
  std::vector<float> direction_;  // [bits][d]
};

/// In place of a key: a row of zeros, which is hashed as such.
inline constexpr std::int32_t kNoKey = -1;

/// Keys in the Hamming order of their buckets.
struct HashOrder {
  std::vector<std::int32_t> keys;   ///< by bucket, as given within one
  std::vector<std::int32_t> start;  ///< [buckets + 1]
};
/// products: [key][bits], as from AngularHash::project. Centred: hashed around the mean of the
/// keys, since softmax ignores a common shift and angles do not.
HashOrder hash_order(std::vector<std::int32_t> keys, const AngularHash&, const float* products,
                     bool centred);

}  // namespace prescore
