// k-means over the keys of a head (2505.11040, section 4): seeded with k-means++, then Lloyd; the
// score is the distance to the own centroid. Kernel k-means is k-means over random Fourier features
// (Rahimi and Recht 2007), or the Gaussian of that distance.
#include <cmath>
#include <numbers>

#include "common/random.h"
#include "score/clusters.h"

namespace prescore {
namespace {

constexpr std::int64_t kBlock = HeadKeys::kBlock;

// Sums of the keys of each cluster, with their number in the last row: [d + 1, clusters].
using Sums = Eigen::MatrixXd;

}  // namespace

KMeans::KMeans(const HeadKeys& keys, std::int64_t clusters, const ScoreOptions& o,
               std::uint64_t seed, Executor& executor)
    : mean_(keys.mean(executor)), centres_(clusters, keys.d()) {
  const auto weights = [&](const float* row, const void* const* key, int n, float* out) {
    tile::row_kernels().squared_distances(row, key, DType::kF32, n, static_cast<int>(keys.d()),
                                          out);
    if (o.distance_seeds) std::transform(out, out + n, out, [](float x) { return std::sqrt(x); });
  };
  const std::vector<std::int64_t> rows = seed_rows(keys, centres_.rows(), seed, executor, weights);
  for (Eigen::Index c = 0; c < centres_.rows(); ++c)
    centres_.row(c) = keys.rows().row(rows[static_cast<std::size_t>(c)]) - mean_;
  std::vector<std::int32_t> centre(static_cast<std::size_t>(keys.n()));
  for (std::int64_t i = 0; i <= o.iterations; ++i) {  // the first, from the seeds, is not counted
    assign(keys, RowProducts(centres_), centre.data(), executor);
    update(keys, centre.data(), executor);
  }
}

// Each key to its nearest centroid, the one with the largest x.c - |c|^2 / 2; ties to the first.
void KMeans::assign(const HeadKeys& keys, const RowProducts& products, std::int32_t* centre,
                    Executor& executor) const {
  std::vector<float> bias;
  for (Eigen::Index c = 0; c < centres_.rows(); ++c)
    bias.push_back(-centres_.row(c).dot(mean_) - centres_.row(c).squaredNorm() / 2);
  executor.run(keys.chunks(), [&](std::int64_t chunk, int) {
    RowProducts::Scratch scratch;
    std::uint16_t best[kBlock];
    for (std::int64_t i = keys.begin(chunk); i < keys.end(chunk); i += kBlock) {
      const std::int64_t n = std::min(kBlock, keys.end(chunk) - i);
      const float* s = products.run(keys.rows(), i, n, scratch);
      tile::row_kernels().argmax(s, products.count(), products.padded(),
                                 static_cast<int>((n + 15) / 16), bias.data(), best);
      std::copy_n(best, n, centre + i);
    }
  });
}

// Each centroid to the mean of its keys; an empty cluster keeps its place.
void KMeans::update(const HeadKeys& keys, const std::int32_t* centre, Executor& executor) {
  const std::int64_t d = keys.d();
  const Sums sums = keys.sum(Sums(Sums::Zero(d + 1, centres_.rows())), executor,
                             [&](std::int64_t begin, std::int64_t end, Sums& part) {
                               for (std::int64_t i = begin; i < end; ++i) {
                                 if (!keys.finite(i)) continue;
                                 auto sum = part.col(centre[i]);
                                 sum.head(d) += keys.rows().row(i).transpose().cast<double>();
                                 sum[d] += 1;
                               }
                             });
  for (Eigen::Index c = 0; c < centres_.rows(); ++c)
    if (sums(d, c) > 0)
      centres_.row(c) =
          ((sums.col(c).head(d) / sums(d, c)).transpose() - mean_.cast<double>()).cast<float>();
}

void KMeans::nearest(const HeadKeys& keys, std::int32_t* centre, float* distance,
                     Executor& executor) const {
  assign(keys, RowProducts(centres_), centre, executor);
  executor.run(keys.chunks(), [&](std::int64_t c, int) {
    for (std::int64_t i = keys.begin(c); i < keys.end(c); ++i)
      distance[i] = (keys.rows().row(i) - mean_ - centres_.row(centre[i])).norm();
  });
}

namespace {

class KMeansScorer final : public ClusterScorer {
 public:
  KMeansScorer(const HeadKeys& keys, const ScoreOptions& o, std::uint64_t stream,
               Executor& executor)
      : ClusterScorer(o.cluster_score),
        kmeans_(keys, cluster_count(keys, o), o, mix(o.seed) + stream, executor) {
    fit_sums(keys, kmeans_.clusters(), executor);
  }

 protected:
  void nearest(const HeadKeys& keys, std::int32_t* centre, float* distance,
               Executor& executor) const override {
    kmeans_.nearest(keys, centre, distance, executor);
  }

 private:
  KMeans kmeans_;
};

// The distance, in the feature space of a Gaussian kernel, between a key and its own centroid:
// sqrt(2 - 2 exp(-distance^2 / 2 sigma^2)).
class GaussianDistance final : public ClusterScorer {
 public:
  GaussianDistance(KMeans kmeans, const HeadKeys& keys, double sigma, ClusterScore kind,
                   Executor& executor)
      : ClusterScorer(kind), kmeans_(std::move(kmeans)),
        factor_(sigma > 0 ? -0.5 / (sigma * sigma) : 0) {
    fit_sums(keys, kmeans_.clusters(), executor);
  }

 protected:
  void nearest(const HeadKeys& keys, std::int32_t* centre, float* distance,
               Executor& executor) const override {
    kmeans_.nearest(keys, centre, distance, executor);
    for (std::int64_t i = 0; i < keys.n(); ++i)
      distance[i] = static_cast<float>(
          std::sqrt(-2 * std::expm1(factor_ * double{distance[i]} * double{distance[i]})));
  }

 private:
  KMeans kmeans_;
  double factor_;
};

// cos(w.x + b) for normal w of deviation 1 / sigma: products of features approximate the kernel.
class FourierFeatures {
 public:
  FourierFeatures(std::int64_t d, std::int64_t count, double sigma, std::uint64_t stream)
      : w_(count, d), b_(count) {
    for (std::int64_t i = 0; i < count; ++i) {
      for (std::int64_t j = 0; j < d; ++j)
        w_(i, j) = static_cast<float>(normal(stream, static_cast<std::uint64_t>(i * d + j)) /
                                      (sigma > 0 ? sigma : 1));
      b_[i] = static_cast<float>(2 * std::numbers::pi *
                                 unit(mix(~stream + static_cast<std::uint64_t>(i))));
    }
  }

  HeadKeys of(const HeadKeys& keys, Executor& executor) const {
    HeadKeys out(keys, w_.rows());
    const RowProducts products(w_);
    const float scale = std::sqrt(2.0f / static_cast<float>(w_.rows()));
    executor.run(keys.chunks(), [&](std::int64_t c, int) {
      RowProducts::Scratch scratch;
      for (std::int64_t i = keys.begin(c); i < keys.end(c); i += kBlock) {
        const std::int64_t n = std::min(kBlock, keys.end(c) - i);
        const float* s = products.run(keys.rows(), i, n, scratch);
        for (std::int64_t j = 0; j < n; ++j)
          for (Eigen::Index f = 0; keys.finite(i + j) && f < w_.rows(); ++f)
            out.rows()(i + j, f) =
                scale * std::cos(s[(j / 16 * products.padded() + f) * 16 + j % 16] + b_[f]);
      }
    });
    return out;
  }

 private:
  RowsF w_;
  Eigen::VectorXf b_;
};

class FourierKMeans final : public ClusterScorer {
 public:
  FourierKMeans(const HeadKeys& keys, const ScoreOptions& o, double sigma, std::uint64_t stream,
                Executor& executor)
      : ClusterScorer(o.cluster_score),
        features_(keys.d(),
                  o.features > 0 ? o.features : std::min<std::int64_t>(2 * keys.d(), tile::kMaxDim),
                  sigma, stream),
        kmeans_(features_.of(keys, executor), cluster_count(keys, o), o, stream, executor) {
    fit_sums(keys, kmeans_.clusters(), executor);
  }

 protected:
  void nearest(const HeadKeys& keys, std::int32_t* centre, float* distance,
               Executor& executor) const override {
    kmeans_.nearest(features_.of(keys, executor), centre, distance, executor);
  }

 private:
  FourierFeatures features_;
  KMeans kmeans_;
};

}  // namespace

Fitted fit_kmeans(const HeadKeys& keys, const ScoreOptions& o, std::uint64_t stream,
                  Executor& executor) {
  return std::make_unique<KMeansScorer>(keys, o, stream, executor);
}

Fitted fit_kernel_kmeans(const HeadKeys& keys, const ScoreOptions& o, std::uint64_t stream,
                         Executor& executor) {
  const std::uint64_t seed = mix(o.seed) + stream;
  if (o.sigma > 0 && o.kernel == KernelKMeans::kFeatures)
    return std::make_unique<FourierKMeans>(keys, o, o.sigma, mix(seed), executor);
  KMeans plain(keys, cluster_count(keys, o), o, seed, executor);
  double sigma = o.sigma;
  if (sigma == 0) {  // 1.3 times the mean distance of a key to its nearest centroid
    std::vector<std::int32_t> centre(static_cast<std::size_t>(keys.n()));
    std::vector<float> distance(centre.size());
    plain.nearest(keys, centre.data(), distance.data(), executor);
    double sum = 0, count = 0;
    for (std::size_t i = 0; i < distance.size(); ++i)
      if (keys.finite(static_cast<std::int64_t>(i))) sum += double{distance[i]}, ++count;
    sigma = 1.3 * sum / std::max(count, 1.0);
  }
  if (o.kernel == KernelKMeans::kFeatures)
    return std::make_unique<FourierKMeans>(keys, o, sigma, mix(seed), executor);
  return std::make_unique<GaussianDistance>(std::move(plain), keys, sigma, o.cluster_score,
                                            executor);
}

}  // namespace prescore
