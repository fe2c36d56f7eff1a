// What KeyIndex holds, for planners and kernels inside the library.
#pragma once

#include <cstdint>
#include <vector>

#include "common/views.h"
#include "prescore/index.h"
#include "tile/tile.h"

namespace prescore {

/// Offsets are within a segment; node numbers are local: clusters, then groups, then the segment.
struct KeyIndex::Impl {
  IndexOptions options;
  std::int64_t clusters = 0, groups = 0, nodes = 0;  // of one segment
  std::int64_t b = 0, h = 0, d = 0, d_v = 0;
  DType k_type = DType::kF32, v_type = DType::kF32;
  std::int64_t segments = 0;  // complete and indexed
  std::int64_t capacity = 0;  // segments that the buffers below hold

  Buffer<std::byte> node_k, node_v;      // [b * h][capacity * nodes][d or d_v]
  Buffer<std::uint16_t> count, begin;    // [b * h][capacity * nodes] keys of a node, first member
  Buffer<std::uint16_t> child;           // [b * h][capacity][groups + 1] first cluster of a group
  Buffer<std::uint16_t> member;          // [b * h][capacity][segment] key offsets by cluster
  Buffer<std::uint64_t> fingerprint;     // [b * h][capacity]
  Buffer<std::byte> packed_k, packed_v;  // [b * h][capacity * segment][d or d_v], by cluster

  std::int64_t head(std::int64_t ib, std::int64_t ih) const noexcept { return ib * h + ih; }
  const std::byte* key_of(std::int64_t bh, std::int64_t node) const noexcept {
    return node_k.data() + (bh * capacity * nodes + node) * d * size_of(k_type);
  }
  const std::byte* value_of(std::int64_t bh, std::int64_t node) const noexcept {
    return node_v.data() + (bh * capacity * nodes + node) * d_v * size_of(v_type);
  }
  const std::uint16_t* counts_of(std::int64_t bh) const noexcept {
    return count.data() + bh * capacity * nodes;
  }
  const std::uint16_t* begins_of(std::int64_t bh) const noexcept {
    return begin.data() + bh * capacity * nodes;
  }
  const std::uint16_t* children_of(std::int64_t bh, std::int64_t segment) const noexcept {
    return child.data() + (bh * capacity + segment) * (groups + 1);
  }
  const std::uint16_t* members_of(std::int64_t bh, std::int64_t segment) const noexcept {
    return member.data() + (bh * capacity + segment) * options.segment;
  }
  void grow(std::int64_t wanted);
};

/// Order-independent checks need one number per segment: a hash of parts of each key row.
std::uint64_t fingerprint(const Tensor& k, std::int64_t b, std::int64_t h, std::int64_t first,
                          std::int64_t n);

/// Builds one segment of one head: k-means, groups, means. `worker` scratch is private to it.
class SegmentBuilder {
 public:
  void build(KeyIndex::Impl& index, const Tensor& k, const Tensor& v, std::int64_t bh,
             std::int64_t segment);

 private:
  void assign(std::int64_t n_keys, std::int64_t n_clusters, std::int64_t d);
  void group(KeyIndex::Impl& index);

  Buffer<float> x_, centroid_, score_, bias_;
  Buffer<std::byte> packed_, block_;
  std::vector<const void*> rows_;
  std::vector<std::uint16_t> label_, group_, order_;
  std::vector<std::int32_t> size_;
  std::int64_t d_pad_ = 0;
  const tile::Kernels* kernels_ = nullptr;
};

}  // namespace prescore
