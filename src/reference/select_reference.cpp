// Oracle of the stages index and plan.
#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>

#include "reference/reference.h"

namespace prescore::reference {

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
    double total = 0;
    for (const std::int64_t node : nodes) {
      weight.push_back(std::exp(scale * dot(q, means.row(b, h_kv, node), d)));
      total += weight.back() * index.count(b, h_kv, node);
    }
    for (const Entry& e : read) total += std::exp(scale * dot(q, e.key, d) + e.log_weight);
    for (std::size_t i = 0; i < nodes.size(); ++i) {
      const double share = weight[i] / total / static_cast<double>(queries.size());
      shares.key[i] += share;
      shares.node[i] += share * index.count(b, h_kv, nodes[i]);
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
