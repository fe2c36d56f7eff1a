// What the two routing kernels share: routing queries, products, codes.
#pragma once

#include "common/mma.cuh"
#include "plan/plan_cuda.cuh"

namespace prescore::cuda {

/// How much a node is wanted, ordered as an integer: the high half grows with the rank (base-2
/// logarithm of the share of all attention that one of its keys has, averaged over the routing
/// queries), the low half is its number of keys. 0: it has none.
struct Code {
  static __device__ __forceinline__ std::uint32_t make(float rank, int keys) {
    const float x = fminf(fmaxf((rank + 96.0f) * 512.0f, 1.0f), 65535.0f);  // NaN: 1
    return keys > 0 ? static_cast<std::uint32_t>(x) << 16 | static_cast<std::uint32_t>(keys) : 0u;
  }
  static __device__ __forceinline__ std::uint32_t rank(std::uint32_t code) { return code >> 16; }
  static __device__ __forceinline__ int keys(std::uint32_t code) {
    return static_cast<int>(code & 0xffff);
  }
  static __device__ __forceinline__ float share(std::uint32_t code) {
    return exp2f(static_cast<float>(rank(code)) / 512.0f - 96.0f) * static_cast<float>(keys(code));
  }
};

/// The queries that speak for a tile and list: of each of its heads every step-th one, counted from
/// the last. Column i is the query at position i / heads of head i % heads.
struct RoutingQueries {
  int heads, step, columns;

  __device__ RoutingQueries(const Problem& p, const PlanView& plan, const TileInfo& tile,
                            int room) {
    heads = min(plan.share, room);
    step = (p.tile * heads + room - 1) / room;
    columns = heads * ((tile.rows + step - 1) / step);  // none for a tile without rows
  }
  template <typename T>
  __device__ const T* query(const Problem& p, const PlanView& plan, const TileInfo& tile, int list,
                            int column) const {
    return row<T>(p.q, tile.batch, plan.head(list) + column % heads,
                  tile.q + tile.rows - 1 - column / heads * step);
  }
};

/// The layout of a tile that is routed, by the one rule.
__device__ __forceinline__ Layout layout_of(const Problem& p, const TileInfo& tile,
                                            const LayoutRule& rule) {
  return make_layout(p.causal, tile.end(p, 0), tile.end(p, tile.rows - 1), rule, kSegment,
                     tile.segments * kSegment);
}

/// Products of 16 rows with 8 kN routing queries: c[n][j] belongs to row lane / 4 + 8 (j / 2) and
/// column 8 n + 2 (lane % 4) + j % 2.
template <int kN>
using Products = float[kN][4];
/// A number for each of a lane's columns.
template <int kN>
using PerColumn = float[kN][2];

/// c += rows (a fragment of step k) times the queries staged at `queries`, from `column` on.
template <typename T, int kN>
__device__ __forceinline__ void add_products(Products<kN>& c, const std::uint32_t (&a)[4],
                                             std::uint32_t queries, int rows, int column, int k,
                                             int lane) {
#pragma unroll
  for (int n = 0; n < kN; n += 2) {
    std::uint32_t b[4];
    load_b(b, queries, rows, column + 8 * n, k, lane);
    multiply<T>(c[n], a, b[0], b[1]);
    multiply<T>(c[n + 1], a, b[2], b[3]);
  }
}

/// Rank of the two rows of a lane over its columns [first, first + kN) of 8, but for the number of
/// queries; complete in every lane of a quad. all: totals of the lane's queries, +inf where there
/// is none. A query with NaN has no say.
template <int kN, int kAll>
__device__ __forceinline__ void judge(const Products<kAll>& c, int first, float scale,
                                      const PerColumn<kAll>& all, float (&rank)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    float sum = 0;
#pragma unroll
    for (int n = first; n < first + kN; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        sum += fast_exp2(fmaxf(fmaf(c[n][2 * r + j], scale, -all[n][j]), -1000.0f));
    rank[r] = fast_log2(quad_sum(sum));
  }
}

}  // namespace prescore::cuda
