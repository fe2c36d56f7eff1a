// Stage `index`: clusters of keys, built once, appendable, used by prefill, chunks and decode.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <utility>

#include "prescore/executor.h"
#include "prescore/types.h"

namespace prescore {

/// Shape of the tree over each segment of keys.
struct IndexOptions {
  std::int64_t segment = 512;   ///< keys of a segment; a full segment never changes
  std::int64_t cluster = 8;     ///< keys of a cluster on average (level 0)
  std::int64_t group = 32;      ///< keys of a group of clusters on average (level 1)
  std::int64_t iterations = 3;  ///< Lloyd iterations
  std::int64_t sinks = 16;      ///< first keys, always read exactly and therefore in no cluster
  /// Keep a second copy of keys and values, ordered by cluster and converted for the tile unit.
  /// Costs the memory of K and V again; gathers become sequential reads.
  bool packed = false;
};

/// Clusters over the keys of every (batch, key head), as a tree: segments of 512 keys (level 2),
/// groups of about 32 (level 1), clusters of about 8 (level 0). Each node keeps the mean key, the
/// mean value and the number of its keys. Only complete segments are in the index.
class KeyIndex {
 public:
  static constexpr int kLevels = 3;

  explicit KeyIndex(const IndexOptions& options = {});
  ~KeyIndex();
  KeyIndex(KeyIndex&&) noexcept;
  KeyIndex& operator=(KeyIndex&&) noexcept;

  /// Brings the index up to date with a cache that has grown. k [b, h_kv, n, d] and v
  /// [b, h_kv, n, d_v] are the whole cache so far, n >= size(); only segments that have become
  /// complete since the last call are read. One call with n keys and many smaller calls give the
  /// same index, bit for bit. Throws Error when shapes differ from the first call.
  void extend(const Tensor& k, const Tensor& v, Executor& executor);

  /// Forgets everything from key n on (rounded down to whole segments): after removal or rewriting.
  void truncate(std::int64_t n);

  /// Compares the fingerprints of the complete segments with the cache and truncates at the first
  /// that was rewritten. Returns the number of keys still indexed.
  std::int64_t validate(const Tensor& k);

  /// Keys covered: a multiple of the segment.
  std::int64_t size() const noexcept;
  /// Bytes held.
  std::int64_t bytes() const noexcept;
  const IndexOptions& options() const noexcept;

  /// Nodes of each level in one segment, and in all.
  std::int64_t nodes_per_segment(int level) const noexcept;
  std::int64_t nodes_per_segment() const noexcept;
  /// First node of a level within a segment; node ids are segment * nodes_per_segment() + local.
  std::int64_t first_node(int level) const noexcept;

  /// Mean keys [b, h_kv, nodes, d] and mean values [b, h_kv, nodes, d_v], in the dtypes of K and V,
  /// rows by node id. Rows of empty nodes are zero.
  Tensor node_keys() const noexcept;
  Tensor node_values() const noexcept;
  /// Number of keys in a node; 0: empty, never to be read.
  std::int32_t count(std::int64_t b, std::int64_t h, std::int64_t node) const noexcept;
  /// Counts by node id of one (batch, key head).
  std::span<const std::uint16_t> counts(std::int64_t b, std::int64_t h) const noexcept;
  /// Children of a node of level 1 or 2, as local node numbers [first, last) in its segment.
  std::pair<std::int32_t, std::int32_t> children(std::int64_t b, std::int64_t h,
                                                 std::int64_t node) const noexcept;
  /// Offsets, within the segment, of the keys of a node of any level, by cluster.
  std::span<const std::uint16_t> members(std::int64_t b, std::int64_t h,
                                         std::int64_t node) const noexcept;

  struct Impl;
  const Impl& impl() const noexcept { return *impl_; }

 private:
  std::unique_ptr<Impl> impl_;
};

}  // namespace prescore
