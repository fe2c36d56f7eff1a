// k-medians over the keys of a head: centres are coordinate-wise medians, distances are sums of
// absolute differences, and the seeds are drawn in proportion to them.
#include "common/random.h"
#include "score/clusters.h"

namespace prescore {
namespace {

class KMedianScorer final : public ClusterScorer {
 public:
  KMedianScorer(const HeadKeys& keys, const ScoreOptions& o, std::uint64_t stream,
                Executor& executor)
      : ClusterScorer(o.cluster_score), centres_(cluster_count(keys, o), keys.d()) {
    const auto rows = seed_rows(keys, centres_.rows(), mix(o.seed) + stream, executor,
                                [&](const float* row, const void* const* key, int n, float* out) {
                                  tile::row_kernels().distances(row, key, DType::kF32, n,
                                                                static_cast<int>(keys.d()), out);
                                });
    for (Eigen::Index c = 0; c < centres_.rows(); ++c)
      centres_.row(c) = keys.rows().row(rows[static_cast<std::size_t>(c)]);
    std::vector<std::int32_t> centre(static_cast<std::size_t>(keys.n()));
    std::vector<float> distance(centre.size());
    for (std::int64_t i = 0; i <= o.iterations; ++i) {  // as in KMeans
      nearest(keys, centre.data(), distance.data(), executor);
      update(keys, centre, executor);
    }
    fit_sums(keys, centres_.rows(), executor);
  }

 protected:
  // Ties to the first centre.
  void nearest(const HeadKeys& keys, std::int32_t* centre, float* distance,
               Executor& executor) const override {
    std::vector<const void*> rows;
    for (Eigen::Index c = 0; c < centres_.rows(); ++c) rows.push_back(centres_.row(c).data());
    executor.run(keys.chunks(), [&](std::int64_t chunk, int) {
      std::vector<float> to(rows.size());
      for (std::int64_t i = keys.begin(chunk); i < keys.end(chunk); ++i) {
        tile::row_kernels().distances(keys.rows().row(i).data(), rows.data(), DType::kF32,
                                      static_cast<int>(rows.size()), static_cast<int>(keys.d()),
                                      to.data());
        const auto best = std::min_element(to.begin(), to.end());
        distance[i] = *best, centre[i] = static_cast<std::int32_t>(best - to.begin());
      }
    });
  }

 private:
  // The lower median of each coordinate; an empty cluster keeps its place.
  void update(const HeadKeys& keys, const std::vector<std::int32_t>& centre, Executor& executor) {
    std::vector<std::vector<std::int64_t>> members(static_cast<std::size_t>(centres_.rows()));
    for (std::int64_t i = 0; i < keys.n(); ++i)
      if (keys.finite(i))
        members[static_cast<std::size_t>(centre[static_cast<std::size_t>(i)])].push_back(i);
    executor.run(centres_.rows(), [&](std::int64_t c, int) {
      const std::vector<std::int64_t>& own = members[static_cast<std::size_t>(c)];
      if (own.empty()) return;
      std::vector<float> x(own.size());
      const auto middle = x.begin() + static_cast<std::ptrdiff_t>((own.size() - 1) / 2);
      for (Eigen::Index j = 0; j < centres_.cols(); ++j) {
        for (std::size_t i = 0; i < own.size(); ++i) x[i] = keys.rows()(own[i], j);
        std::nth_element(x.begin(), middle, x.end());
        centres_(c, j) = *middle;
      }
    });
  }

  RowsF centres_;
};

}  // namespace

Fitted fit_kmedian(const HeadKeys& keys, const ScoreOptions& o, std::uint64_t stream,
                   Executor& executor) {
  return std::make_unique<KMedianScorer>(keys, o, stream, executor);
}

}  // namespace prescore
