// Weights from scores, a step of rows at a time.
#pragma once

#include "common/mma.cuh"

namespace prescore::cuda {

// Of a lane's two rows: weights are 2^(x - m), where m follows the largest score (base 2) only when
// that has grown by kSlack. Until then the sums so far stand as they are.
class Softmax {
 public:
  static constexpr float kSlack = 8;  // weights are at most 2^8, well inside f16
  float m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0};

  /// Scores of one step (base 2: times `factor`) become weights. Returns whether some row of the
  /// warp has a new m: then sums before this step are to be multiplied with `correction`.
  template <int kTiles>
  __device__ __forceinline__ bool weigh(float (&s)[kTiles][4], float factor,
                                        float (&correction)[2]) {
    float best[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) best[j / 2] = fmaxf(best[j / 2], s[n][j]);
    bool grown[2];
    float origin[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      best[r] = quad_max(best[r]) * factor;
      grown[r] = best[r] > m[r] + kSlack;
      correction[r] = grown[r] ? fast_exp2(m[r] - best[r]) : 1.0f;
      if (grown[r]) m[r] = best[r];
      origin[r] = m[r] == -INFINITY ? 0.0f : m[r];
      l[r] *= correction[r];
    }
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) {
        s[n][j] = fast_exp2(fmaf(s[n][j], factor, -origin[j / 2]));
        l[j / 2] += s[n][j];
      }
    return __any_sync(~0u, grown[0] || grown[1]);
  }
};

/// o *= correction of its row.
template <int kTiles>
__device__ __forceinline__ void correct(float (&o)[kTiles][4], const float (&correction)[2]) {
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int j = 0; j < 4; ++j) o[n][j] *= correction[j / 2];
}

}  // namespace prescore::cuda
