#include "plan/lsh.h"

#include <algorithm>
#include <cmath>

#include "common/random.h"
#include "common/views.h"
#include "tile/tile.h"

namespace prescore {

AngularHash::AngularHash(std::int64_t bits, std::int64_t d, std::uint64_t seed)
    : bits_(bits), d_(d), direction_(static_cast<std::size_t>(bits * d)) {
  const std::uint64_t stream = mix(seed ^ 0x6c7368u);
  for (std::size_t i = 0; i < direction_.size(); ++i)
    direction_[i] = static_cast<float>(normal(stream, i));
}

void AngularHash::project(const Tensor& x, std::int64_t b, std::int64_t h, std::int64_t first,
                          std::int64_t last, float* out) const {
  constexpr std::int64_t kBlock = 256;
  const void* rows[kBlock];
  float dots[kBlock];
  for (std::int64_t i = first; i < last; i += kBlock) {
    const std::int64_t n = std::min(kBlock, last - i);
    for (std::int64_t j = 0; j < n; ++j) rows[j] = row(x, b, h, i + j);
    for (std::int64_t bit = 0; bit < bits_; ++bit) {
      tile::row_kernels().dots(direction_.data() + bit * d_, rows, x.dtype, static_cast<int>(n),
                               static_cast<int>(d_), dots);
      for (std::int64_t j = 0; j < n; ++j) out[(i - first + j) * bits_ + bit] = dots[j];
    }
  }
}

HashOrder hash_order(std::vector<std::int32_t> keys, const AngularHash& hash, const float* products,
                     bool centred) {
  const auto bits = static_cast<std::size_t>(hash.bits());
  const std::vector<float> origin(bits, 0.0f);
  const auto at = [&](std::int32_t key) {
    return key == kNoKey ? origin.data() : products + static_cast<std::size_t>(key) * bits;
  };
  std::vector<float> centre(bits, 0.0f);
  if (centred) {
    for (std::size_t i = 0; i < bits; ++i) {
      double sum = 0, count = 0;
      for (const std::int32_t key : keys)
        if (std::isfinite(at(key)[i])) sum += double{at(key)[i]}, ++count;
      if (count > 0) centre[i] = static_cast<float>(sum / count);
    }
  }
  const auto buckets = static_cast<std::size_t>(hash.buckets());
  HashOrder out;
  out.start.assign(buckets + 1, 0);
  std::vector<std::uint32_t> place;
  place.reserve(keys.size());
  for (const std::int32_t key : keys) {
    place.push_back(hamming_place(hash.code(at(key), centre.data())));
    ++out.start[place.back() + 1];
  }
  for (std::size_t i = 0; i < buckets; ++i) out.start[i + 1] += out.start[i];
  std::vector<std::int32_t> next(out.start.begin(), out.start.end() - 1);
  out.keys.resize(keys.size());
  for (std::size_t i = 0; i < keys.size(); ++i)
    out.keys[static_cast<std::size_t>(next[place[i]]++)] = keys[i];
  return out;
}

}  // namespace prescore
