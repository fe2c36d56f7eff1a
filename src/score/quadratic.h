// Scores that are a quadratic form of the key: leverage and its relatives.
#pragma once

#include <Eigen/Core>
#include <memory>
#include <optional>

#include "score/row_products.h"
#include "score/scorer.h"

namespace prescore {

/// What a form is fitted to: the keys as they are or, `centred`, less their mean.
class FittedKeys {
 public:
  FittedKeys(const HeadKeys&, bool centred, Executor&);
  const HeadKeys& operator*() const { return moved_ ? *moved_ : keys_; }
  const Eigen::RowVectorXf& mean() const { return mean_; }  ///< empty where not centred

 private:
  const HeadKeys& keys_;
  std::optional<HeadKeys> moved_;
  Eigen::RowVectorXf mean_;
};

/// K^T diag(weight) K of all keys [d, d]; `weight` may be null. Precise: products in fp64, else in
/// fp32 over 256 keys at a time and fp64 between.
Eigen::MatrixXd gram(const HeadKeys&, const double* weight, bool precise, Executor&);

/// W with |W k|^2 = k^T M^+ k (pseudo-inverse): directions whose eigenvalue is below `cut` times
/// the largest are left out. Rows may be none.
Eigen::MatrixXd whitener(const Eigen::MatrixXd& m, double cut);

/// |W (k - mean)|^2 of each key.
class Quadratic {
 public:
  /// Precise: evaluated in fp64. `mean` may be empty.
  Quadratic(Eigen::MatrixXd w, bool precise, Eigen::RowVectorXf mean = {});
  void apply(const HeadKeys&, float* out, Executor&) const;

 private:
  void apply_precise(const HeadKeys&, float* out, Executor&) const;
  Eigen::MatrixXd w_;
  Eigen::RowVectorXf mean_;
  std::optional<RowProducts> products_;  // W, where not precise
  Eigen::VectorXf shift_;                // W mean
};

}  // namespace prescore
