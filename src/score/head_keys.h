// The keys of one head as fp32 rows, cut into chunks of fixed size, so that sums over chunks have
// the same bits for any number of threads and whatever keys come later.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>
#include <vector>

#include "prescore/executor.h"
#include "prescore/score.h"

namespace prescore {

using RowsF = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

class HeadKeys {
 public:
  static constexpr std::int64_t kChunk = 2048;  ///< keys of a chunk
  static constexpr std::int64_t kBlock = 256;   ///< keys of a matrix product, a divisor of kChunk

  /// Keys [begin, end) of a head of any tensor, without the rotation that they carry.
  HeadKeys(const Tensor& k, std::int64_t b, std::int64_t h, std::int64_t begin, std::int64_t end,
           Executor& executor, const Rotation& rotation = {});
  /// n zero rows as finite as those of `like`, to be filled.
  HeadKeys(const HeadKeys& like, std::int64_t d);

  std::int64_t n() const { return static_cast<std::int64_t>(finite_.size()); }
  std::int64_t d() const { return rows_.cols(); }
  /// Keys [n, d], zero rows up to a whole block. A row with NaN or Inf is zero and not `finite`.
  const RowsF& rows() const { return rows_; }
  RowsF& rows() { return rows_; }
  bool finite(std::int64_t i) const { return finite_[static_cast<std::size_t>(i)] != 0; }

  std::int64_t chunks() const { return (n() + kChunk - 1) / kChunk; }
  std::int64_t begin(std::int64_t chunk) const { return chunk * kChunk; }
  std::int64_t end(std::int64_t chunk) const { return std::min(n(), (chunk + 1) * kChunk); }

  /// Mean of the finite keys; zero where there is none.
  Eigen::RowVectorXf mean(Executor& executor) const;
  /// Subtracts a vector from every finite key.
  void subtract(const Eigen::RowVectorXf& x, Executor& executor);

  /// Sum over the chunks, added in order; add(begin, end, T&) adds one chunk to a copy of `zero`.
  /// No more copies exist at a time than workers.
  template <typename T, typename Add>
  T sum(const T& zero, Executor& executor, const Add& add) const {
    T total = zero;
    std::vector<T> part(static_cast<std::size_t>(executor.width()), zero);
    for (std::int64_t first = 0; first < chunks(); first += executor.width()) {
      const std::int64_t wave = std::min<std::int64_t>(executor.width(), chunks() - first);
      executor.run(wave, [&](std::int64_t i, int) {
        T& p = part[static_cast<std::size_t>(i)];
        p = zero;
        add(begin(first + i), end(first + i), p);
      });
      for (std::int64_t i = 0; i < wave; ++i) total += part[static_cast<std::size_t>(i)];
    }
    return total;
  }

 private:
  RowsF rows_;
  std::vector<std::uint8_t> finite_;
};

}  // namespace prescore
