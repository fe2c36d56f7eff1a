// What the k-means family shares: seeding, and a score made of the distance to the own centre.
#pragma once

#include <functional>
#include <vector>

#include "score/row_products.h"
#include "score/scorer.h"

namespace prescore {

/// out[j] <- what speaks for key j as a further centre beside `row`, of n keys anywhere.
using SeedWeights =
    std::function<void(const float* row, const void* const* keys, int n, float* out)>;
/// Rows of `keys` for k-means++ (Arthur and Vassilvitskii 2007): the first uniformly, each further
/// one with probability in proportion to its weight, the least over the rows so far (the squared
/// distance for k-means, the distance for k-medians). From 512 keys a centre on only every n-th key
/// takes part, which leaves 256 to 511 a centre.
std::vector<std::int64_t> seed_rows(const HeadKeys& keys, std::int64_t centres, std::uint64_t seed,
                                    Executor&, const SeedWeights&);

/// Number of clusters asked for, never more than keys.
std::int64_t cluster_count(const HeadKeys&, const ScoreOptions&);

/// A score made of the distance of each key to its nearest centre.
class ClusterScorer : public FittedScore {
 public:
  void apply(const HeadKeys&, float* out, Executor&) const override;

 protected:
  explicit ClusterScorer(ClusterScore kind) : kind_(kind) {}
  /// Of each key the nearest centre and the distance to it.
  virtual void nearest(const HeadKeys&, std::int32_t* centre, float* distance, Executor&) const = 0;
  /// To be called at the end of fitting: sums of distances by cluster, for kRelative.
  void fit_sums(const HeadKeys&, std::int64_t centres, Executor&);

 private:
  ClusterScore kind_;
  std::vector<double> sum_;
};

/// k-means by Lloyd's iteration, around the mean of the keys: RoPE keys share a large mean that
/// would cancel in products.
class KMeans {
 public:
  /// Iterations and seeding are those of the options; assigns keys and moves centres iterations + 1
  /// times.
  KMeans(const HeadKeys&, std::int64_t clusters, const ScoreOptions&, std::uint64_t seed,
         Executor&);
  std::int64_t clusters() const { return centres_.rows(); }
  void nearest(const HeadKeys&, std::int32_t* centre, float* distance, Executor&) const;

 private:
  void assign(const HeadKeys&, const RowProducts&, std::int32_t* centre, Executor&) const;
  void update(const HeadKeys&, const std::int32_t* centre, Executor&);

  Eigen::RowVectorXf mean_;
  RowsF centres_;  // around mean_
};

}  // namespace prescore
