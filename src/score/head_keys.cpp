#include "score/head_keys.h"

#include "common/views.h"
#include "score/unrotate.h"
#include "tile/tile.h"

namespace prescore {

HeadKeys::HeadKeys(const Tensor& k, std::int64_t b, std::int64_t h, std::int64_t begin,
                   std::int64_t end, Executor& executor, const Rotation& rotation)
    : rows_(round_up(end - begin, kBlock), k.shape[3]),
      finite_(static_cast<std::size_t>(end - begin)) {
  rows_.bottomRows(rows_.rows() - n()).setZero();
  executor.run(chunks(), [&](std::int64_t c, int) {
    Unrotate unrotate(rotation);
    for (std::int64_t i = this->begin(c); i < this->end(c); ++i) {
      tile::row_kernels().to_f32(row(k, b, h, begin + i), k.dtype, static_cast<int>(d()),
                                 rows_.row(i).data());
      unrotate(begin + i, rows_.row(i).data());
      const bool finite = rows_.row(i).allFinite();
      if (!finite) rows_.row(i).setZero();
      finite_[static_cast<std::size_t>(i)] = finite;
    }
  });
}

HeadKeys::HeadKeys(const HeadKeys& like, std::int64_t d)
    : rows_(RowsF::Zero(like.rows_.rows(), d)), finite_(like.finite_) {}

Eigen::RowVectorXf HeadKeys::mean(Executor& executor) const {
  // The sum of the keys, with their number at the end.
  const Eigen::RowVectorXd total =
      sum(Eigen::RowVectorXd(Eigen::RowVectorXd::Zero(d() + 1)), executor,
          [&](std::int64_t begin, std::int64_t end, Eigen::RowVectorXd& part) {
            for (std::int64_t i = begin; i < end; ++i) {
              if (!finite(i)) continue;
              part.head(d()) += rows_.row(i).cast<double>();
              part[d()] += 1;
            }
          });
  return (total.head(d()) / std::max(total[d()], 1.0)).cast<float>();
}

void HeadKeys::subtract(const Eigen::RowVectorXf& x, Executor& executor) {
  executor.run(chunks(), [&](std::int64_t c, int) {
    for (std::int64_t i = begin(c); i < end(c); ++i)
      if (finite(i)) rows_.row(i) -= x;
  });
}

}  // namespace prescore
