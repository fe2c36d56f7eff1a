// Oracle of the stage score: the k-means family.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "reference/reference.h"

namespace prescore::reference {
namespace {

using Centres = std::map<std::int64_t, std::vector<double>>;  // by the name of the cluster

// Mean of each cluster.
Centres means(std::span<const double> points, std::int64_t d,
              std::span<const std::int64_t> cluster) {
  Centres sum;
  std::map<std::int64_t, double> count;
  for (std::size_t i = 0; i < cluster.size(); ++i) {
    auto& s = sum[cluster[i]];
    s.resize(static_cast<std::size_t>(d));
    for (std::size_t c = 0; c < s.size(); ++c) s[c] += points[i * s.size() + c];
    count[cluster[i]] += 1;
  }
  for (auto& [name, s] : sum) {
    for (double& x : s) x /= count[name];
  }
  return sum;
}

// Lower median of each coordinate of each cluster.
Centres medians(std::span<const double> points, std::int64_t d,
                std::span<const std::int64_t> cluster) {
  const auto width = static_cast<std::size_t>(d);
  std::map<std::int64_t, std::vector<std::vector<double>>> members;  // by coordinate
  for (std::size_t i = 0; i < cluster.size(); ++i) {
    auto& own = members[cluster[i]];
    own.resize(width);
    for (std::size_t c = 0; c < width; ++c) own[c].push_back(points[i * width + c]);
  }
  Centres out;
  for (auto& [name, own] : members) {
    for (std::vector<double>& x : own) {
      std::ranges::sort(x);
      out[name].push_back(x[(x.size() - 1) / 2]);
    }
  }
  return out;
}

double euclidean(std::span<const double> x, std::span<const double> y) {
  double sum = 0;
  for (std::size_t c = 0; c < x.size(); ++c) sum += (x[c] - y[c]) * (x[c] - y[c]);
  return std::sqrt(sum);
}

double absolute(std::span<const double> x, std::span<const double> y) {
  double sum = 0;
  for (std::size_t c = 0; c < x.size(); ++c) sum += std::abs(x[c] - y[c]);
  return sum;
}

// Of each key to the centre of its own cluster.
template <typename Distance, typename Move>
std::vector<double> to_own(std::span<const double> keys, std::int64_t d,
                           std::span<const std::int64_t> cluster, const Distance& distance,
                           const Move& move) {
  const Centres centres = move(keys, d, cluster);
  const auto width = static_cast<std::size_t>(d);
  std::vector<double> out;
  for (std::size_t i = 0; i < cluster.size(); ++i)
    out.push_back(distance(keys.subspan(i * width, width), centres.at(cluster[i])));
  return out;
}

template <typename Distance, typename Move>
Lloyd iterate(std::span<const double> keys, std::int64_t d, std::span<const std::int64_t> seeds,
              std::int64_t rounds, const Distance& distance, const Move& move) {
  const auto width = static_cast<std::size_t>(d);
  const std::size_t n = keys.size() / width;
  Centres centres;
  for (std::size_t c = 0; c < seeds.size(); ++c) {
    const auto seed = keys.subspan(static_cast<std::size_t>(seeds[c]) * width, width);
    centres[static_cast<std::int64_t>(c)] = {seed.begin(), seed.end()};
  }
  Lloyd out{std::vector<std::int64_t>(n), std::vector<double>(n)};
  const auto assign = [&] {
    for (std::size_t i = 0; i < n; ++i) {
      out.distance[i] = std::numeric_limits<double>::infinity();
      for (const auto& [name, centre] : centres) {
        const double x = distance(keys.subspan(i * width, width), centre);
        if (x < out.distance[i]) out.distance[i] = x, out.cluster[i] = name;
      }
    }
  };
  for (std::int64_t round = 0; round < rounds; ++round) {
    assign();
    for (auto& [name, centre] : move(keys, d, out.cluster)) centres[name] = centre;
  }
  assign();
  return out;
}

}  // namespace

std::vector<double> distance_to_own_mean(std::span<const double> keys, std::int64_t d,
                                         std::span<const std::int64_t> cluster) {
  return to_own(keys, d, cluster, euclidean, means);
}

std::vector<double> relative(std::span<const double> distance,
                             std::span<const std::int64_t> cluster) {
  std::vector<double> out(distance.begin(), distance.end());
  std::map<std::int64_t, double> sum;
  for (std::size_t i = 0; i < out.size(); ++i) sum[cluster[i]] += out[i];
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = sum[cluster[i]] > 0 ? out[i] / sum[cluster[i]] : 0;
  }
  return out;
}

Lloyd lloyd(std::span<const double> keys, std::int64_t d, std::span<const std::int64_t> seeds,
            std::int64_t rounds) {
  return iterate(keys, d, seeds, rounds, euclidean, means);
}

Lloyd lloyd_median(std::span<const double> keys, std::int64_t d,
                   std::span<const std::int64_t> seeds, std::int64_t rounds) {
  return iterate(keys, d, seeds, rounds, absolute, medians);
}

std::vector<double> distance_to_own_median(std::span<const double> keys, std::int64_t d,
                                           std::span<const std::int64_t> cluster) {
  return to_own(keys, d, cluster, absolute, medians);
}

std::vector<double> kernel_distance(std::span<const double> keys, std::int64_t d,
                                    std::span<const std::int64_t> cluster, double sigma) {
  const std::size_t n = cluster.size();
  const auto kernel = [&](std::size_t i, std::size_t j) {
    double x = 0;
    for (std::size_t c = 0; c < static_cast<std::size_t>(d); ++c) {
      const double y =
          keys[i * static_cast<std::size_t>(d) + c] - keys[j * static_cast<std::size_t>(d) + c];
      x += y * y;
    }
    return std::exp(-x / (2 * sigma * sigma));
  };
  std::vector<double> out;
  for (std::size_t i = 0; i < n; ++i) {
    double count = 0, own = 0, all = 0;
    for (std::size_t j = 0; j < n; ++j) {
      if (cluster[j] != cluster[i]) continue;
      ++count, own += kernel(i, j);
      for (std::size_t l = 0; l < n; ++l)
        if (cluster[l] == cluster[i]) all += kernel(j, l);
    }
    out.push_back(std::sqrt(std::max(0.0, 1 - 2 * own / count + all / (count * count))));
  }
  return out;
}

std::vector<double> fourier_features(std::span<const double> keys, std::int64_t d,
                                     std::span<const double> w, std::span<const double> b) {
  const double scale = std::sqrt(2.0 / static_cast<double>(b.size()));
  std::vector<double> out;
  for (const double* k = keys.data(); k < keys.data() + keys.size(); k += d)
    for (std::size_t f = 0; f < b.size(); ++f)
      out.push_back(scale *
                    std::cos(dot(w.data() + static_cast<std::int64_t>(f) * d, k, d) + b[f]));
  return out;
}

}  // namespace prescore::reference
