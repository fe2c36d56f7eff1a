// What the two routing kernels share: routing queries, estimates, codes.
#pragma once

#include "common/mma.cuh"
#include "plan/plan_cuda.cuh"

namespace prescore::cuda {

/// How much a node is wanted, ordered as an integer: the high half grows with the rank (base-2
/// logarithm of the share of far attention a key of it has for the query that wants it most; 0: the
/// node has no keys), the low half holds the leading bits of its share of all attention.
struct Code {
  static __device__ __forceinline__ std::uint32_t make(float rank, float share, bool any) {
    const float x = fminf(fmaxf((rank + 96.0f) * 512.0f, 1.0f), 65535.0f);  // NaN: 1
    return any ? static_cast<std::uint32_t>(x) << 16 | __float_as_uint(share) >> 16 : 0u;
  }
  static __device__ __forceinline__ std::uint32_t rank(std::uint32_t code) { return code >> 16; }
  static __device__ __forceinline__ float share(std::uint32_t code) {
    return __uint_as_float(code << 16);
  }
};

/// 2^x within 6 %, for x in (-60, 60) and its ends beyond: straight lines between powers of two.
__device__ __forceinline__ float rough_exp2(float x) {
  const int fixed = __float_as_int(fminf(fmaxf(x, -60.0f), 60.0f) + 192.0f);  // 16 bits of fraction
  return __int_as_float((fixed << 7) + static_cast<int>((127u << 23) - (0x43400000u << 7)));
}

/// Row of the tile of its i-th routing query, negative: none. They are counted from the last.
__device__ __forceinline__ int routing_row(int rows, int tile, int i) {
  return rows - 1 - i * max(1, tile / kRouting);
}
__device__ __forceinline__ int routing_rows(int rows, int tile) {
  const int step = max(1, tile / kRouting);
  return min((rows + step - 1) / step, kRouting);
}

/// The layout of a tile that is routed, by the one rule.
__device__ __forceinline__ Layout layout_of(const Problem& p, const TileInfo& tile,
                                            const LayoutRule& rule) {
  return make_layout(p.causal, tile.end(p, 0), tile.end(p, tile.rows - 1), rule, kSegment,
                     tile.segments * kSegment);
}

/// Blocks of 8 columns, each a routing query, that a tile has in a product.
inline constexpr int kColumns = kRouting / 8;
/// Products of 16 rows with the routing queries of kTiles tiles: c[n][j] belongs to row
/// lane / 4 + 8 (j / 2) and column 8 n + 2 (lane % 4) + j % 2.
template <int kTiles>
using Products = float[kTiles * kColumns][4];
template <int kTiles, int D>
using Queries = std::uint32_t[D / 16][kTiles][4];
/// A number for each of a lane's columns.
template <int kTiles>
using PerColumn = float[kTiles * kColumns][2];

template <int kTiles, int D>
__device__ __forceinline__ void load_queries(Queries<kTiles, D>& q, std::uint32_t base, int rows,
                                             int row, int lane) {
#pragma unroll
  for (int k = 0; k < D / 16; ++k)
#pragma unroll
    for (int t = 0; t < kTiles; ++t) load_b(q[k][t], base, rows, row + t * kRouting, k, lane);
}
template <typename T, int kTiles>
__device__ __forceinline__ void add_products(Products<kTiles>& c, const std::uint32_t (&a)[4],
                                             const std::uint32_t (&q)[kTiles][4]) {
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    multiply<T>(c[2 * t], a, q[t][0], q[t][1]);
    multiply<T>(c[2 * t + 1], a, q[t][2], q[t][3]);
  }
}

/// Rank and share of the two rows of a lane over the queries of tile t; complete in every lane of a
/// quad. far, all: totals of the lane's queries; +inf where there is no query.
template <int kTiles>
__device__ __forceinline__ void judge(const Products<kTiles>& c, int t, float scale,
                                      const float (&log_count)[2], const PerColumn<kTiles>& far,
                                      const PerColumn<kTiles>& all, float (&rank)[2],
                                      float (&share)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    rank[r] = -INFINITY, share[r] = 0;
#pragma unroll
    for (int n = t * kColumns; n < (t + 1) * kColumns; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float x = c[n][2 * r + j] * scale;
        rank[r] = fmaxf(rank[r], x - far[n][j]);
        share[r] += rough_exp2(x + log_count[r] - all[n][j]);
      }
    rank[r] = quad_max(rank[r]);
    share[r] = quad_sum(share[r]);
  }
}

}  // namespace prescore::cuda
