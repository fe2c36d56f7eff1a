#include "score/clusters.h"

#include <cmath>
#include <limits>

#include "common/random.h"

namespace prescore {

std::int64_t cluster_count(const HeadKeys& keys, const ScoreOptions& o) {
  return std::min(o.clusters > 0 ? o.clusters : keys.d() + 1, keys.n());
}

namespace {

// The keys that may become seeds, and the least weight of each over the seeds so far.
class Sample {
 public:
  Sample(const HeadKeys& keys, std::int64_t stride, const SeedWeights& weights)
      : weights_(weights), n_((keys.n() - 1) / stride + 1), rows_(n_, keys.d()),
        row_(static_cast<std::size_t>(n_)), least_(static_cast<std::size_t>(n_)),
        mass_(static_cast<std::size_t>((n_ - 1) / kPart + 1)) {
    for (std::int64_t i = 0; i < n_; ++i) {
      rows_.row(i) = keys.rows().row(i * stride);
      row_[static_cast<std::size_t>(i)] = rows_.row(i).data();
      least_[static_cast<std::size_t>(i)] =
          keys.finite(i * stride) ? std::numeric_limits<float>::max() : 0;
    }
  }

  /// Takes these seeds into account, keys passing once.
  void add(const std::vector<std::int64_t>& seeds, Executor& executor) {
    executor.run(static_cast<std::int64_t>(mass_.size()), [&](std::int64_t p, int) {
      const std::int64_t begin = p * kPart, here = std::min(n_ - begin, kPart);
      double sum = 0;
      for (std::int64_t i = begin; i < begin + here; i += kStep) {
        const auto n = static_cast<int>(std::min(kStep, begin + here - i));
        float weight[kStep];
        float* least = &least_[static_cast<std::size_t>(i)];
        for (const std::int64_t seed : seeds) {
          weights_(rows_.row(seed).data(), &row_[static_cast<std::size_t>(i)], n, weight);
          for (int j = 0; j < n; ++j) least[j] = std::min(least[j], weight[j]);
        }
        for (int j = 0; j < n; ++j) sum += double{least[j]};
      }
      mass_[static_cast<std::size_t>(p)] = sum;
    });
  }

  float least(std::int64_t i) const { return least_[static_cast<std::size_t>(i)]; }
  /// The same with these seeds too.
  float least(std::int64_t i, const std::vector<std::int64_t>& seeds) const {
    float least = this->least(i);
    for (const std::int64_t seed : seeds) {
      float weight = 0;
      weights_(rows_.row(seed).data(), &row_[static_cast<std::size_t>(i)], 1, &weight);
      least = std::min(least, weight);
    }
    return least;
  }
  std::int64_t size() const { return n_; }

  /// The key at u of [0, 1) in proportion to the weights; any where they say nothing.
  std::int64_t draw(double u) const {
    double total = 0;
    for (const double m : mass_) total += m;
    if (!(total > 0) || !std::isfinite(total))
      return std::min(n_ - 1, static_cast<std::int64_t>(u * static_cast<double>(n_)));
    double left = u * total;
    std::size_t part = 0;
    while (part + 1 < mass_.size() && left >= mass_[part]) left -= mass_[part++];
    const auto begin = static_cast<std::int64_t>(part) * kPart;
    std::int64_t last = 0;
    for (std::int64_t i = begin; i < std::min(n_, begin + kPart); ++i) {
      const double w = double{least(i)};
      if (w > 0) last = i;
      if (w > 0 && left < w) return i;
      left -= w;
    }
    return last;  // rounding ate the last share
  }

 private:
  static constexpr std::int64_t kPart = 1024, kStep = 64;  // of a task; that stay in a cache
  const SeedWeights& weights_;
  std::int64_t n_;
  RowsF rows_;
  std::vector<const void*> row_;
  std::vector<float> least_;
  std::vector<double> mass_;
};

}  // namespace

std::vector<std::int64_t> seed_rows(const HeadKeys& keys, std::int64_t centres, std::uint64_t seed,
                                    Executor& executor, const SeedWeights& weights) {
  constexpr std::int64_t kPerCentre = 256;
  const std::int64_t stride = std::max<std::int64_t>(1, keys.n() / (kPerCentre * centres));
  Sample sample(keys, stride, weights);
  // Many keys pass once for several seeds. The weights by which a seed is drawn are then those
  // before its latest companions; it is kept with the share that they leave of its weight, which
  // makes the probabilities those of the definition.
  const std::size_t together = sample.size() <= 4096 ? 1 : 8;
  constexpr int kAttempts = 32;
  std::vector<std::int64_t> rows, waiting;
  for (std::int64_t c = 0; c < centres; ++c) {
    auto uniform = [stream = seed + static_cast<std::uint64_t>(c)]() mutable {
      const double u = unit(mix(stream));
      stream = mix(stream + 1);
      return u;
    };
    std::int64_t at = sample.draw(uniform());
    for (int i = 0; !waiting.empty(); ++i) {
      const double before = sample.least(at), left = sample.least(at, waiting);
      if (uniform() * before < left) break;
      if (i == kAttempts) sample.add(waiting, executor), waiting.clear();
      at = sample.draw(uniform());
    }
    rows.push_back(at * stride), waiting.push_back(at);
    if (c == 0 || waiting.size() == together) sample.add(waiting, executor), waiting.clear();
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
