// Scores of a key by its length and its direction.
#include <cmath>

#include "score/scorer.h"

namespace prescore {
namespace {

template <typename F>
void for_each_key(const HeadKeys& keys, float* out, Executor& executor, const F& score) {
  executor.run(keys.chunks(), [&](std::int64_t c, int) {
    for (std::int64_t i = keys.begin(c); i < keys.end(c); ++i)
      out[i] = static_cast<float>(score(keys.rows().row(i).template cast<double>()));
  });
}

class Norm final : public FittedScore {
 public:
  explicit Norm(const Eigen::RowVectorXf& mean) : mean_(mean.cast<double>()) {}
  void apply(const HeadKeys& keys, float* out, Executor& executor) const override {
    for_each_key(keys, out, executor, [&](const auto& x) { return (x - mean_).norm(); });
  }

 private:
  Eigen::RowVectorXd mean_;
};

// exp(-|k|^2 / 2 sigma^2): the weight of a key in a Gaussian kernel around the origin.
class GaussianNorm final : public FittedScore {
 public:
  GaussianNorm(const Eigen::RowVectorXf& mean, double sigma)
      : mean_(mean.cast<double>()), factor_(sigma > 0 ? -0.5 / (sigma * sigma) : 0) {}
  void apply(const HeadKeys& keys, float* out, Executor& executor) const override {
    for_each_key(keys, out, executor,
                 [&](const auto& x) { return std::exp(factor_ * (x - mean_).squaredNorm()); });
  }

 private:
  Eigen::RowVectorXd mean_;
  double factor_;
};

// Negative cosine between a key and the mean direction (KeyDiff, 2504.15364).
class Difference final : public FittedScore {
 public:
  explicit Difference(Eigen::RowVectorXd direction) : direction_(std::move(direction)) {}
  void apply(const HeadKeys& keys, float* out, Executor& executor) const override {
    for_each_key(keys, out, executor, [&](const auto& x) {
      const double norm = x.norm();
      return norm > 0 ? -x.dot(direction_) / norm : 0.0;
    });
  }

 private:
  Eigen::RowVectorXd direction_;
};

Eigen::RowVectorXf mean_if(bool centred, const HeadKeys& keys, Executor& executor) {
  return centred ? keys.mean(executor) : Eigen::RowVectorXf(Eigen::RowVectorXf::Zero(keys.d()));
}

}  // namespace

Fitted fit_norm(const HeadKeys& keys, const ScoreOptions& o, Executor& executor) {
  return std::make_unique<Norm>(mean_if(o.centred, keys, executor));
}

Fitted fit_gaussian_norm(const HeadKeys& keys, const ScoreOptions& o, Executor& executor) {
  const Eigen::RowVectorXf mean = mean_if(o.centred, keys, executor);
  if (o.sigma > 0) return std::make_unique<GaussianNorm>(mean, o.sigma);
  // Sum of squares and number of keys.
  const Eigen::RowVector2d total = keys.sum(
      Eigen::RowVector2d(0, 0), executor,
      [&](std::int64_t begin, std::int64_t end, Eigen::RowVector2d& part) {
        for (std::int64_t i = begin; i < end; ++i)
          if (keys.finite(i))
            part += Eigen::RowVector2d((keys.rows().row(i) - mean).cast<double>().squaredNorm(), 1);
      });
  return std::make_unique<GaussianNorm>(mean, std::sqrt(total[0] / std::max(total[1], 1.0)));
}

Fitted fit_difference(const HeadKeys& keys, const ScoreOptions&, Executor& executor) {
  Eigen::RowVectorXd mean =
      keys.sum(Eigen::RowVectorXd(Eigen::RowVectorXd::Zero(keys.d())), executor,
               [&](std::int64_t begin, std::int64_t end, Eigen::RowVectorXd& part) {
                 for (std::int64_t i = begin; i < end; ++i) {
                   const Eigen::RowVectorXd x = keys.rows().row(i).cast<double>();
                   if (const double norm = x.norm(); norm > 0) part += x / norm;
                 }
               });
  if (const double length = mean.norm(); length > 0) mean /= length;
  return std::make_unique<Difference>(std::move(mean));
}

}  // namespace prescore
