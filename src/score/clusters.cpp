#include "score/clusters.h"

#include <cmath>
#include <limits>

#include "common/random.h"

namespace prescore {

std::int64_t cluster_count(const HeadKeys& keys, const ScoreOptions& o) {
  return std::min(o.clusters > 0 ? o.clusters : keys.d() + 1, keys.n());
}

std::vector<std::int64_t> seed_rows(
    const HeadKeys& keys, std::int64_t centres, std::uint64_t seed, Executor& executor,
    const std::function<float(std::int64_t key, std::int64_t row)>& weight) {
  constexpr std::int64_t kPerCentre = 256;
  const std::int64_t stride = std::max<std::int64_t>(1, keys.n() / (kPerCentre * centres));
  const std::int64_t n = (keys.n() - 1) / stride + 1, part = 1024, parts = (n - 1) / part + 1;
  std::vector<float> least(static_cast<std::size_t>(n));
  for (std::int64_t i = 0; i < n; ++i)
    least[static_cast<std::size_t>(i)] =
        keys.finite(i * stride) ? std::numeric_limits<float>::max() : 0;
  std::vector<double> mass(static_cast<std::size_t>(parts));

  const auto draw = [&](double u) {
    double total = 0;
    for (const double m : mass) total += m;
    if (!(total > 0) || !std::isfinite(total))
      return std::min(n - 1, static_cast<std::int64_t>(u * static_cast<double>(n)));
    double left = u * total;
    std::int64_t at = 0, last = 0;
    while (at + 1 < parts && left >= mass[static_cast<std::size_t>(at)])
      left -= mass[static_cast<std::size_t>(at++)];
    for (std::int64_t i = at * part; i < std::min(n, (at + 1) * part); ++i) {
      const double w = double{least[static_cast<std::size_t>(i)]};
      if (w > 0) last = i;
      if (w > 0 && left < w) return i;
      left -= w;
    }
    return last;  // rounding ate the last share
  };

  std::vector<std::int64_t> rows;
  for (std::int64_t c = 0; c < centres; ++c) {
    rows.push_back(draw(unit(mix(seed + static_cast<std::uint64_t>(c)))) * stride);
    executor.run(parts, [&](std::int64_t p, int) {
      double sum = 0;
      for (std::int64_t i = p * part; i < std::min(n, (p + 1) * part); ++i) {
        float& x = least[static_cast<std::size_t>(i)];
        if (x > 0) x = std::min(x, weight(i * stride, rows.back()));
        sum += double{x};
      }
      mass[static_cast<std::size_t>(p)] = sum;
    });
  }
  return rows;
}

void ClusterScorer::apply(const HeadKeys& keys, float* out, Executor& executor) const {
  std::vector<std::int32_t> centre(static_cast<std::size_t>(keys.n()));
  nearest(keys, centre.data(), out, executor);
  if (kind_ == ClusterScore::kDistance) return;
  for (std::int64_t i = 0; i < keys.n(); ++i) {
    if (kind_ == ClusterScore::kNearness) {
      out[i] = -out[i];
      continue;
    }
    const double total = sum_[static_cast<std::size_t>(centre[static_cast<std::size_t>(i)])];
    out[i] = total > 0 ? static_cast<float>(double{out[i]} / total) : 0;
  }
}

void ClusterScorer::fit_sums(const HeadKeys& keys, std::int64_t centres, Executor& executor) {
  if (kind_ != ClusterScore::kRelative) return;
  std::vector<std::int32_t> centre(static_cast<std::size_t>(keys.n()));
  std::vector<float> distance(centre.size());
  nearest(keys, centre.data(), distance.data(), executor);
  sum_.assign(static_cast<std::size_t>(centres), 0);
  for (std::size_t i = 0; i < centre.size(); ++i)  // in the order of the keys
    if (keys.finite(static_cast<std::int64_t>(i)))
      sum_[static_cast<std::size_t>(centre[i])] += double{distance[i]};
}

}  // namespace prescore
