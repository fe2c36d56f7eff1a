// Leverage scores k_i^T (K^T K)^+ k_i: exact, with a ridge, and from a sketch of K (LevAttention,
// 2410.05462). The ridge keeps directions that hardly any key has from dominating.
#include <cmath>
#include <numeric>

#include "common/random.h"
#include "score/quadratic.h"

namespace prescore {
namespace {

class LeverageScore final : public FittedScore {
 public:
  explicit LeverageScore(Quadratic form) : form_(std::move(form)) {}
  void apply(const HeadKeys& keys, float* out, Executor& executor) const override {
    form_.apply(keys, out, executor);
  }

 private:
  Quadratic form_;
};

// Columns of the transform one by one, in place: 2 x 2 sums and differences, unnormalised.
void hadamard(Eigen::Ref<Eigen::VectorXf> x) {
  for (Eigen::Index step = 1; step < x.size(); step *= 2)
    for (Eigen::Index i = 0; i < x.size(); i += 2 * step)
      for (Eigen::Index j = i; j < i + step; ++j) {
        const float a = x[j], b = x[j + step];
        x[j] = a + b, x[j + step] = a - b;
      }
}

// (S K)^T (S K) for a subsampled randomised Hadamard transform S with `rows` rows (Tropp 2011).
Eigen::MatrixXd sketched_gram(const HeadKeys& keys, std::int64_t rows, std::uint64_t seed,
                              Executor& executor) {
  std::int64_t n = 1;
  while (n < keys.n()) n *= 2;
  std::vector<std::int64_t> pick(static_cast<std::size_t>(n));
  std::iota(pick.begin(), pick.end(), std::int64_t{0});
  for (std::int64_t i = 0; i < rows; ++i) {  // a draw without replacement
    const double u = unit(mix(seed + static_cast<std::uint64_t>(i)));
    const auto j = i + static_cast<std::int64_t>(u * static_cast<double>(n - i));
    std::swap(pick[static_cast<std::size_t>(i)], pick[static_cast<std::size_t>(j)]);
  }
  const std::uint64_t signs = mix(seed ^ 0x7369676eu);
  Eigen::MatrixXd sketch(rows, keys.d());
  executor.run(keys.d(), [&](std::int64_t c, int) {
    Eigen::VectorXf x = Eigen::VectorXf::Zero(n);
    for (std::int64_t i = 0; i < keys.n(); ++i) {
      const bool minus = (mix(signs + static_cast<std::uint64_t>(i)) & 1) != 0;
      x[i] = minus ? -keys.rows()(i, c) : keys.rows()(i, c);
    }
    hadamard(x);
    for (std::int64_t i = 0; i < rows; ++i)
      sketch(i, c) = double{x[pick[static_cast<std::size_t>(i)]]};
  });
  return sketch.transpose() * sketch / static_cast<double>(rows);
}

}  // namespace

Fitted fit_leverage(const HeadKeys& all, const ScoreOptions& o, std::uint64_t stream,
                    Executor& executor) {
  const FittedKeys fitted(all, o.centred, executor);
  const HeadKeys& keys = *fitted;
  const Eigen::RowVectorXf& mean = fitted.mean();
  const std::int64_t d = all.d(), rows = o.sketch_rows > 0 ? o.sketch_rows : 8 * d;
  // Eigenvalues that are rounding errors of a sum over the keys.
  const double cut = 1e-15 * static_cast<double>(std::max(all.n(), d));
  if (o.leverage == Leverage::kSketched && rows < all.n()) {
    const Eigen::MatrixXd m = sketched_gram(keys, rows, mix(mix(o.seed) + stream), executor);
    return std::make_unique<LeverageScore>(
        Quadratic(whitener(m, std::max(cut, 1e-12)), true, mean));
  }
  if (o.leverage != Leverage::kRidge || o.ridge == 0)
    return std::make_unique<LeverageScore>(
        Quadratic(whitener(gram(keys, nullptr, true, executor), cut), true, mean));
  const bool precise = o.ridge < 1e-5;  // single precision is enough where the ridge is not tiny
  Eigen::MatrixXd m = gram(keys, nullptr, precise, executor);
  const double ridge = o.ridge * m.trace() / static_cast<double>(d);
  m.diagonal().array() += ridge > 0 ? ridge : 1;  // all keys zero: every score zero
  return std::make_unique<LeverageScore>(Quadratic(whitener(m, 0), precise, mean));
}

}  // namespace prescore
