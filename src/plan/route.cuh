// What the routing kernels share: routing queries, products, codes.
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

  __device__ RoutingQueries(const Problem& p, const PlanView& plan, const TileInfo& tile, int list,
                            int room) {
    heads = min(plan.heads(list), room);
    step = (p.tile * heads + room - 1) / room;
    columns = min(room, heads * ((tile.rows + step - 1) / step));  // none without rows
  }
  template <typename T>
  __device__ const T* query(const Problem& p, const PlanView& plan, const TileInfo& tile, int list,
                            int column) const {
    return row<T>(p.q, tile.batch, plan.head(list, column % heads),
                  tile.q + tile.rows - 1 - column / heads * step);
  }
};

/// The layout of a tile that is routed, by the one rule.
__device__ __forceinline__ Layout layout_of(const Problem& p, const TileInfo& tile,
                                            const LayoutRule& rule) {
  return make_layout(p.causal, tile.end(p, 0), tile.end(p, tile.rows - 1), rule, kSegment,
                     tile.segments * kSegment);
}

// Routing products: 16 queries at a time are the rows of `mma`, rows of memory its columns, eight
// at a time. A product does not mind the order of what it sums, so a lane's elements of a row in
// two steps, 2 x 2 and 2 x 2, are eight neighbours in memory: rows come as 16-byte loads straight
// from where they lie, into the registers that `mma` wants. Queries lie in shared memory as it
// wants them.

/// Of kBlocks x 16 queries and 16 rows: c[m][n][j] belongs to query 16 m + lane / 4 + 8 (j / 2) and
/// row 8 n + 2 (lane % 4) + j % 2.
template <int kBlocks>
using Products = float[kBlocks][2][4];
/// A number for each of a lane's queries, c[m][][2 r] and c[m][][2 r + 1].
template <int kBlocks>
using PerQuery = float[kBlocks][2];

/// A lane's part of the rows lane / 4 (first) and lane / 4 + 8 (second) of 16: of 32 columns each
/// the eight from 8 (lane % 4) on.
template <int D>
struct RowPair {
  uint4 first[D / 32], second[D / 32];

  template <typename T>
  __device__ __forceinline__ void load(const T* row, const T* row8, int d, int lane) {
    const int column = 8 * (lane % 4);
    row += column, row8 += column;
    const auto get = [](const T* p) { return __ldg(reinterpret_cast<const uint4*>(p)); };
    if (d == D) {
#pragma unroll
      for (int b = 0; b < D / 32; ++b) first[b] = get(row + 32 * b), second[b] = get(row8 + 32 * b);
    } else {
#pragma unroll
      for (int b = 0; b < D / 32; ++b) {
        const bool valid = 32 * b + column < d;
        first[b] = valid ? get(row + 32 * b) : uint4{};
        second[b] = valid ? get(row8 + 32 * b) : uint4{};
      }
    }
  }
};

/// Routing queries in shared memory: for each 16 and step of 16 columns a fragment, lane by lane.
template <int D>
struct StagedQueries {
  static constexpr int bytes(int queries) { return queries * D * 2; }
  unsigned char* base;

  /// Columns 8 c, ... of query i.
  __device__ void set(int i, int c, uint4 v) const {
    const std::uint32_t word[4] = {v.x, v.y, v.z, v.w};
    auto* to = reinterpret_cast<std::uint32_t*>(base) + (i / 16 * (D / 16) + c / 4 * 2) * 128 +
               (i % 8 * 4 + c % 4) * 4 + i / 8 % 2;
#pragma unroll
    for (int w = 0; w < 4; ++w) to[w / 2 * 128 + w % 2 * 2] = word[w];
  }
  /// By a whole block: `count` queries of d columns from row_of(i), zeros where that is null.
  template <typename T, typename Row>
  __device__ void stage(int count, int d, const Row& row_of) const {
    for (int j = static_cast<int>(threadIdx.x); j < count * (D / 8);
         j += static_cast<int>(blockDim.x)) {
      const int i = j / (D / 8), c = j % (D / 8);
      const T* from = row_of(i);
      set(i, c,
          from != nullptr && 8 * c < d ? *reinterpret_cast<const uint4*>(from + 8 * c) : uint4{});
    }
  }
  /// Fragment a of the queries 16 m, ... in step k.
  __device__ __forceinline__ uint4 fragment(int m, int k, int lane) const {
    return *reinterpret_cast<const uint4*>(base + ((m * (D / 16) + k) * 32 + lane) * 16);
  }
};

/// c += queries(m, k), fragments as above, times rows.
template <typename T, int D, int kBlocks, typename Queries>
__device__ __forceinline__ void add_products(Products<kBlocks>& c, const RowPair<D>& rows,
                                             const Queries& queries) {
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    const uint4 &x = rows.first[k / 2], &y = rows.second[k / 2];
#pragma unroll
    for (int m = 0; m < kBlocks; ++m) {
      const uint4 q = queries(m, k);
      const std::uint32_t a[4] = {q.x, q.y, q.z, q.w};
      multiply<T>(c[m][0], a, k % 2 == 0 ? x.x : x.z, k % 2 == 0 ? x.y : x.w);
      multiply<T>(c[m][1], a, k % 2 == 0 ? y.x : y.z, k % 2 == 0 ? y.y : y.w);
    }
  }
}

/// f(m, n, j) of each product of blocks [from, from + kCount).
template <int kCount, typename F>
__device__ __forceinline__ void each_product(int from, const F& f) {
#pragma unroll
  for (int m = from; m < from + kCount; ++m)
#pragma unroll
    for (int n = 0; n < 2; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) f(m, n, j);
}

/// What share of the attention of the lane's queries, of blocks [from, from + kCount), a key of
/// each of its rows has, summed over the queries: [n][j] of row 8 n + 2 (lane % 4) + j. all:
/// totals of the queries, +inf where there is none.
using Shares = float[2][2];
template <int kCount, int kBlocks>
__device__ __forceinline__ void add_shares(Shares& share, const Products<kBlocks>& c, int from,
                                           float scale, const PerQuery<kBlocks>& all) {
  each_product<kCount>(from, [&](int m, int n, int j) {
    share[n][j % 2] += fast_exp2(fmaf(c[m][n][j], scale, -all[m][j / 2]));
  });
}

/// This lane keeps one of two numbers and has the other's part from the lane `step` away.
__device__ __forceinline__ float halve(float low, float high, int step, int lane) {
  const bool keep_high = (lane & step) != 0;
  return (keep_high ? high : low) + __shfl_xor_sync(~0u, keep_high ? low : high, step);
}
/// The sum over all queries of one row, row_of_sum: complete in every lane.
__device__ __forceinline__ float sum_queries(const Shares& share, int lane) {
  const float one = halve(halve(share[0][0], share[1][0], 4, lane),
                          halve(share[0][1], share[1][1], 4, lane), 8, lane);
  return one + __shfl_xor_sync(~0u, one, 16);
}
__device__ __forceinline__ int row_of_sum(int lane) {
  return lane / 4 % 2 * 8 + lane % 4 * 2 + lane / 8 % 2;
}

/// Of four shares the lane / 8-th: the sum over all queries of row 8 (lane / 4 % 2) +
/// 2 (lane % 4) + j.
__device__ __forceinline__ float sum_of_four(const Shares (&share)[4], int j, int lane) {
  float sum[2];
#pragma unroll
  for (int n = 0; n < 2; ++n)
    sum[n] = halve(halve(share[0][n][j], share[2][n][j], 16, lane),
                   halve(share[1][n][j], share[3][n][j], 16, lane), 8, lane);
  return halve(sum[0], sum[1], 4, lane);
}

}  // namespace prescore::cuda
