#include "score/quadratic.h"

#include <Eigen/Eigenvalues>

namespace prescore {
namespace {

constexpr std::int64_t kBlock = HeadKeys::kBlock;

void add_gram_fp64(const HeadKeys& keys, const double* weight, std::int64_t begin, std::int64_t end,
                   Eigen::MatrixXd& sum) {
  for (std::int64_t i = begin; i < end; i += kBlock) {
    const std::int64_t n = std::min(kBlock, end - i);
    Eigen::MatrixXd x = keys.rows().middleRows(i, n).transpose().cast<double>();
    for (std::int64_t j = 0; weight != nullptr && j < n; ++j) x.col(j) *= std::sqrt(weight[i + j]);
    sum.selfadjointView<Eigen::Lower>().rankUpdate(x);
  }
}

// Rows are dimensions here, and the products run over keys.
void add_gram_fp32(const HeadKeys& keys, const double* weight, std::int64_t begin, std::int64_t end,
                   RowProducts::Scratch& scratch, Eigen::MatrixXd& sum) {
  const std::int64_t d = keys.d();
  RowsF x = RowsF::Zero(round_up(d, kBlock), kBlock), weighted;
  for (std::int64_t i = begin; i < end; i += kBlock) {
    const std::int64_t n = std::min(kBlock, end - i);
    x.topRows(d) = keys.rows().middleRows(i, kBlock).transpose();
    if (n < kBlock) x.rightCols(kBlock - n).setZero();
    weighted = x.topRows(d);
    for (std::int64_t j = 0; weight != nullptr && j < n; ++j)
      weighted.col(j) *= static_cast<float>(weight[i + j]);
    const RowProducts products(weighted);
    for (std::int64_t first = 0; first < d; first += kBlock) {
      const std::int64_t lanes = std::min(kBlock, d - first);
      const float* s = products.run(x, first, lanes, scratch);
      for (std::int64_t c = 0; c < lanes; ++c)
        for (std::int64_t r = 0; r < d; ++r)
          sum(r, first + c) += double{s[(c / 16 * products.padded() + r) * 16 + c % 16]};
    }
  }
}

}  // namespace

FittedKeys::FittedKeys(const HeadKeys& keys, bool centred, Executor& executor) : keys_(keys) {
  if (!centred) return;
  mean_ = keys.mean(executor);
  moved_.emplace(keys).subtract(mean_, executor);
}

Eigen::MatrixXd gram(const HeadKeys& keys, const double* weight, bool precise, Executor& executor) {
  const Eigen::MatrixXd zero = Eigen::MatrixXd::Zero(keys.d(), keys.d());
  Eigen::MatrixXd total =
      keys.sum(zero, executor, [&](std::int64_t begin, std::int64_t end, Eigen::MatrixXd& part) {
        if (precise) return add_gram_fp64(keys, weight, begin, end, part);
        RowProducts::Scratch scratch;
        add_gram_fp32(keys, weight, begin, end, scratch, part);
      });
  return total.selfadjointView<Eigen::Lower>();
}

Eigen::MatrixXd whitener(const Eigen::MatrixXd& m, double cut) {
  const Eigen::SelfAdjointEigenSolver<Eigen::MatrixXd> solver(m);
  const Eigen::VectorXd& values = solver.eigenvalues();  // ascending
  const double most = values[values.size() - 1];
  Eigen::Index first = 0;
  while (first < values.size() && !(values[first] > cut * most && values[first] > 0)) ++first;
  const Eigen::Index rank = values.size() - first;
  return values.tail(rank).cwiseSqrt().cwiseInverse().asDiagonal() *
         solver.eigenvectors().rightCols(rank).transpose();
}

Quadratic::Quadratic(Eigen::MatrixXd w, bool precise, Eigen::RowVectorXf mean)
    : w_(std::move(w)), mean_(std::move(mean)) {
  if (precise || w_.rows() == 0) return;
  products_.emplace(RowsF(w_.cast<float>()));
  shift_ = mean_.size() > 0 ? Eigen::VectorXf((w_ * mean_.transpose().cast<double>()).cast<float>())
                            : Eigen::VectorXf(Eigen::VectorXf::Zero(w_.rows()));
}

void Quadratic::apply(const HeadKeys& keys, float* out, Executor& executor) const {
  if (!products_) return apply_precise(keys, out, executor);
  executor.run(keys.chunks(), [&](std::int64_t c, int) {
    RowProducts::Scratch scratch;
    for (std::int64_t i = keys.begin(c); i < keys.end(c); i += kBlock) {
      const std::int64_t n = std::min(kBlock, keys.end(c) - i);
      const float* s = products_->run(keys.rows(), i, n, scratch);
      for (std::int64_t v = 0; v * 16 < n; ++v) {
        float sum[16] = {};
        const float* at = s + v * products_->padded() * 16;
        for (int r = 0; r < products_->count(); ++r)
          for (int lane = 0; lane < 16; ++lane) {
            const float x = at[r * 16 + lane] - shift_[r];
            sum[lane] += x * x;
          }
        for (std::int64_t lane = 0; lane < std::min<std::int64_t>(16, n - v * 16); ++lane)
          out[i + v * 16 + lane] = sum[lane];
      }
    }
  });
}

void Quadratic::apply_precise(const HeadKeys& keys, float* out, Executor& executor) const {
  executor.run(keys.chunks(), [&](std::int64_t c, int) {
    for (std::int64_t i = keys.begin(c); i < keys.end(c); ++i) {
      Eigen::RowVectorXd x = keys.rows().row(i).cast<double>();
      if (mean_.size() > 0) x -= mean_.cast<double>();
      out[i] = static_cast<float>((x * w_.transpose()).squaredNorm());
    }
  });
}

}  // namespace prescore
