// Checks, the simple scores and the choice among them.
#include <cmath>
#include <limits>
#include <memory>

#include "common/check.h"
#include "common/views.h"
#include "score/head_keys.h"

namespace prescore {

HeadKeys::HeadKeys(const Tensor& k, std::int64_t b, std::int64_t h, std::int64_t n,
                   std::int64_t fit, Executor& executor)
    : rows_(round_up(n, kBlock), k.shape[3]), finite_(static_cast<std::size_t>(n)), fit_(fit) {
  rows_.bottomRows(rows_.rows() - n).setZero();
  executor.run(chunks(), [&](std::int64_t c, int) {
    for (std::int64_t i = begin(c); i < end(c); ++i) {
      const std::byte* from = row(k, b, h, i);
      for (std::int64_t j = 0; j < d(); ++j) rows_(i, j) = load_element(from, k.dtype, j);
      const bool finite = rows_.row(i).allFinite();
      if (!finite) rows_.row(i).setZero();
      finite_[static_cast<std::size_t>(i)] = finite;
    }
  });
}

void HeadKeys::centre(Executor& executor) {
  // The sum of the keys, with their number at the end.
  Eigen::RowVectorXd total = sum(Eigen::RowVectorXd(Eigen::RowVectorXd::Zero(d() + 1)), executor,
                                 [&](std::int64_t begin, std::int64_t end, auto& part) {
                                   for (std::int64_t i = begin; i < end; ++i) {
                                     if (!finite(i)) continue;
                                     part.head(d()) += rows_.row(i).template cast<double>();
                                     part[d()] += 1;
                                   }
                                 });
  if (total[d()] == 0) return;
  total /= total[d()];
  executor.run(chunks(), [&](std::int64_t c, int) {
    for (std::int64_t i = begin(c); i < end(c); ++i) {
      if (!finite(i)) continue;
      rows_.row(i) = (rows_.row(i).cast<double>() - total.head(d())).cast<float>();
    }
  });
}

namespace {

void score_norm(const HeadKeys& keys, float* out, Executor& executor) {
  executor.run(keys.chunks(), [&](std::int64_t c, int) {
    for (std::int64_t i = keys.begin(c); i < keys.end(c); ++i) {
      out[i] = static_cast<float>(keys.rows().row(i).cast<double>().norm());
    }
  });
}

// Negative cosine between a key and the mean direction (KeyDiff, arXiv 2504.15364).
void score_difference(const HeadKeys& keys, float* out, Executor& executor) {
  const auto direction = [&](std::int64_t i) {
    const Eigen::RowVectorXd x = keys.rows().row(i).cast<double>();
    const double norm = x.norm();
    return (norm > 0 ? Eigen::RowVectorXd(x / norm) : x).eval();
  };
  Eigen::RowVectorXd mean =
      keys.sum(Eigen::RowVectorXd(Eigen::RowVectorXd::Zero(keys.d())), executor,
               [&](std::int64_t begin, std::int64_t end, Eigen::RowVectorXd& part) {
                 for (std::int64_t i = begin; i < end; ++i) part += direction(i);
               });
  const double length = mean.norm();
  if (length > 0) mean /= length;
  executor.run(keys.chunks(), [&](std::int64_t c, int) {
    for (std::int64_t i = keys.begin(c); i < keys.end(c); ++i) {
      out[i] = static_cast<float>(-direction(i).dot(mean));
    }
  });
}

}  // namespace

void score_keys(const Tensor& k, std::int64_t n, const ScoreOptions& options, float* out,
                Executor& executor) {
  check_tensor(k, "score", "k");
  check(n >= 1 && n <= k.shape[2], "score", "keys to score", n, "1 to n_kv");
  check(options.fit >= 0 && options.fit <= n, "score", "keys to fit", options.fit,
        "0 to the number of keys scored");
  check(out != nullptr, "score", "output pointer", 0, "not null");
  check(options.clusters >= 0 && options.clusters <= 65536, "score", "clusters", options.clusters,
        "0 to 65536");
  check(options.iterations >= 0 && options.iterations <= 10000, "score", "iterations",
        options.iterations, "0 to 10000");
  if (!(options.ridge >= 0) || !std::isfinite(options.ridge)) {
    fail("score", "ridge", std::to_string(options.ridge), "a finite number, at least 0");
  }
  check(options.cluster_score <= ClusterScore::kNearness, "score", "cluster score",
        static_cast<int>(options.cluster_score), "a known cluster score");
  check(options.score <= Score::kRandom, "score", "score", static_cast<int>(options.score),
        "a known score");

  const std::int64_t fit = options.fit > 0 ? options.fit : n;
  for (std::int64_t head = 0; head < k.shape[0] * k.shape[1]; ++head) {
    float* scores = out + head * n;
    const auto stream = static_cast<std::uint64_t>(head);
    if (options.score == Score::kRandom) {
      const std::uint64_t start = mix(mix(options.seed) + stream);
      for (std::int64_t i = 0; i < n; ++i) {
        const std::uint64_t bits = mix(start + static_cast<std::uint64_t>(i));
        scores[i] = static_cast<float>(bits >> 40) * 0x1p-24f;
      }
      continue;
    }
    HeadKeys keys(k, head / k.shape[1], head % k.shape[1], n, fit, executor);
    const bool centres = options.score == Score::kKeyNorm || options.score == Score::kLeverage;
    if (options.centred && centres) keys.centre(executor);
    switch (options.score) {
      case Score::kKeyNorm: score_norm(keys, scores, executor); break;
      case Score::kLeverage: score_leverage(keys, options, scores, executor); break;
      case Score::kKMeans: score_kmeans(keys, options, stream, scores, executor); break;
      case Score::kKeyDiff: score_difference(keys, scores, executor); break;
      case Score::kRandom: break;
    }
    // A key that is not finite is read first, so that it shows in the output as it would in dense
    // attention. It took no part in the scores of the others.
    for (std::int64_t i = 0; i < n; ++i) {
      if (!keys.finite(i) || std::isnan(scores[i])) {
        scores[i] = std::numeric_limits<float>::infinity();
      }
    }
  }
}

}  // namespace prescore
