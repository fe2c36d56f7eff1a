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

void check_score_options(const ScoreOptions& o) {
  check(o.clusters >= 0 && o.clusters <= 65536, "score", "clusters", o.clusters, "0 to 65536");
  check(o.iterations >= 0 && o.iterations <= 10000, "score", "iterations", o.iterations,
        "0 to 10000");
  if (!(o.ridge >= 0) || !std::isfinite(o.ridge))
    fail("score", "ridge", std::to_string(o.ridge), "a finite number, at least 0");
  check(o.cluster_score <= ClusterScore::kNearness, "score", "cluster score",
        static_cast<int>(o.cluster_score), "a known cluster score");
  check(o.score <= Score::kOracle, "score", "score", static_cast<int>(o.score), "a known score");
  check(o.segment >= 1 && o.segment <= (std::int64_t{1} << 30), "score", "segment", o.segment,
        "1 to 2^30 keys");
  check(o.query_stride >= 1, "score", "query stride", o.query_stride, "at least 1");
  if (!(o.growth == 0 || (o.growth >= 1 && o.growth <= 1e6)))
    fail("score", "growth", std::to_string(o.growth), "0 or a factor from 1 to 10^6");
}

void score_range(const Tensor& k, std::int64_t b, std::int64_t h, std::int64_t fit,
                 std::int64_t begin, std::int64_t end, const ScoreOptions& options, float* out,
                 Executor& executor) {
  const auto stream = static_cast<std::uint64_t>(b * k.shape[1] + h);
  if (options.score == Score::kRandom) {
    const std::uint64_t start = mix(mix(options.seed) + stream);
    for (std::int64_t i = begin; i < end; ++i) {
      const std::uint64_t bits = mix(start + static_cast<std::uint64_t>(i));
      out[i] = static_cast<float>(bits >> 40) * 0x1p-24f;
    }
    return;
  }
  HeadKeys keys(k, b, h, end, fit, executor);
  std::vector<float> scores(static_cast<std::size_t>(end));
  const bool centres = options.score == Score::kKeyNorm || options.score == Score::kLeverage;
  if (options.centred && centres) keys.centre(executor);
  switch (options.score) {
    case Score::kKeyNorm: score_norm(keys, scores.data(), executor); break;
    case Score::kLeverage: score_leverage(keys, options, scores.data(), executor); break;
    case Score::kKMeans: score_kmeans(keys, options, stream, scores.data(), executor); break;
    case Score::kKeyDiff: score_difference(keys, scores.data(), executor); break;
    default: fail("score", "score", "one of queries or values", "a score of keys alone");
  }
  // A key that is not finite is read first, so that it shows in the output as it would in dense
  // attention. It took no part in the scores of the others.
  for (std::int64_t i = begin; i < end; ++i) {
    const float x = scores[static_cast<std::size_t>(i)];
    out[i] = !keys.finite(i) || std::isnan(x) ? std::numeric_limits<float>::infinity() : x;
  }
}

void score_keys(const Tensor& k, std::int64_t n, const ScoreOptions& options, float* out,
                Executor& executor) {
  check_tensor(k, "score", "k");
  check(n >= 1 && n <= k.shape[2], "score", "keys to score", n, "1 to n_kv");
  check(options.fit >= 0 && options.fit <= n, "score", "keys to fit", options.fit,
        "0 to the number of keys scored");
  check(out != nullptr, "score", "output pointer", 0, "not null");
  check_score_options(options);
  for (std::int64_t head = 0; head < k.shape[0] * k.shape[1]; ++head)
    score_range(k, head / k.shape[1], head % k.shape[1], options.fit > 0 ? options.fit : n, 0, n,
                options, out + head * n, executor);
}

}  // namespace prescore
