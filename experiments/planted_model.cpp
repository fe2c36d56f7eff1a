#include "planted_model.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>

#include "common/random.h"
#include "experiment.h"
#include "score/clusters.h"

namespace prescore::experiments {
namespace {

// Scores of all keys, best first.
std::vector<std::int64_t> ranked(const Planted& p, const ScoreOptions& options,
                                 Executor& executor) {
  Visibility all;
  all.causal = false;
  all.n_q = Planted::kQueries, all.n_kv = p.tensor(p.k).shape[2];
  KeyScores scores(options);
  scores.extend(
      {p.tensor(p.q), p.tensor(p.k), p.tensor(p.v), all, 1 / std::sqrt(static_cast<float>(p.d))},
      executor);
  const float* score = scores.levels().back().scores;
  std::vector<std::int64_t> order(static_cast<std::size_t>(all.n_kv));
  std::iota(order.begin(), order.end(), std::int64_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::int64_t a, std::int64_t b) { return score[a] > score[b]; });
  return order;
}

}  // namespace

nlohmann::json PlantedModel::to_json() const {
  return {{"n", n},
          {"d", d},
          {"directions", directions},
          {"copies", copies},
          {"strength", strength},
          {"noise", noise},
          {"mean", mean}};
}

Planted::Planted(const PlantedModel& m, std::uint64_t seed) : d(m.d) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  const double per_axis = 1 / std::sqrt(static_cast<double>(d));
  const auto fill = [&](std::vector<float>& rows, std::int64_t n, double deviation) {
    rows.resize(static_cast<std::size_t>(n * d));
    for (float& x : rows) x = static_cast<float>(deviation * normal(random));
  };
  fill(k, m.n, m.noise * per_axis);
  fill(v, m.n, 1);
  std::vector<std::int64_t> places(static_cast<std::size_t>(m.n));
  std::iota(places.begin(), places.end(), std::int64_t{0});
  std::shuffle(places.begin(), places.end(), random);
  for (std::int64_t i = 0; i < m.directions * m.copies; ++i) {
    const std::int64_t at = places[static_cast<std::size_t>(i)];
    heavy.insert(at);
    float* row = k.data() + at * d;
    for (std::int64_t c = 0; c < d; ++c)
      row[c] = static_cast<float>(0.05 * m.strength * per_axis * normal(random));
    row[i % m.directions] += static_cast<float>(m.strength);
  }
  for (std::int64_t i = 0; i < m.n; ++i)
    k[static_cast<std::size_t>(i * d + d - 1)] += static_cast<float>(m.mean);
  fill(q, kQueries, 0.3);
  std::uniform_int_distribution<std::int64_t> direction(0, m.directions - 1);
  for (std::int64_t i = 0; i < kQueries; ++i)
    q[static_cast<std::size_t>(i * d + direction(random))] += 8;
}

Tensor Planted::tensor(const std::vector<float>& rows) const {
  return Tensor::contiguous(rows.data(), DType::kF32, 1, 1,
                            static_cast<std::int64_t>(rows.size()) / d, d);
}

double recovery(const Planted& p, const ScoreOptions& options, Executor& executor) {
  const std::vector<std::int64_t> order = ranked(p, options, executor);
  const auto most = static_cast<std::ptrdiff_t>(p.heavy.size());
  const auto found = std::count_if(order.begin(), order.begin() + most,
                                   [&](std::int64_t key) { return p.heavy.contains(key); });
  return static_cast<double>(found) / static_cast<double>(p.heavy.size());
}

double isolated(const Planted& p, const ScoreOptions& options, Executor& executor) {
  const Tensor k = p.tensor(p.k);
  const HeadKeys keys(k, 0, 0, 0, k.shape[2], executor);
  // As the scorer clusters them.
  const KMeans kmeans(keys, cluster_count(keys, options), options, mix(options.seed), executor);
  std::vector<std::int32_t> centre(static_cast<std::size_t>(keys.n()));
  std::vector<float> distance(centre.size());
  kmeans.nearest(keys, centre.data(), distance.data(), executor);
  std::set<std::int32_t> noisy;
  for (std::int64_t i = 0; i < keys.n(); ++i)
    if (!p.heavy.contains(i)) noisy.insert(centre[static_cast<std::size_t>(i)]);
  const auto alone = std::count_if(p.heavy.begin(), p.heavy.end(), [&](std::int64_t key) {
    return !noisy.contains(centre[static_cast<std::size_t>(key)]);
  });
  return static_cast<double>(alone) / static_cast<double>(p.heavy.size());
}

AttentionError attention_error(const Planted& p, Options options, Executor& executor) {
  options.causal = false;
  const auto attend = [&](const Options& o, std::vector<float>& out) {
    out.resize(p.q.size());
    const State state{MutTensor::contiguous(out.data(), DType::kF32, 1, 1, Planted::kQueries, p.d),
                      nullptr};
    return attention(p.tensor(p.q), p.tensor(p.k), p.tensor(p.v), state, o, executor).counters;
  };
  Options dense = options;
  dense.plan.method = Method::kDense;
  std::vector<float> want, got;
  attend(dense, want);
  AttentionError result;
  const Counters read = attend(options, got);
  result.keys = keys_per_query(read), result.standins = standins_per_query(read);
  double difference = 0, whole = 0;
  for (std::size_t i = 0; i < want.size(); ++i) {
    difference += std::pow(double{got[i]} - double{want[i]}, 2);
    whole += double{want[i]} * double{want[i]};
  }
  result.error = std::sqrt(difference / whole);
  return result;
}

}  // namespace prescore::experiments
