// What the kernels that score groups share: which groups a tile has, keys that it reads anyway.
#pragma once

#include "plan/plan_cuda.cuh"
#include "plan/route.cuh"
#include "plan/totals.cuh"

namespace prescore::cuda {

__device__ __forceinline__ TileInfo tile_or_none(const PlanView& plan, int t) {
  return t < plan.tiles ? plan.tile[t] : TileInfo{};
}
__device__ __forceinline__ bool same_sequence(const TileInfo& a, const TileInfo& b) {
  return a.batch == b.batch && a.k == b.k && a.segment == b.segment;
}
/// Of tiles [first, first + count), the first one of their n-th sequence that has queries; -1: it
/// has none.
__device__ inline int lead_of(const PlanView& plan, int first, int count, int n) {
  for (int t = 0; t < count; ++t) {
    const TileInfo tile = tile_or_none(plan, first + t);
    if (tile.rows <= 0 || (t > 0 && same_sequence(tile, tile_or_none(plan, first + t - 1))))
      continue;
    if (n-- == 0) return t;
  }
  return -1;
}
/// Groups of a sequence that compete for a tile, from its first one on.
__device__ __forceinline__ int far_groups(const Problem& p, const TileInfo& tile,
                                          const Route& route, const IndexView& index) {
  if (tile.rows <= 0) return 0;
  const Layout x = layout_of(p, tile, route.rule);
  return x.all() ? 0 : static_cast<int>(x.local) / kSegment * index.groups;
}

/// The j-th group of a sequence, and then each kBy-th: its node, counted from the first of the
/// sequence, and its number in its segment.
template <int kBy>
struct Group {
  int node, number, more_nodes, more;

  __device__ Group(const IndexView& index, int j) {
    const int segment = j / index.groups, segments = kBy / index.groups;
    number = j - segment * index.groups;
    node = segment * index.nodes + index.clusters + number;
    more = kBy - segments * index.groups;
    more_nodes = segments * index.nodes + more;
  }
  __device__ void go_on(const IndexView& index) {
    node += more_nodes, number += more;
    if (number >= index.groups) number -= index.groups, node += index.nodes - index.groups;
  }
};

/// Rows 8 n + 2 (lane % 4) + j % 2 from `left` on count for nothing.
template <int kEights>
__device__ __forceinline__ void mask_rows(float (&c)[kEights][4], int left, float scale, int lane) {
  const float never = scale < 0 ? INFINITY : -INFINITY;
#pragma unroll
  for (int n = 0; n < kEights; ++n)
#pragma unroll
    for (int j = 0; j < 4; ++j)
      if (8 * n + lane % 4 * 2 + j % 2 >= left) c[n][j] = never;
}

/// Base-2 logarithm of a query's total; infinite where it is not there, or has no say, as with NaN.
__device__ __forceinline__ float log_total(float2 sum, bool there) {
  const float total = sum.x + log2f(sum.y);
  return there && fabsf(total) < INFINITY ? total : INFINITY;
}

/// The keys that a tile reads anyway, as far as the estimate of all attention sees them: all sinks,
/// every kEvery-th of the window's that its first query sees.
struct KeysRead {
  static constexpr int kEvery = 8;
  int window, sinks, samples;

  __device__ KeysRead(const Problem& p, const TileInfo& tile, const LayoutRule& rule) {
    const Layout x = layout_of(p, tile, rule);
    window = static_cast<int>(x.window), sinks = static_cast<int>(x.sinks);
    const int end = min(tile.end(p, 0), static_cast<int>(x.end));
    samples = window < end ? (end - window + kEvery - 1) / kEvery : 0;
  }
  __device__ int size() const { return sinks + samples; }
  __device__ int position(int i) const {
    return i < sinks ? i : i < size() ? window + (i - sinks) * kEvery : 0;
  }
  __device__ float weight(int i) const { return i < sinks ? 1.0f : float{kEvery}; }
};

/// `totals`, blocks from `to` on, of kBlocks x 16 queries, fragments as for add_products <- and the
/// keys first, ..., 16 at a time, `step` apart.
template <typename T, int D, int kBlocks, int kHave, typename Queries>
__device__ void add_keys_read(Totals<kHave>& totals, int to, const Problem& p, const TileInfo& tile,
                              int kv_head, const KeysRead& read, int first, int step, int lane,
                              const Queries& queries) {
  for (int at = first; at < read.size(); at += step) {
    const auto key = [&](int i) {
      return row<T>(p.k, tile.batch, kv_head, tile.k + read.position(i));
    };
    RowPair<D> rows;
    rows.load(key(at + lane / 4), key(at + lane / 4 + 8), p.d, lane);
    Products<kBlocks> c = {};
    add_products<T, D, kBlocks>(c, rows, queries);
    if (at + 16 > read.size())
#pragma unroll
      for (int m = 0; m < kBlocks; ++m) mask_rows(c[m], read.size() - at, p.scale, lane);
    Shares keys;
    for (int n = 0; n < 2; ++n)
      for (int j = 0; j < 2; ++j) keys[n][j] = read.weight(at + 8 * n + lane % 4 * 2 + j);
    totals.template add<kBlocks>(c, 0, to, keys, p.scale);
  }
}

}  // namespace prescore::cuda
