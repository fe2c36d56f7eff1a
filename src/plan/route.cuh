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

/// Products of 16 rows with the 32 routing queries: c[n][j] belongs to row lane / 4 + 8 (j / 2) and
/// query 8 n + 2 (lane % 4) + j % 2.
using Products = float[kRouting / 8][4];
template <int D>
using Queries = std::uint32_t[D / 16][2][4];

template <typename T, int D>
__device__ __forceinline__ void load_queries(Queries<D>& q, std::uint32_t base, int rows, int row,
                                             int lane) {
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    load_b(q[k][0], base, rows, row, k, lane);
    load_b(q[k][1], base, rows, row + 16, k, lane);
  }
}
template <typename T>
__device__ __forceinline__ void add_products(Products& c, const std::uint32_t (&a)[4],
                                             const std::uint32_t (&q)[2][4]) {
  multiply<T>(c[0], a, q[0][0], q[0][1]);
  multiply<T>(c[1], a, q[0][2], q[0][3]);
  multiply<T>(c[2], a, q[1][0], q[1][1]);
  multiply<T>(c[3], a, q[1][2], q[1][3]);
}

/// Rank and share, over all queries, of the two rows of a lane; complete in every lane of a quad.
/// far, all: totals of the lane's queries (n, j); +inf where there is no query.
__device__ __forceinline__ void judge(const Products& c, float scale, const float (&log_count)[2],
                                      const float (&far)[kRouting / 8][2],
                                      const float (&all)[kRouting / 8][2], float (&rank)[2],
                                      float (&share)[2]) {
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    rank[r] = -INFINITY, share[r] = 0;
#pragma unroll
    for (int n = 0; n < kRouting / 8; ++n)
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
