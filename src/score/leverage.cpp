// Ridge leverage scores: k_i^T (K^T K + lambda I)^-1 k_i (LevAttention, 2410.05462; the ridge keeps
// directions that hardly any key has from dominating).
#include <Eigen/Cholesky>
#include <vector>

#include "score/head_keys.h"

namespace prescore {

void score_leverage(const HeadKeys& keys, const ScoreOptions& options, float* out,
                    Executor& executor) {
  constexpr std::int64_t kBlock = HeadKeys::kBlock;
  const std::int64_t d = keys.d();
  Eigen::MatrixXd gram = keys.sum(
      Eigen::MatrixXd(Eigen::MatrixXd::Zero(d, d)), executor,
      [&](std::int64_t begin, std::int64_t end, Eigen::MatrixXd& part) {
        for (std::int64_t i = begin; i < end; i += kBlock) {
          const Eigen::MatrixXd x =
              keys.rows().middleRows(i, std::min(kBlock, end - i)).transpose().cast<double>();
          part.selfadjointView<Eigen::Lower>().rankUpdate(x);
        }
      });
  const double ridge = options.ridge * gram.trace() / static_cast<double>(d);
  gram.diagonal().array() += ridge > 0 ? ridge : 1;  // all keys zero: every score zero
  const Eigen::LLT<Eigen::MatrixXd> cholesky(gram);

  executor.run(keys.chunks(), [&](std::int64_t c, int) {
    Eigen::MatrixXd x;
    for (std::int64_t i = keys.begin(c); i < keys.end(c); i += kBlock) {
      x = keys.rows().middleRows(i, kBlock).transpose().cast<double>();
      cholesky.matrixL().solveInPlace(x);
      for (std::int64_t j = i; j < std::min(i + kBlock, keys.end(c)); ++j) {
        out[j] = static_cast<float>(x.col(j - i).squaredNorm());
      }
    }
  });
}

}  // namespace prescore
