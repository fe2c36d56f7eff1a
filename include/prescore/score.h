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

/// How leverage scores k_i^T (K^T K)^+ k_i are computed.
enum class Leverage : std::uint8_t {
  kRidge,  ///< with a ridge (ScoreOptions::ridge)
  kExact,  ///< with the pseudo-inverse, in fp64: also where K has less than full rank
  /// From a subsampled randomised Hadamard transform of K with m = sketch_rows rows. For e =
  /// sqrt(d / m) + 3 / sqrt(m) below 1 the relative error stays below 1 / (1 - e)^2 - 1 but for
  /// rare draws. Exact where K has no more rows than that.
  kSketched,
};

enum class KernelKMeans : std::uint8_t {
  kFeatures,  ///< k-means over random Fourier features
  kDistance,  ///< plain k-means, then the distance in the kernel's space to the own centroid
};

/// How keys were rotated by position (RoPE), pair by pair by position x base^(-2 pair / dims).
struct Rotation {
  std::int64_t dims = 0;  ///< first elements of a key that are rotated, an even number; 0: none
  double base = 10000;
  bool interleaved = false;   ///< pairs are elements 2i and 2i + 1, else i and i + dims / 2
  double position_scale = 1;  ///< linear scaling: positions are multiplied by it

  friend bool operator==(const Rotation&, const Rotation&) = default;
};

struct ScoreOptions {
  Score score = Score::kLeverage;
  std::uint64_t seed = 0;
  /// Norms, leverage and universal: of the keys less the mean of the fitted ones. The k-means
  /// family does not depend on it. Key difference ignores it, being the angle to that mean; so do
  /// random and scores that learn from queries.
  bool centred = false;
  /// Undone before keys are scored: key j of a tensor stands at position j. Without effect on
  /// scores that look at values or at how queries meet keys (value norm, expected, received,
  /// oracle).
  Rotation rotation = {};

  // The k-means family. Centres begin at keys drawn by k-means++; where there are more than 512
  // keys a centre, only every n-th key may be drawn (256 to 511 a centre), and all are iterated
  // over.
  std::int64_t clusters = 0;  ///< 0: d + 1 (2505.11040, section 4); at most as many as keys
  /// Lloyd iterations after the first: 10 assign and move centres 11 times. Universal: as many
  /// iterations of the weights.
  std::int64_t iterations = 10;
  ClusterScore cluster_score = ClusterScore::kDistance;
  KernelKMeans kernel = KernelKMeans::kFeatures;
  std::int64_t features = 0;  ///< random Fourier features, up to 512; 0: 2 d, at most 512
  /// Width of the Gaussian. 0: kernel k-means 1.3 times the mean distance of a key to its nearest
  /// centroid (2505.11040); Gaussian norm the root of the mean squared norm.
  double sigma = 0;

  // Leverage.
  Leverage leverage = Leverage::kRidge;
  double ridge = 1e-3;           ///< as a share of the mean diagonal of K^T K
  std::int64_t sketch_rows = 0;  ///< 0: 8 d
  /// Universal: degree p of polynomial attention, even. The score bounds the largest share that the
  /// key can have in sum_j |q.k_j|^p for any q; LevAttention's set for its threshold epsilon are
  /// the keys with at least that score (Selection::kThreshold). p = 2: exact leverage.
  std::int64_t degree = 4;

  /// Keys that the score is fitted to (Gram matrix, centroids, mean), the first ones; 0: all that
  /// are scored. A causal plan must not know later keys.
  std::int64_t fit = 0;

  // For KeyScores only:
  std::int64_t segment = 512;  ///< keys of the first fit; later ones are multiples of it
  /// Each fit has at least so many times the keys of the one before; 0: 2, or 1.125 where the score
  /// learns from queries. What is fitted serves all keys up to the next fit. All fits are kept:
  /// with 1, one a segment, memory grows with the square of the keys.
  double growth = 0;
  std::int64_t query_stride = 8;  ///< expected, received: only every n-th position is looked at
  /// Received and oracle, causal: only what queries at least so many positions after a key pay to
  /// it counts. Nearer ones read it in their window anyway.
  std::int64_t distance = 0;
  /// Expected, received and oracle: multiplied by the norm of the value; +inf where that is not
  /// finite.
  bool value_weighted = false;
  /// PublishedFlaws::flattened. Scores that learn from keys only; needs the keys of all heads at
  /// one position to be neighbours in memory.
  bool flattened = false;
  /// PublishedFlaws::distance_seeds.
  bool distance_seeds = false;

  friend bool operator==(const ScoreOptions&, const ScoreOptions&) = default;
};

/// Scores keys [0, n) of each (batch, key head); higher is more important. k [b, h_kv, n_kv, d],
/// out [b, h_kv, n] dense. Throws Error on bad shapes and options, on n = 0 and on scores that
/// learn from queries.
///
/// A key with NaN or infinity in it takes no part in a fit and scores +inf, so that it is read and
/// shows in the output as it would in dense attention; so does one whose score overflows to NaN.
/// Random looks at no key. All other scores are finite unless they exceed fp32. Equal keys have
/// equal scores. Where K has less than full rank, exact and sketched leverage and universal use the
/// pseudo-inverse: of a key scored later, what lies outside the span of the fitted keys counts 0.
void score_keys(const Tensor& k, std::int64_t n, const ScoreOptions&, float* out, Executor&);

/// The same of f16 or bf16 keys on the GPU, in the order of `stream` (a cudaStream_t): norm and
/// random, and, up to 4,096 keys, leverage with a ridge (d <= 128) and k-means (at most 64
/// clusters). Throws as above, where the GPU lacks the score, and in a build without CUDA.
void score_keys_cuda(const Tensor& k, std::int64_t n, const ScoreOptions&, float* out,
                     void* stream);

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
///
/// Nor does a query with NaN or infinity in it or, for received and oracle, one that sees a key for
/// which its product is so. Behind a NaN key nobody teaches these two: its keys score as keys that
/// no query has seen do, the mean of the last segment that was seen. Without any queries that teach
/// every score is 0. Expected gives keys that are not finite +inf, as scores of keys alone do.
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
  /// is forgotten too: it cannot be told apart. The oracle keeps what it has learnt, as it is meant
  /// to know what comes: queries that are read again count again.
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
