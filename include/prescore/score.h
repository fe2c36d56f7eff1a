// Stage `score`: one importance a key, the same for every query to come.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

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

  // For KeyScores only:
  std::int64_t segment = 512;  ///< keys of the first fit; later ones are multiples of it
  /// Each fit has at least so many times the keys of the one before; 0: 2, or 1.125 where the score
  /// learns from queries. What is fitted serves all keys up to the next fit.
  double growth = 0;
  std::int64_t query_stride = 8;  ///< received: only every n-th position is looked at
  /// Expected, received and oracle: multiplied by the norm of the value.
  bool value_weighted = false;

  friend bool operator==(const ScoreOptions&, const ScoreOptions&) = default;
};

/// Scores keys [0, n) of each (batch, key head); higher is more important. k [b, h_kv, n_kv, d],
/// out [b, h_kv, n] dense. Throws Error on bad shapes.
void score_keys(const Tensor& k, std::int64_t n, const ScoreOptions&, float* out, Executor&);

/// Scores [b, h_kv] of the keys up to the next level, rows `stride` apart.
struct ScoreLevel {
  std::int64_t fit = 0;  ///< keys that the scores were fitted to
  const float* scores = nullptr;
  std::int64_t stride = 0;
};

/// A call of attention, as far as scores are concerned: the whole cache, and the queries that are
/// new in it (rows of q sit at visibility.end(i) - 1). Factor `scale` on q.k.
struct ScoreInputs {
  Tensor q, k, v;
  Visibility visibility;
  float scale = 1;
};

/// Scores that grow with a cache, for causal attention: fitted to prefixes of growing length, each
/// computed once. One call with n keys and many smaller calls give the same scores. Expected and
/// received learn from the queries of the calls; a query that never comes here teaches nothing.
class KeyScores {
 public:
  /// Throws Error on bad options.
  explicit KeyScores(const ScoreOptions& options = {});
  ~KeyScores();
  KeyScores(KeyScores&&) noexcept;
  KeyScores& operator=(KeyScores&&) noexcept;

  const ScoreOptions& options() const noexcept;
  /// Brings the scores up to date with a cache that has grown to k.shape[2] keys. Not causal: all
  /// is computed anew. Throws Error where shapes differ from the first call.
  void extend(const ScoreInputs&, Executor&);
  /// Forgets keys and queries from position n on. What queries of the last, unfinished level taught
  /// is forgotten too: it cannot be told apart.
  void truncate(std::int64_t n);
  /// Compares fingerprints of the keys with the cache and truncates at the first segment that was
  /// rewritten. Returns the number of keys still scored.
  std::int64_t validate(const Tensor& k);

  std::int64_t size() const noexcept;   ///< keys scored
  std::int64_t bytes() const noexcept;  ///< bytes held
  std::span<const ScoreLevel> levels() const noexcept;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace prescore
