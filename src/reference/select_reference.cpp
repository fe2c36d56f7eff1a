// Oracle of the stages score, index and plan.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <numeric>

#include "reference/reference.h"

namespace prescore::reference {
namespace {

double dot(const double* x, const double* y, std::int64_t d) {
  return std::inner_product(x, x + d, y, 0.0);
}

std::int64_t rows(std::span<const double> keys, std::int64_t d) {
  return static_cast<std::int64_t>(keys.size()) / d;
}

// Solves A x = y for a symmetric positive definite A [d, d] by Gaussian elimination with pivoting.
std::vector<double> solve(std::vector<double> a, std::vector<double> y) {
  const std::size_t d = y.size();
  for (std::size_t p = 0; p < d; ++p) {
    std::size_t best = p;
    for (std::size_t r = p + 1; r < d; ++r) {
      if (std::abs(a[r * d + p]) > std::abs(a[best * d + p])) best = r;
    }
    for (std::size_t c = 0; c < d; ++c) std::swap(a[p * d + c], a[best * d + c]);
    std::swap(y[p], y[best]);
    for (std::size_t r = p + 1; r < d; ++r) {
      const double f = a[r * d + p] / a[p * d + p];
      for (std::size_t c = p; c < d; ++c) a[r * d + c] -= f * a[p * d + c];
      y[r] -= f * y[p];
    }
  }
  for (std::size_t p = d; p-- > 0;) {
    for (std::size_t c = p + 1; c < d; ++c) y[p] -= a[p * d + c] * y[c];
    y[p] /= a[p * d + p];
  }
  return y;
}

// Mean of each cluster, by name.
std::map<std::int64_t, std::vector<double>> means(std::span<const double> points, std::int64_t d,
                                                  std::span<const std::int64_t> cluster) {
  std::map<std::int64_t, std::vector<double>> sum;
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

}  // namespace

std::vector<double> key_norms(std::span<const double> keys, std::int64_t d) {
  std::vector<double> out;
  for (std::int64_t i = 0; i < rows(keys, d); ++i) {
    const double* k = keys.data() + i * d;
    out.push_back(std::sqrt(dot(k, k, d)));
  }
  return out;
}

std::vector<double> ridge_leverage(std::span<const double> keys, std::int64_t d, double ridge,
                                   std::int64_t fit) {
  const auto n = static_cast<std::size_t>(d);
  std::vector<double> gram(n * n);
  for (std::int64_t i = 0; i < fit; ++i) {
    const double* k = keys.data() + i * d;
    for (std::size_t r = 0; r < n; ++r) {
      for (std::size_t c = 0; c < n; ++c) gram[r * n + c] += k[r] * k[c];
    }
  }
  double trace = 0;
  for (std::size_t c = 0; c < n; ++c) trace += gram[c * n + c];
  for (std::size_t c = 0; c < n; ++c) gram[c * n + c] += ridge * trace / static_cast<double>(d);
  std::vector<double> out;
  for (std::int64_t i = 0; i < rows(keys, d); ++i) {
    const double* k = keys.data() + i * d;
    out.push_back(dot(k, solve(gram, {k, k + d}).data(), d));
  }
  return out;
}

std::vector<double> key_difference(std::span<const double> keys, std::int64_t d, std::int64_t fit) {
  std::vector<double> mean(static_cast<std::size_t>(d));
  const std::vector<double> norm = key_norms(keys, d);
  for (std::size_t i = 0; i < static_cast<std::size_t>(fit); ++i) {
    for (std::size_t c = 0; c < mean.size(); ++c) {
      if (norm[i] > 0) mean[c] += keys[i * mean.size() + c] / norm[i];
    }
  }
  const double length = std::sqrt(dot(mean.data(), mean.data(), d));
  std::vector<double> out;
  for (std::size_t i = 0; i < norm.size(); ++i) {
    const double both = norm[i] * length;
    out.push_back(both > 0 ? -dot(keys.data() + i * mean.size(), mean.data(), d) / both : 0.0);
  }
  return out;
}

std::vector<double> distance_to_own_mean(std::span<const double> keys, std::int64_t d,
                                         std::span<const std::int64_t> cluster) {
  const auto mean = means(keys, d, cluster);
  std::vector<double> out;
  for (std::size_t i = 0; i < cluster.size(); ++i) {
    double sum = 0;
    for (std::size_t c = 0; c < static_cast<std::size_t>(d); ++c) {
      const double x = keys[i * static_cast<std::size_t>(d) + c] - mean.at(cluster[i])[c];
      sum += x * x;
    }
    out.push_back(std::sqrt(sum));
  }
  return out;
}

std::vector<double> relative_distance(std::span<const double> keys, std::int64_t d,
                                      std::span<const std::int64_t> cluster) {
  std::vector<double> out = distance_to_own_mean(keys, d, cluster);
  std::map<std::int64_t, double> sum;
  for (std::size_t i = 0; i < out.size(); ++i) sum[cluster[i]] += out[i];
  for (std::size_t i = 0; i < out.size(); ++i) {
    out[i] = sum[cluster[i]] > 0 ? out[i] / sum[cluster[i]] : 0;
  }
  return out;
}

std::vector<double> centred(std::span<const double> keys, std::int64_t d, std::int64_t fit) {
  const auto width = static_cast<std::size_t>(d), used = static_cast<std::size_t>(fit);
  std::vector<double> out(keys.begin(), keys.end());
  for (std::size_t c = 0; c < width; ++c) {
    double mean = 0;
    for (std::size_t i = 0; i < used; ++i) mean += keys[i * width + c] / static_cast<double>(fit);
    for (std::size_t i = c; i < out.size(); i += width) out[i] -= mean;
  }
  return out;
}

double kmeans_objective(std::span<const double> points, std::int64_t d,
                        std::span<const std::int64_t> cluster) {
  double sum = 0;
  for (const double x : distance_to_own_mean(points, d, cluster)) sum += x * x;
  return sum;
}

double adjusted_rand(std::span<const std::int64_t> a, std::span<const std::int64_t> b) {
  std::map<std::pair<std::int64_t, std::int64_t>, double> both;
  std::map<std::int64_t, double> in_a, in_b;
  for (std::size_t i = 0; i < a.size(); ++i) {
    both[{a[i], b[i]}] += 1, in_a[a[i]] += 1, in_b[b[i]] += 1;
  }
  const auto pairs = [](double n) { return n * (n - 1) / 2; };
  double together = 0, pairs_a = 0, pairs_b = 0;
  for (const auto& [name, n] : both) together += pairs(n);
  for (const auto& [name, n] : in_a) pairs_a += pairs(n);
  for (const auto& [name, n] : in_b) pairs_b += pairs(n);
  const double expected = pairs_a * pairs_b / pairs(static_cast<double>(a.size()));
  const double most = (pairs_a + pairs_b) / 2;
  return most == expected ? 1.0 : (together - expected) / (most - expected);
}

std::set<std::int64_t> window_keys(std::int64_t end, std::int64_t sinks, std::int64_t budget) {
  std::set<std::int64_t> keys;
  for (std::int64_t j = 0; j < std::min({end, sinks, budget}); ++j) keys.insert(j);
  for (std::int64_t j = end - 1; j >= 0; --j) {
    if (static_cast<std::int64_t>(keys.size()) >= budget) break;
    keys.insert(j);
  }
  return keys;
}

std::set<std::int64_t> top_keys(std::span<const float> scores, std::int64_t begin, std::int64_t end,
                                std::int64_t count) {
  std::vector<std::int64_t> order;
  for (std::int64_t j = begin; j < end; ++j) order.push_back(j);
  std::ranges::stable_sort(order, [&](std::int64_t x, std::int64_t y) {
    return scores[static_cast<std::size_t>(x)] > scores[static_cast<std::size_t>(y)];
  });
  order.resize(std::min(order.size(), static_cast<std::size_t>(std::max(count, std::int64_t{0}))));
  return {order.begin(), order.end()};
}

NodeShares node_shares(std::span<const double* const> queries, const KeyIndex& index,
                       std::int64_t b, std::int64_t h_kv, std::span<const std::int64_t> nodes,
                       std::span<const Entry> read, double scale) {
  const Array means = load(index.node_keys());
  const std::int64_t d = means.shape[3];
  NodeShares shares{std::vector<double>(nodes.size()), std::vector<double>(nodes.size())};
  for (const double* q : queries) {
    std::vector<double> weight;
    double far = 0;
    for (const std::int64_t node : nodes) {
      weight.push_back(std::exp(scale * dot(q, means.row(b, h_kv, node), d)));
      far += weight.back() * index.count(b, h_kv, node);
    }
    double total = far;
    for (const Entry& e : read) total += std::exp(scale * dot(q, e.key, d) + e.log_weight);
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      shares.most[i] = std::max(shares.most[i], weight[i] / far);
      shares.mean[i] +=
          weight[i] * index.count(b, h_kv, nodes[i]) / total / static_cast<double>(queries.size());
    }
  }
  return shares;
}

std::set<std::int64_t> routed_nodes(std::span<const double> shares, const KeyIndex& index,
                                    std::int64_t b, std::int64_t h_kv,
                                    std::span<const std::int64_t> nodes, std::int64_t far_keys) {
  std::vector<std::size_t> order(nodes.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::ranges::stable_sort(order,
                           [&](std::size_t x, std::size_t y) { return shares[x] > shares[y]; });
  std::set<std::int64_t> chosen;
  std::int64_t keys = 0;
  for (const std::size_t i : order) {
    keys += index.count(b, h_kv, nodes[i]);
    if (keys > far_keys) break;
    chosen.insert(nodes[i]);
  }
  return chosen;
}

}  // namespace prescore::reference
