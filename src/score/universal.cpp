// LevAttention's universal set for polynomial attention of even degree p (2410.05462): keys that
// can hold more than a share epsilon of sum_j |q.k_j|^p for some query q.
//
// For positive weights w and M = sum_j w_j^(1 - 2/p) k_j k_j^T, Cauchy's and Hoelder's inequalities
// give |q.k_i|^2 <= a_i q^T M q <= a_i (sum_j w_j)^(1 - 2/p) (sum_j |q.k_j|^p)^(2/p) with
// a_i = k_i^T M^+ k_i, so that no query gives key i a larger share than
// a_i^(p/2) (sum_j w_j)^(p/2 - 1). Lewis weights make the bound about as small as it can be; it
// holds for any weights. For p = 2 it is the leverage score.
#include <cmath>

#include "score/quadratic.h"

namespace prescore {
namespace {

class UniversalScore final : public FittedScore {
 public:
  UniversalScore(Quadratic form, double half_degree, double total)
      : form_(std::move(form)), half_degree_(half_degree), log_total_(std::log(total)) {}

  void apply(const HeadKeys& keys, float* out, Executor& executor) const override {
    form_.apply(keys, out, executor);
    for (std::int64_t i = 0; i < keys.n(); ++i) {
      const double bound = half_degree_ * std::log(std::max(double{out[i]}, 1e-300)) +
                           (half_degree_ - 1) * log_total_;
      out[i] = static_cast<float>(std::exp(std::min(bound, 80.0)));  // above 1 it still ranks
    }
  }

 private:
  Quadratic form_;
  double half_degree_, log_total_;
};

}  // namespace

Fitted fit_universal(const HeadKeys& all, const ScoreOptions& o, Executor& executor) {
  const FittedKeys fitted(all, o.centred, executor);
  const HeadKeys& keys = *fitted;
  const auto n = static_cast<std::size_t>(keys.n());
  const double power = 1 - 2 / static_cast<double>(o.degree);
  const double cut = 1e-15 * static_cast<double>(std::max(keys.n(), keys.d()));
  std::vector<double> weight(n, 1), factor(n, 1);
  std::vector<float> a(n);
  // w <- leverage of the rows w_i^(1/2 - 1/p) k_i, in single precision: weights may be anything.
  for (std::int64_t it = 0; o.degree > 2 && it < o.iterations; ++it) {
    Quadratic(whitener(gram(keys, factor.data(), false, executor), 1e-6), false)
        .apply(keys, a.data(), executor);
    for (std::size_t i = 0; i < n; ++i) {
      const double leverage = factor[i] * double{a[i]};
      weight[i] = std::clamp(std::isfinite(leverage) ? leverage : 1, 1e-12, 1.0);
      factor[i] = std::pow(weight[i], power);
    }
  }
  double total = 0;
  for (std::size_t i = 0; i < n; ++i)
    if (keys.finite(static_cast<std::int64_t>(i))) total += weight[i];
  return std::make_unique<UniversalScore>(
      Quadratic(whitener(gram(keys, factor.data(), true, executor), cut), true, fitted.mean()),
      static_cast<double>(o.degree) / 2, total);
}

}  // namespace prescore
