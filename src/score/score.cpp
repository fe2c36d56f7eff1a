// Checks, and the choice among the scorers.
#include <cmath>
#include <limits>

#include "common/check.h"
#include "common/cuda.h"
#include "score/random_score.h"
#include "score/scorer.h"
#include "tile/tile.h"

namespace prescore {

void check_score_options(const ScoreOptions& o) {
  const auto number = [](const char* what, double x, bool good, const char* want) {
    if (!good) fail("score", what, std::to_string(x), want);
  };
  check(o.score <= Score::kOracle, "score", "score", static_cast<int>(o.score), "a known score");
  check(o.clusters >= 0 && o.clusters <= 65536, "score", "clusters", o.clusters, "0 to 65536");
  check(o.iterations >= 0 && o.iterations <= 10000, "score", "iterations", o.iterations,
        "0 to 10000");
  check(o.cluster_score <= ClusterScore::kNearness, "score", "cluster score",
        static_cast<int>(o.cluster_score), "a known cluster score");
  check(o.kernel <= KernelKMeans::kDistance, "score", "kernel k-means", static_cast<int>(o.kernel),
        "a known variant");
  check(o.features >= 0 && o.features <= tile::kMaxDim, "score", "features", o.features,
        "0 to 512");
  check(o.leverage <= Leverage::kSketched, "score", "leverage", static_cast<int>(o.leverage),
        "a known kind");
  check(o.sketch_rows >= 0 && o.sketch_rows <= (std::int64_t{1} << 30), "score", "sketch rows",
        o.sketch_rows, "0 to 2^30");
  check(o.degree >= 2 && o.degree <= 64 && o.degree % 2 == 0, "score", "degree", o.degree,
        "an even number from 2 to 64");
  check_rotation(o.rotation, tile::kMaxDim);
  number("base of the rotation", o.rotation.base,
         o.rotation.base > 0 && std::isfinite(o.rotation.base), "a finite number above 0");
  number("scale of positions", o.rotation.position_scale, std::isfinite(o.rotation.position_scale),
         "a finite number");
  number("ridge", o.ridge, o.ridge >= 0 && std::isfinite(o.ridge), "a finite number, at least 0");
  number("sigma", o.sigma, o.sigma >= 0 && std::isfinite(o.sigma), "a finite number, at least 0");
  check(o.segment >= 1 && o.segment <= (std::int64_t{1} << 30), "score", "segment", o.segment,
        "1 to 2^30 keys");
  check(o.query_stride >= 1, "score", "query stride", o.query_stride, "at least 1");
  check(o.distance >= 0 && o.distance <= (std::int64_t{1} << 30), "score", "distance", o.distance,
        "0 to 2^30 positions");
  number("growth", o.growth, o.growth == 0 || (o.growth >= 1 && o.growth <= 1e6),
         "0 or a factor from 1 to 10^6");
}

void check_rotation(const Rotation& r, std::int64_t d) {
  check(r.dims >= 0 && r.dims <= d && r.dims % 2 == 0, "score", "rotated elements", r.dims,
        "an even number up to the head size, " + std::to_string(d));
}

Rotation rotation_of(const ScoreOptions& o) {
  const bool keys = o.score != Score::kValueNorm && o.score != Score::kExpected;
  return keys ? o.rotation : Rotation{};
}

Fitted fit_score(const HeadKeys& keys, const ScoreOptions& o, std::uint64_t stream,
                 Executor& executor) {
  switch (o.score) {
    case Score::kKeyNorm:
    case Score::kValueNorm: return fit_norm(keys, o, executor);
    case Score::kLeverage: return fit_leverage(keys, o, stream, executor);
    case Score::kKMeans: return fit_kmeans(keys, o, stream, executor);
    case Score::kKMedian: return fit_kmedian(keys, o, stream, executor);
    case Score::kKernelKMeans: return fit_kernel_kmeans(keys, o, stream, executor);
    case Score::kKeyDiff: return fit_difference(keys, o, executor);
    case Score::kGaussianNorm: return fit_gaussian_norm(keys, o, executor);
    case Score::kUniversal: return fit_universal(keys, o, executor);
    case Score::kRandom:
    case Score::kExpected:
    case Score::kReceived:
    case Score::kOracle: break;
  }
  fail("score", "score of keys alone", "one that needs queries", "another score or KeyScores");
}

void apply_score(const FittedScore* fitted, const Tensor& k, std::int64_t b, std::int64_t h,
                 std::int64_t begin, std::int64_t end, const ScoreOptions& o, float* out,
                 Executor& executor) {
  if (begin >= end) return;
  if (fitted == nullptr) {  // random, by the number of the key
    for (std::int64_t i = begin; i < end; ++i) out[i] = random_score(o.seed, b * k.shape[1] + h, i);
    return;
  }
  const HeadKeys keys(k, b, h, begin, end, executor, rotation_of(o));
  fitted->apply(keys, out + begin, executor);
  for (std::int64_t i = begin; i < end; ++i)
    if (!keys.finite(i - begin) || std::isnan(out[i]))
      out[i] = std::numeric_limits<float>::infinity();
}

namespace {

void check_keys(const Tensor& k, std::int64_t n, const ScoreOptions& o, const float* out) {
  check_tensor(k, "score", "k");
  check(n >= 1 && n <= k.shape[2], "score", "keys to score", n, "1 to n_kv");
  check(o.fit >= 0 && o.fit <= n, "score", "keys to fit", o.fit, "0 to the number of keys scored");
  check(out != nullptr, "score", "output pointer", 0, "not null");
  check_score_options(o);
  check_rotation(o.rotation, k.shape[3]);
}

}  // namespace

void score_keys_cuda(const Tensor& k, std::int64_t n, const ScoreOptions& o, float* out,
                     void* stream) {
  check_keys(k, n, o, out);
  cuda::score_keys(k, n, o, out, stream);
}

void score_keys(const Tensor& k, std::int64_t n, const ScoreOptions& o, float* out,
                Executor& executor) {
  check_keys(k, n, o, out);
  for (std::int64_t head = 0; head < k.shape[0] * k.shape[1]; ++head) {
    const std::int64_t b = head / k.shape[1], h = head % k.shape[1];
    Fitted fitted;
    if (o.score != Score::kRandom)
      fitted = fit_score(HeadKeys(k, b, h, 0, o.fit > 0 ? o.fit : n, executor, rotation_of(o)), o,
                         static_cast<std::uint64_t>(head), executor);
    apply_score(fitted.get(), k, b, h, 0, n, o, out + head * n, executor);
  }
}

}  // namespace prescore
