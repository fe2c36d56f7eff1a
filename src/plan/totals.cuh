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

  /// Products c(m, i, r) of query r of block `to` + m, m < kCount, with rows i < kRows of keys(i)
  /// keys.
  template <int kCount, int kRows, typename Product, typename Keys>
  __device__ __forceinline__ void add(int to, float scale, const Product& c, const Keys& keys) {
    PerQuery<kCount> sum;
    const auto weigh = [&](bool skip_empty) {
      bool fits = true;
#pragma unroll
      for (int m = 0; m < kCount; ++m)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          sum[m][r] = 0;
#pragma unroll
          for (int i = 0; i < kRows; ++i) {
            const float x = fast_exp2(fmaf(c(m, i, r), scale, -m_[to + m][r]));
            if (!skip_empty || keys(i) > 0) sum[m][r] = fmaf(keys(i), x, sum[m][r]);
          }
          fits = fits && sum[m][r] <= kRoom;
        }
      return fits;
    };
    if (!weigh(false)) {
#pragma unroll
      for (int m = 0; m < kCount; ++m)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float &top = m_[to + m][r], best = top;
#pragma unroll
          for (int i = 0; i < kRows; ++i)
            if (keys(i) > 0) best = fmaxf(best, c(m, i, r) * scale);
          l_[to + m][r] *= fast_exp2(top - best);
          top = best;
        }
      weigh(true);
    }
#pragma unroll
    for (int m = 0; m < kCount; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) l_[to + m][r] += sum[m][r];
  }
  /// Blocks [from, from + kCount) of the products, with so many keys a row, join those of queries
  /// from block `to` on.
  template <int kCount, int kHave>
  __device__ __forceinline__ void add(const Products<kHave>& c, int from, int to,
                                      const Shares& keys, float scale) {
    add<kCount, 4>(
        to, scale, [&](int m, int i, int r) { return c[from + m][i / 2][2 * r + i % 2]; },
        [&](int i) { return keys[i / 2][i % 2]; });
  }

  /// The total of query r of block m over the rows of a lane's quad.
  __device__ float2 of_quad(int m, int r) {
    for (int step = 1; step < 4; step *= 2)
      merge_totals(m_[m][r], l_[m][r], __shfl_xor_sync(~0u, m_[m][r], step),
                   __shfl_xor_sync(~0u, l_[m][r], step));
    return {m_[m][r], l_[m][r]};
  }

 private:
  static constexpr float kRoom = 0x1p40f;  // the maximum follows when a sum is more, or NaN
  PerQuery<kBlocks> m_, l_;
};

}  // namespace prescore::cuda
