// Distance to the own centroid after k-means over the keys of a head (2505.11040, section 4):
// seeded with k-means++ (D squared; Arthur and Vassilvitskii 2007), then Lloyd.
#include <cmath>
#include <limits>
#include <vector>

#include "score/head_keys.h"

namespace prescore {
namespace {

// Sums of the keys of each cluster, with their number in the last row: [d + 1, clusters].
using Sums = Eigen::MatrixXd;

// Distances are taken around the mean of the keys: RoPE keys share a large mean that would cancel.
class KMeans {
 public:
  KMeans(const HeadKeys& keys, std::int64_t clusters, Executor& executor)
      : keys_(keys), executor_(executor), nearest_(static_cast<std::size_t>(keys.n()), 0),
        distance2_(static_cast<std::size_t>(keys.fit()), 0),
        mean_(Eigen::RowVectorXf::Zero(keys.d())) {
    centroids_ = RowsF::Zero(1, keys.d());
    update();  // one cluster: its centroid is the mean of all keys
    mean_ = centroids_.row(0);
    centroids_.setZero(clusters, keys.d());
  }

  void seed(std::uint64_t seed) {
    for (std::int64_t i = 0; i < keys_.fit(); ++i) {
      distance2_[static_cast<std::size_t>(i)] =
          keys_.finite(i) ? std::numeric_limits<float>::max() : 0;
    }
    std::vector<double> mass(static_cast<std::size_t>(keys_.fit_chunks()));
    for (std::int64_t c = 0; c < centroids_.rows(); ++c) {
      const double u = unit(mix(seed + static_cast<std::uint64_t>(c)));
      const std::int64_t pick = c == 0 ? uniform(u) : draw(u, mass);
      centroids_.row(c) = keys_.rows().row(pick) - mean_;
      executor_.run(keys_.fit_chunks(), [&](std::int64_t chunk, int) {
        double sum = 0;
        for (std::int64_t i = keys_.begin(chunk); i < keys_.fit_end(chunk); ++i) {
          float& best = distance2_[static_cast<std::size_t>(i)];
          if (best > 0) best = std::min(best, distance2(i, c));
          sum += double{best};
        }
        mass[static_cast<std::size_t>(chunk)] = sum;
      });
    }
  }

  // Each key to its nearest centroid; ties to the first.
  void assign() {
    const Eigen::VectorXf half = centroids_.rowwise().squaredNorm() / 2;
    constexpr std::int64_t kBlock = HeadKeys::kBlock;
    executor_.run(keys_.chunks(), [&](std::int64_t chunk, int) {
      RowsF x, dots;
      for (std::int64_t i = keys_.begin(chunk); i < keys_.end(chunk); i += kBlock) {
        x = keys_.rows().middleRows(i, kBlock).rowwise() - mean_;
        dots.noalias() = x * centroids_.transpose();
        dots.rowwise() -= half.transpose();
        for (std::int64_t j = i; j < std::min(i + kBlock, keys_.end(chunk)); ++j) {
          Eigen::Index best = 0;
          dots.row(j - i).maxCoeff(&best);
          nearest_[static_cast<std::size_t>(j)] = static_cast<std::int32_t>(best);
        }
      }
    });
  }

  // Each centroid to the mean of its keys; an empty cluster keeps its place.
  void update() {
    const std::int64_t clusters = centroids_.rows(), d = keys_.d();
    const Sums sums = keys_.sum(Sums(Sums::Zero(d + 1, clusters)), executor_,
                                [&](std::int64_t begin, std::int64_t end, Sums& part) {
                                  for (std::int64_t i = begin; i < end; ++i) {
                                    if (!keys_.finite(i)) continue;
                                    auto sum = part.col(nearest_[static_cast<std::size_t>(i)]);
                                    sum.head(d) += keys_.rows().row(i).transpose().cast<double>();
                                    sum[d] += 1;
                                  }
                                });
    for (std::int64_t c = 0; c < clusters; ++c) {
      if (sums(d, c) == 0) continue;
      centroids_.row(c) = (sums.col(c).head(d) / sums(d, c)).transpose().cast<float>() - mean_;
    }
  }

  void scores(ClusterScore kind, float* out) const {
    distances(out);
    if (kind == ClusterScore::kDistance) return;
    // Added in the order of the keys, so that the bits do not depend on the threads.
    std::vector<double> sum(static_cast<std::size_t>(centroids_.rows()), 0);
    for (std::int64_t i = 0; i < keys_.fit(); ++i) {
      if (keys_.finite(i)) sum[cluster(i)] += double{out[i]};
    }
    for (std::int64_t i = 0; i < keys_.n(); ++i) {
      const double total = sum[cluster(i)];
      if (kind == ClusterScore::kNearness) {
        out[i] = -out[i];
      } else {
        out[i] = total > 0 ? static_cast<float>(double{out[i]} / total) : 0;
      }
    }
  }

 private:
  std::size_t cluster(std::int64_t i) const {
    return static_cast<std::size_t>(nearest_[static_cast<std::size_t>(i)]);
  }

  void distances(float* out) const {
    executor_.run(keys_.chunks(), [&](std::int64_t chunk, int) {
      for (std::int64_t i = keys_.begin(chunk); i < keys_.end(chunk); ++i) {
        out[i] = std::sqrt(distance2(i, nearest_[static_cast<std::size_t>(i)]));
      }
    });
  }

  float distance2(std::int64_t i, std::int64_t c) const {
    return (keys_.rows().row(i) - mean_ - centroids_.row(c)).squaredNorm();
  }

  std::int64_t uniform(double u) const {
    return std::min(keys_.fit() - 1,
                    static_cast<std::int64_t>(u * static_cast<double>(keys_.fit())));
  }

  // A key with probability proportional to its squared distance; `mass` is that sum by chunk.
  std::int64_t draw(double u, const std::vector<double>& mass) const {
    double total = 0;
    for (const double m : mass) total += m;
    if (!(total > 0) || !std::isfinite(total)) return uniform(u);
    double left = u * total;
    std::int64_t last = 0;
    for (std::int64_t chunk = 0; chunk < keys_.fit_chunks(); ++chunk) {
      if (left >= mass[static_cast<std::size_t>(chunk)] && chunk + 1 < keys_.fit_chunks()) {
        left -= mass[static_cast<std::size_t>(chunk)];
        continue;
      }
      for (std::int64_t i = keys_.begin(chunk); i < keys_.fit_end(chunk); ++i) {
        const float w = distance2_[static_cast<std::size_t>(i)];
        if (w > 0) last = i;
        if (w > 0 && left < double{w}) return i;
        left -= double{w};
      }
    }
    return last;  // rounding ate the last share
  }

  const HeadKeys& keys_;
  Executor& executor_;
  std::vector<std::int32_t> nearest_;
  std::vector<float> distance2_;
  RowsF centroids_;  // around mean_
  Eigen::RowVectorXf mean_;
};

}  // namespace

void score_kmeans(const HeadKeys& keys, const ScoreOptions& options, std::uint64_t stream,
                  float* out, Executor& executor) {
  const std::int64_t wanted = options.clusters > 0 ? options.clusters : keys.d() + 1;
  KMeans kmeans(keys, std::min(wanted, keys.fit()), executor);
  kmeans.seed(mix(options.seed) + stream);
  kmeans.assign();
  for (std::int64_t i = 0; i < options.iterations; ++i) kmeans.update(), kmeans.assign();
  kmeans.update();
  kmeans.scores(options.cluster_score, out);
}

}  // namespace prescore
