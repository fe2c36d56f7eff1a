// Expected attention: what a Gaussian model of the queries seen so far makes of each key.
#include <cmath>
#include <limits>

#include "common/views.h"
#include "score/from_queries.h"

namespace prescore {

void QueryMoments::add(const Tensor& q, std::int64_t b, std::int64_t h, std::int64_t i) {
  const std::int64_t d = q.shape[3];
  Eigen::VectorXd x(d);
  for (std::int64_t j = 0; j < d; ++j) x[j] = double{load_element(row(q, b, h, i), q.dtype, j)};
  if (!x.allFinite()) return;
  if (count == 0) sum = Eigen::VectorXd::Zero(d), outer = Eigen::MatrixXd::Zero(d, d);
  count += 1;
  sum += x;
  outer.selfadjointView<Eigen::Lower>().rankUpdate(x);
}

QueryMoments& QueryMoments::operator+=(const QueryMoments& other) {
  if (other.count == 0) return *this;
  if (count == 0) return *this = other;
  count += other.count, sum += other.sum, outer += other.outer;
  return *this;
}

ExpectedAttention::ExpectedAttention(const HeadKeys& fitted, const std::vector<QueryMoments>& heads,
                                     double scale, Executor& executor) {
  for (const QueryMoments& m : heads) {
    if (m.count == 0) continue;
    Head head;
    const Eigen::VectorXd mean = m.sum / m.count;
    Eigen::MatrixXd covariance = m.outer.selfadjointView<Eigen::Lower>();
    covariance = covariance / m.count - mean * mean.transpose();
    head.mean = (scale * mean).cast<float>();
    head.covariance = (scale * scale / 2 * covariance).cast<float>();
    // log of the sum of exp over the fitted keys, chunk by chunk in order.
    std::vector<double> most(static_cast<std::size_t>(fitted.chunks())), total(most.size());
    executor.run(fitted.chunks(), [&](std::int64_t c, int) {
      Eigen::VectorXd x = exponents(head, fitted, fitted.begin(c), fitted.end(c)).cast<double>();
      for (Eigen::Index i = 0; i < x.size(); ++i)
        if (!fitted.finite(fitted.begin(c) + i)) x[i] = -std::numeric_limits<double>::infinity();
      const auto at = static_cast<std::size_t>(c);
      most[at] = std::max(x.maxCoeff(), -1e30);  // finite, for a chunk without such keys
      total[at] = (x.array() - most[at]).exp().sum();
    });
    double high = most[0], sum = 0;
    for (const double x : most) high = std::max(high, x);
    for (std::size_t c = 0; c < most.size(); ++c) sum += total[c] * std::exp(most[c] - high);
    head.log_total = high + std::log(sum);
    if (std::isfinite(head.log_total)) heads_.push_back(std::move(head));
  }
}

Eigen::VectorXf ExpectedAttention::exponents(const Head& head, const HeadKeys& keys,
                                             std::int64_t begin, std::int64_t end) {
  Eigen::VectorXf out(end - begin);
  RowsF turned;
  for (std::int64_t i = begin; i < end; i += kAligned) {
    const auto x = keys.rows().middleRows(i, kAligned);  // there are rows of zeros behind the end
    turned.noalias() = x * head.covariance;
    const Eigen::VectorXf all = x * head.mean + turned.cwiseProduct(x).rowwise().sum();
    const std::int64_t count = std::min(kAligned, end - i);
    out.segment(i - begin, count) = all.head(count);
  }
  return out;
}

void ExpectedAttention::apply(const HeadKeys& keys, float* out, Executor& executor) const {
  executor.run(keys.chunks(), [&](std::int64_t c, int) {
    const std::int64_t begin = keys.begin(c), end = keys.end(c);
    std::fill(out + begin, out + end, 0.0f);
    for (const Head& head : heads_) {
      const Eigen::VectorXf x = exponents(head, keys, begin, end);
      for (std::int64_t i = begin; i < end; ++i)
        out[i] += static_cast<float>(std::exp(double{x[i - begin]} - head.log_total) /
                                     static_cast<double>(heads_.size()));
    }
  });
}

}  // namespace prescore
