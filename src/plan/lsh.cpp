#include "plan/lsh.h"

#include <algorithm>

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

}  // namespace prescore
