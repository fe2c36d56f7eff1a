// The attention that a query has in all, summed up while its products pass.
#pragma once

#include "plan/route.cuh"

namespace prescore::cuda {

/// m, l <- the total of both: l times two to the m.
__device__ __forceinline__ void merge_totals(float& m, float& l, float m2, float l2) {
  const float best = fmaxf(m, m2);
  l = l * fast_exp2(m - best) + l2 * fast_exp2(m2 - best);
  m = best;
}

/// A lane's part of the totals of kBlocks x 16 queries.
template <int kBlocks>
class Totals {
 public:
  __device__ void clear() {
#pragma unroll
    for (int m = 0; m < kBlocks; ++m)
      for (int r = 0; r < 2; ++r) m_[m][r] = -1e30f, l_[m][r] = 0;
  }

  /// Blocks [from, from + kCount) of the products, with so many keys a row, join those of queries
  /// from block `to` on.
  template <int kCount, int kHave>
  __device__ __forceinline__ void add(const Products<kHave>& c, int from, int to,
                                      const Shares& keys, float scale) {
    float x[kCount][2][4];
    const auto find = [&] {  // how far each is above the query's maximum, the furthest of all
      float most = -INFINITY;
      each_product<kCount>(0, [&](int m, int n, int j) {
        x[m][n][j] = fmaf(c[from + m][n][j], scale, -m_[to + m][j / 2]);
        most = fmaxf(most, x[m][n][j]);
      });
      return most;
    };
    if (find() > kRoom) {
#pragma unroll
      for (int m = 0; m < kCount; ++m)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float &top = m_[to + m][r], best = top;
#pragma unroll
          for (int n = 0; n < 2; ++n)
#pragma unroll
            for (int j = 0; j < 2; ++j) best = fmaxf(best, c[from + m][n][2 * r + j] * scale);
          l_[to + m][r] *= fast_exp2(top - best);
          top = best;
        }
      find();
    }
    each_product<kCount>(0, [&](int m, int n, int j) {
      float& l = l_[to + m][j / 2];
      l = fmaf(keys[n][j % 2], fast_exp2(x[m][n][j]), l);
    });
  }

  /// The total of query r of block m over the rows of a lane's quad.
  __device__ float2 of_quad(int m, int r) {
    for (int step = 1; step < 4; step *= 2)
      merge_totals(m_[m][r], l_[m][r], __shfl_xor_sync(~0u, m_[m][r], step),
                   __shfl_xor_sync(~0u, l_[m][r], step));
    return {m_[m][r], l_[m][r]};
  }

 private:
  static constexpr float kRoom = 32;  // the maximum follows when a product is so far above it
  PerQuery<kBlocks> m_, l_;
};

}  // namespace prescore::cuda
