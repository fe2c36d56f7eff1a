// The keys of one head as fp32 rows, cut into chunks of fixed size, so that sums over chunks have
// the same bits for any number of threads and whatever keys come later.
#pragma once

#include <Eigen/Core>
#include <algorithm>
#include <cstdint>
#include <vector>

#include "common/random.h"
#include "prescore/executor.h"
#include "prescore/score.h"
#include "prescore/types.h"

namespace prescore {

using RowsF = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

class HeadKeys {
 public:
  static constexpr std::int64_t kChunk = 2048;  ///< keys of a chunk
  static constexpr std::int64_t kBlock = 256;   ///< keys of a matrix product, a divisor of kChunk

  /// The first n keys, of which the first `fit` make the statistics.
  HeadKeys(const Tensor& k, std::int64_t b, std::int64_t h, std::int64_t n, std::int64_t fit,
           Executor& executor);

  /// Subtracts the mean of the fitted keys from every finite key.
  void centre(Executor& executor);

  std::int64_t n() const { return static_cast<std::int64_t>(finite_.size()); }
  std::int64_t fit() const { return fit_; }
  std::int64_t d() const { return rows_.cols(); }
  /// Keys [n, d], zero rows up to a whole block. A row with NaN or Inf is zero and not `finite`.
  const RowsF& rows() const { return rows_; }
  bool finite(std::int64_t i) const { return finite_[static_cast<std::size_t>(i)] != 0; }

  std::int64_t chunks() const { return (n() + kChunk - 1) / kChunk; }
  std::int64_t fit_chunks() const { return (fit_ + kChunk - 1) / kChunk; }
  std::int64_t begin(std::int64_t chunk) const { return chunk * kChunk; }
  std::int64_t end(std::int64_t chunk) const { return std::min(n(), (chunk + 1) * kChunk); }
  std::int64_t fit_end(std::int64_t chunk) const { return std::min(fit_, (chunk + 1) * kChunk); }

  /// Sum over the chunks of the fitted keys, added in order; add(begin, end, T&) adds one chunk to
  /// a copy of `zero`. No more copies exist at a time than workers.
  template <typename T, typename Add>
  T sum(const T& zero, Executor& executor, const Add& add) const {
    T total = zero;
    std::vector<T> part(static_cast<std::size_t>(executor.width()), zero);
    for (std::int64_t first = 0; first < fit_chunks(); first += executor.width()) {
      const std::int64_t wave = std::min<std::int64_t>(executor.width(), fit_chunks() - first);
      executor.run(wave, [&](std::int64_t i, int) {
        T& p = part[static_cast<std::size_t>(i)];
        p = zero;
        add(begin(first + i), fit_end(first + i), p);
      });
      for (std::int64_t i = 0; i < wave; ++i) total += part[static_cast<std::size_t>(i)];
    }
    return total;
  }

 private:
  RowsF rows_;
  std::vector<std::uint8_t> finite_;
  std::int64_t fit_;
};

/// Throws Error on options out of range.
void check_score_options(const ScoreOptions&);

/// Scores keys [begin, end) of one head into out[begin, end), fitted to the first `fit`.
void score_range(const Tensor& k, std::int64_t b, std::int64_t h, std::int64_t fit,
                 std::int64_t begin, std::int64_t end, const ScoreOptions&, float* out, Executor&);

/// One head each; out [n]. Scores of keys that are not finite are left as they fall.
void score_leverage(const HeadKeys&, const ScoreOptions&, float* out, Executor&);
void score_kmeans(const HeadKeys&, const ScoreOptions&, std::uint64_t stream, float* out,
                  Executor&);

}  // namespace prescore
