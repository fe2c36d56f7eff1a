// Products of a few fixed rows with many keys, by the tile kernels.
#pragma once

#include <vector>

#include "common/views.h"
#include "score/head_keys.h"
#include "tile/tile.h"

namespace prescore {

/// rows . key for a block of rows [m, d] that stays, lanes are keys.
class RowProducts {
 public:
  /// Room for the keys of one call; one a worker.
  struct Scratch {
    Buffer<std::byte> keys;
    Buffer<float> s;
    std::vector<const void*> pointers;
  };

  explicit RowProducts(const RowsF& rows,
                       const tile::Kernels& kernels = tile::kernels(Compute::kF32, DType::kF32));
  int count() const { return count_; }
  /// Rows of the result, a few more than count().
  int padded() const { return padded_; }

  /// Products with keys [first, first + n), n at most HeadKeys::kBlock; rows of `keys` up to a
  /// whole block must exist. Returns [vec][padded()][16]; lane i % 16 of vec i / 16 is key first +
  /// i.
  float* run(const RowsF& keys, std::int64_t first, std::int64_t n, Scratch&) const;
  /// The same for n rows of any dtype, anywhere.
  float* run(const void* const* keys, DType dtype, std::int64_t n, Scratch&) const;

 private:
  const tile::Kernels& kernels_;
  int count_, padded_, d_, d_pad_;
  std::int64_t row_bytes_;
  Buffer<std::byte> block_;
};

}  // namespace prescore
