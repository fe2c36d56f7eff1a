// What the kernels of all stages are told: views, tiles, and where a row lies.
#pragma once

#include <cstdint>

#include "plan/layout.h"

namespace prescore::cuda {

/// Rounded down, also below 0.
__device__ __forceinline__ int floor_divide(int x, int by) {
  return x >= 0 ? x / by : -((by - 1 - x) / by);
}

/// Rows of [b, h, n, d]; strides in elements, the last axis contiguous.
struct View {
  const void* data;
  std::int64_t b, h, n;
};
template <typename T>
__device__ __forceinline__ const T* row(const View& v, std::int64_t b, std::int64_t h,
                                        std::int64_t n) {
  return static_cast<const T*>(v.data) + b * v.b + h * v.h + n * v.n;
}

/// One call. Sequences are the entries of a batch, or, where cu_q is given, the ranges
/// [cu[i], cu[i + 1]) of one packed row axis.
struct Problem {
  View q, k, v, o;
  float* lse;  ///< [b][h_q][n_q], packed [h_q][n_q]; may be null
  const std::int32_t *cu_q, *cu_k;
  const std::int32_t* ends;  ///< null, or keys that each query of a tile's rows sees, ascending
  int sequences, h_q, h_kv, n_q, n_kv, d, d_v;  ///< n_q, n_kv: rows of the axis
  int tile;                                     ///< queries that choose together, at most kTile
  bool causal;
  float scale;  ///< factor on q.k times log2 e

  __device__ __forceinline__ int kv_head(int h) const { return h / (h_q / h_kv); }
  int batches() const { return cu_q == nullptr ? sequences : 1; }
};

/// Queries of one sequence that choose and are computed together, for every head.
struct TileInfo {
  std::int32_t batch;      ///< entry of the batch; 0 where sequences are packed
  std::int32_t q, rows;    ///< rows of Q (or lanes): [q, q + rows); none: nothing to do
  std::int32_t first_end;  ///< keys that the first query sees; the next sees one more if causal
  std::int32_t k, n_kv;    ///< rows of K: [k, k + n_kv)
  std::int32_t segment;    ///< first of the sequence in the index
  std::int32_t segments;   ///< complete ones

  __device__ __forceinline__ int end(const Problem& p, int row) const {
    const int e = p.ends != nullptr ? p.ends[q + min(row, rows - 1)]
                  : p.causal        ? first_end + row
                                    : n_kv;
    return e < 0 ? 0 : e;
  }
};

/// A complete segment of keys of one sequence.
struct SegmentInfo {
  std::int32_t batch, k;  ///< its first row of K
  std::int32_t first;     ///< 1: the sequence begins with it
};

inline constexpr int kSegment = 512;
inline constexpr int kTile = 128;  ///< most rows of a tile
inline constexpr float kLog2E = 1.4426950408889634f;
inline constexpr float kLn2 = 0.6931471805599453f;

/// The index of all (key head, segment): nodes are clusters, groups, the segment, as in KeyIndex.
struct IndexView {
  void *node_k, *node_v;  ///< [h_kv][segments][nodes][d or d_v]
  std::uint16_t* count;   ///< [h_kv][segments][nodes]
  std::uint16_t* begin;   ///< [h_kv][segments][nodes] first member
  std::uint16_t* child;   ///< [h_kv][segments][groups + 1] first cluster of a group
  std::uint16_t* member;  ///< [h_kv][segments][512] offsets in the segment, by cluster
  const SegmentInfo* segment;
  int segments, clusters, groups, nodes, sinks, iterations;

  __device__ __forceinline__ std::int64_t at(int head, int seg) const {
    return std::int64_t{head} * segments + seg;
  }
};

/// What one (tile, list) reads: keys [window, end), [0, sinks), then `keys` single ones and `nodes`
/// stand-ins of its list, stand-ins as ~(node of the sequence).
struct Reads {
  std::int32_t window, end, sinks, keys, nodes;
  __host__ __device__ int total() const { return end - window + sinks + keys + nodes; }
};

/// A query of some head: tiles of lanes are not rows that follow each other.
struct Lane {
  std::int32_t head, query;
};

/// Query heads of one key head that read the same. The heads of a call are numbered in the order of
/// the lists: these are [unit, unit + heads).
struct ListInfo {
  std::int32_t unit, heads;
  std::int32_t capacity;  ///< single keys and stand-ins of a tile, at most
  std::int64_t begin;     ///< of its tiles' entries among those of its wave
};
/// All lists of a call, on the device.
struct ListTable {
  const ListInfo* list;
  const std::int32_t *head_of, *list_of;  ///< by unit: its query head, its list
};

/// Plans of all tiles: the plans [0, lists) here belong to the lists from first_list on, with
/// `units` heads in all.
struct PlanView {
  const TileInfo* tile;
  Reads* reads;        ///< [list][tile]
  std::int32_t* list;  ///< [list][tile][capacity of the list]
  int tiles, lists, first_list, units;
  ListTable table;
  /// Null, or: a tile's queries are the lanes [q, q + rows) of all heads of a list, and what its
  /// plan reads joins what o and lse hold.
  const Lane* lane = nullptr;
  float* weight = nullptr;  ///< null: all 0, or as `list`: logarithms (base 2) of weights
  const std::uint8_t* redone =
      nullptr;  ///< null, or by query head, 1: it reads everything after all

  __host__ __device__ __forceinline__ std::int64_t at(int list_, int t) const {
    return std::int64_t{list_} * tiles + t;
  }
  __device__ __forceinline__ const ListInfo& info(int list_) const {
    return table.list[first_list + list_];
  }
  /// Query heads of a list, and the i-th of them.
  __device__ __forceinline__ int heads(int list_) const { return info(list_).heads; }
  __device__ __forceinline__ int head(int list_, int i = 0) const {
    return table.head_of[info(list_).unit + i];
  }
  /// Where the entries of a tile begin, in `list` and `weight`.
  __device__ __forceinline__ std::int64_t entries(int list_, int t) const {
    const ListInfo& x = info(list_);
    return x.begin + std::int64_t{t} * x.capacity;
  }
};

}  // namespace prescore::cuda
