// Scores that learn from queries: what the queries of one query head look like, and how much
// attention each key has received.
#pragma once

#include <Eigen/Core>
#include <cstdint>
#include <vector>

#include "prescore/score.h"
#include "score/scorer.h"

namespace prescore {

/// Moments of the queries of one query head.
struct QueryMoments {
  double count = 0;
  Eigen::VectorXd sum;
  Eigen::MatrixXd outer;  ///< sum of q q^T, lower triangle

  void add(const Tensor& q, std::int64_t b, std::int64_t h, std::int64_t i);
  QueryMoments& operator+=(const QueryMoments&);
};

/// Expected attention (2510.00636) of the keys under a Gaussian model of the queries: the mean of
/// exp(s k.q) is exp(s k.mu + s^2 k.Sigma.k / 2), normalised over the first `fit` keys and averaged
/// over the query heads of the group. Throws nothing; without queries every score is 0.
class ExpectedAttention final : public FittedScore {
 public:
  ExpectedAttention(const HeadKeys& fitted, const std::vector<QueryMoments>& heads, double scale,
                    Executor&);
  void apply(const HeadKeys&, float* out, Executor&) const override;
  static constexpr std::int64_t kAligned = 64;

 private:
  struct Head {
    Eigen::VectorXf mean;        // s mu
    Eigen::MatrixXf covariance;  // s^2 Sigma / 2
    double log_total = 0;
  };
  /// Exponents of keys [begin, end). A key has the same bits in any range that begins at a multiple
  /// of kAligned from its own.
  static Eigen::VectorXf exponents(const Head&, const HeadKeys&, std::int64_t begin,
                                   std::int64_t end);
  std::vector<Head> heads_;
};

/// Which queries of a call teach what keys receive.
struct Teachers {
  std::int64_t first = 0, last = 0;  ///< rows of the call
  std::int64_t stride = 1;           ///< only positions that are multiples of it
  std::int64_t distance = 0;         ///< only what they pay to keys so many positions before them
};

/// Sum of the probabilities with which each key of one head was attended to, and by how many rows.
struct ReceivedMass {
  std::vector<double> mass, rows;

  void add(const ScoreInputs&, std::int64_t b, std::int64_t h_kv, const Teachers&, Executor&);
  /// Mean attention received; keys that no row has seen take the mean of the last `segment` that
  /// were.
  void means(std::int64_t n, std::int64_t segment, float* out) const;
};

}  // namespace prescore
