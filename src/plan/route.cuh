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

// A product does not mind the order of what it sums. So a lane's four elements of a row in two
// steps of `mma`, 2 x 2 and 2 x 2, are eight neighbours in memory: rows come as 16-byte loads
// straight from where they lie, and queries as 16-byte loads from shared memory, where a row's
// stride of an odd number of 64 bytes is free of bank conflicts.

/// A lane's part of the rows lane / 4 and lane / 4 + 8 of 16: of 32 columns each it has eight.
template <int D>
struct RowPair {
  uint4 low[D / 32], high[D / 32];

  template <typename T>
  __device__ __forceinline__ void load(const T* row, const T* row8, int d, int lane) {
#pragma unroll
    for (int b = 0; b < D / 32; ++b) {
      const int column = 32 * b + 8 * (lane % 4);
      const bool valid = column < d;
      low[b] = valid ? __ldg(reinterpret_cast<const uint4*>(row + column)) : uint4{};
      high[b] = valid ? __ldg(reinterpret_cast<const uint4*>(row8 + column)) : uint4{};
    }
  }
};

/// Routing queries in shared memory.
template <int D>
struct StagedQueries {
  static constexpr int kStride = 2 * D + 64;  // bytes
  static constexpr int bytes(int columns) { return columns * kStride; }
  unsigned char* base;

  __device__ __forceinline__ uint4& chunk(int column, int c) const {
    return *reinterpret_cast<uint4*>(base + column * kStride + 16 * c);
  }
  /// A lane's part of the queries [column, column + 8) in the columns from 32 b on.
  __device__ __forceinline__ uint4 part(int column, int b, int lane) const {
    return chunk(column + lane / 4, 4 * b + lane % 4);
  }
};

/// c += rows times queries(n, b), each 8 columns' part in 32 columns.
template <typename T, int D, int kN, typename Queries>
__device__ __forceinline__ void add_products(Products<kN>& c, const RowPair<D>& rows,
                                             const Queries& queries) {
#pragma unroll
  for (int b = 0; b < D / 32; ++b) {
    const uint4 &x = rows.low[b], &y = rows.high[b];
    const std::uint32_t a[2][4] = {{x.x, y.x, x.y, y.y}, {x.z, y.z, x.w, y.w}};
#pragma unroll
    for (int n = 0; n < kN; ++n) {
      const uint4 q = queries(n, b);
      multiply<T>(c[n], a[0], q.x, q.y);
      multiply<T>(c[n], a[1], q.z, q.w);
    }
  }
}

/// Sums over columns [first, first + kN) of 8 of what share of a query's attention one key of the
/// two rows of a lane has; a lane's part of its quad's. all: totals of the lane's queries, +inf
/// where there is none.
template <int kN, int kAll>
__device__ __forceinline__ float2 add_shares(const Products<kAll>& c, int first, float scale,
                                             const PerColumn<kAll>& all) {
  float2 sum{0, 0};
#pragma unroll
  for (int n = first; n < first + kN; ++n)
#pragma unroll
    for (int j = 0; j < 2; ++j) {
      sum.x += fast_exp2(fmaf(c[n][j], scale, -all[n][j]));
      sum.y += fast_exp2(fmaf(c[n][2 + j], scale, -all[n][j]));
    }
  return sum;
}

}  // namespace prescore::cuda
