// Stage `score`: one query-independent importance a key.
#pragma once

#include "prescore/executor.h"
#include "prescore/types.h"

namespace prescore {

/// What the k-means family makes of the distance of a key to its own centroid.
enum class ClusterScore : std::uint8_t {
  kDistance,  ///< the distance: keys unlike the others come first
  kRelative,  ///< divided by the sum over the fitted keys of the cluster; 0 where that sum is 0
  kNearness,  ///< minus the distance: the most typical keys come first
};

struct ScoreOptions {
  Score score = Score::kLeverage;
  double ridge = 1e-3;           ///< leverage: ridge as a share of the mean diagonal of K^T K
  std::int64_t clusters = 0;     ///< k-means: number of clusters; 0: d + 1 (2505.11040, section 4)
  std::int64_t iterations = 10;  ///< k-means: Lloyd iterations
  std::uint64_t seed = 0;        ///< random
  ClusterScore cluster_score = ClusterScore::kDistance;  ///< k-means
  /// Norm and leverage: subtract the mean of the fitted keys first. K-means does not depend on it.
  bool centred = false;
  /// Keys that the score is fitted to (Gram matrix, centroids, mean), the first ones; 0: all that
  /// are scored. A causal plan must not know later keys.
  std::int64_t fit = 0;
};

/// Scores keys [0, n) of each (batch, key head); higher is more important. k [b, h_kv, n_kv, d],
/// out [b, h_kv, n] dense. Throws Error on bad shapes.
void score_keys(const Tensor& k, std::int64_t n, const ScoreOptions&, float* out, Executor&);

}  // namespace prescore
