// The k-means family against the oracle.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "support/scores.h"

namespace prescore::test {
namespace {

/// d + 1 blobs far apart: seeding meets each once, so every distance is that to the own blob.
struct Blobs {
  Blobs(DType type, std::int64_t n, std::int64_t d, std::uint64_t seed) : k(type, {1, 1, n, d}) {
    std::mt19937_64 random(seed);
    k.fill_normal(random, 0.05);
    for (std::int64_t i = 0; i < n; ++i) {
      blob.push_back(std::uniform_int_distribution<std::int64_t>(0, d)(random));
      const std::int64_t c = blob.back() % d;
      k.set(0, 0, i, c, k.get(0, 0, i, c) + (blob.back() == d ? -50 : 50));
    }
    keys = head(k, 0, 0, n);
  }
  std::vector<float> scores(ScoreOptions o, ClusterScore kind) const {
    o.cluster_score = kind;
    return score(k, k.shape()[2], o);
  }
  /// All three variants of a score, from the distances to the own centre.
  void expect_scores(const ScoreOptions& o, const std::vector<double>& distance) const {
    const auto got = scores(o, ClusterScore::kDistance);
    const auto relative = scores(o, ClusterScore::kRelative);
    const auto nearness = scores(o, ClusterScore::kNearness);
    const auto want = reference::relative(distance, blob);
    for (std::size_t i = 0; i < want.size(); ++i) {
      ASSERT_NEAR(got[i], distance[i], 1e-3) << name(o);
      ASSERT_NEAR(relative[i], want[i], 1e-3 * want[i]) << name(o);
      ASSERT_EQ(nearness[i], -got[i]) << name(o);
    }
  }

  Storage k;
  std::vector<std::int64_t> blob;
  std::vector<double> keys;
};

TEST(ScoreClusters, KMeansFindsSeparatedBlobs) {
  for (const DType type : {DType::kF32, DType::kF16})
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      const Blobs x(type, 3000, 8, seed);
      x.expect_scores({.score = Score::kKMeans, .seed = seed},
                      reference::distance_to_own_mean(x.keys, 8, x.blob));
    }
}

TEST(ScoreClusters, KMedianFindsSeparatedBlobs) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    const Blobs x(DType::kF32, 900, 5, seed);
    x.expect_scores({.score = Score::kKMedian, .seed = seed},
                    reference::distance_to_own_median(x.keys, 5, x.blob));
  }
}

TEST(ScoreClusters, KernelKMeansFindsSeparatedBlobs) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    const Blobs x(DType::kF32, 900, 5, seed);
    std::vector<double> distance = reference::distance_to_own_mean(x.keys, 5, x.blob);
    const double mean = std::accumulate(distance.begin(), distance.end(), 0.0) / 900;
    ScoreOptions o{.score = Score::kKernelKMeans, .seed = seed, .kernel = KernelKMeans::kDistance};
    for (const double sigma : {0.0, 0.2}) {
      const double width = sigma > 0 ? sigma : 1.3 * mean;
      std::vector<double> want;
      for (const double y : distance)
        want.push_back(std::sqrt(-2 * std::expm1(-y * y / (2 * width * width))));
      o.sigma = sigma;
      x.expect_scores(o, want);
    }
    // Of features that are as random as they are, the other variants are those of the distance.
    o.kernel = KernelKMeans::kFeatures, o.sigma = 5;
    const auto got = x.scores(o, ClusterScore::kDistance);
    x.expect_scores(o, {got.begin(), got.end()});
  }
}

TEST(ScoreClusters, RelativeDistanceOfEqualKeysIsZero) {
  Storage k(DType::kF32, {1, 1, 40, 6});
  for (std::int64_t i = 0; i < 40; ++i) k.fill_row(0, 0, i, 1);
  ScoreOptions o{.score = Score::kKMeans};
  o.cluster_score = ClusterScore::kRelative;
  for (const float s : score(k, 40, o)) EXPECT_EQ(s, 0.0f);
}

TEST(ScoreClusters, KMedianObjectiveNeverRises) {
  Storage k(DType::kF32, {1, 1, 1500, 7});
  std::mt19937_64 random(4);
  k.fill_normal(random);
  double last = std::numeric_limits<double>::infinity();
  for (std::int64_t iterations = 0; iterations < 12; ++iterations) {
    const auto s = score(k, 1500, {.score = Score::kKMedian, .seed = 9, .iterations = iterations});
    const double sum = std::accumulate(s.begin(), s.end(), 0.0);
    EXPECT_LE(sum, last * (1 + 1e-6)) << iterations;
    last = sum;
  }
}

TEST(ScoreClusters, GaussianOfTheDistanceIsTheDistanceInItsSpace) {
  Storage k(DType::kF32, {1, 1, 400, 6});
  std::mt19937_64 random(1);
  k.fill_normal(random);
  ScoreOptions o{.score = Score::kKMeans, .seed = 4};
  const auto distance = score(k, 400, o);
  o.score = Score::kKernelKMeans, o.kernel = KernelKMeans::kDistance;
  const double mean = std::accumulate(distance.begin(), distance.end(), 0.0) / 400;
  for (const double sigma : {0.0, 1.5}) {
    o.sigma = sigma;
    const auto s = score(k, 400, o);
    const double width = sigma > 0 ? sigma : 1.3 * mean;
    for (std::size_t i = 0; i < 400; ++i) {
      const double x = double{distance[i]} / width;
      ASSERT_NEAR(s[i], std::sqrt(2 - 2 * std::exp(-x * x / 2)), 1e-4);
    }
  }
}

// In the exact kernel the squared distance to a cluster's mean is a sum over its kernel matrix.
TEST(ScoreClusters, FourierFeaturesAgreeWithTheKernel) {
  constexpr std::int64_t kN = 300, kD = 4;
  Storage k(DType::kF32, {1, 1, kN, kD});
  std::mt19937_64 random(2);
  k.fill_normal(random, 0.4);
  std::vector<std::int64_t> blob;
  for (std::int64_t i = 0; i < kN; ++i) {
    blob.push_back(i % 3);
    k.set(0, 0, i, i % 3, k.get(0, 0, i, i % 3) + 30);
  }
  ScoreOptions o{.score = Score::kKernelKMeans, .clusters = 3, .features = 512, .sigma = 1};
  const auto want = reference::kernel_distance(head(k, 0, 0, kN), kD, blob, 1.0);
  double error = 0;
  int good = 0;
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    o.seed = seed;
    const auto s = score(k, kN, o);
    error = 0;
    for (std::size_t i = 0; i < want.size(); ++i)
      error = std::max(error, std::abs(double{s[i]} * double{s[i]} - want[i] * want[i]));
    // Seeds may fall into one blob; features are within 4 standard errors of the kernel.
    good += error < 4 * std::sqrt(2.0 / 512) * 1.5;
  }
  EXPECT_GE(good, 3) << error;
}

TEST(ScoreClusters, KMeansObjectiveNeverRises) {
  Storage k(DType::kF32, {1, 1, 2500, 12});
  std::mt19937_64 random(4);
  k.fill_normal(random);
  double last = std::numeric_limits<double>::infinity();
  for (std::int64_t iterations = 0; iterations < 12; ++iterations) {
    const auto s = score(k, 2500, {.score = Score::kKMeans, .seed = 9, .iterations = iterations});
    double sum = 0;
    for (const float x : s) sum += double{x} * double{x};
    EXPECT_LE(sum, last * (1 + 1e-6)) << iterations;
    last = sum;
  }
}

TEST(ScoreClusters, MoreClustersThanKeys) {
  Storage k(DType::kF32, {1, 1, 20, 4});
  std::mt19937_64 random(1);
  k.fill_normal(random);
  for (ScoreOptions o : all_scores()) {
    o.clusters = 1000;
    const auto s = score(k, 20, o);
    const bool clusters = o.score == Score::kKMeans || o.score == Score::kKMedian;
    for (const float x : s) {
      if (clusters)
        EXPECT_NEAR(x, 0, 1e-3) << name(o) << ": every key is a centre";
      else
        EXPECT_FALSE(std::isnan(x)) << name(o);
    }
  }
}

// 400 keys at one place, 40 at distance 1 and one at 6.3, whose square is 40: where the first seed
// is among the 400, the far key is the second with probability 1 / 2, by plain distances about 1
// / 7.
TEST(Score, DistanceSeedsFindFarKeysLessOften) {
  Storage k(DType::kF32, {1, 1, 441, 1});
  for (std::int64_t i = 0; i < 441; ++i) k.set(0, 0, i, 0, i < 400 ? 0 : i < 440 ? 1 : 6.3f);
  ScoreOptions o;
  o.score = Score::kKMeans, o.clusters = 2, o.iterations = 0;
  const auto found = [&] {  // the far key is its own centroid
    int n = 0;
    for (o.seed = 0; o.seed < 300; ++o.seed) n += score(k, 441, o)[440] < 0.5f;
    return n;
  };
  const int squares = found();
  o.distance_seeds = true;
  const int distances = found();
  EXPECT_NEAR(squares, 140, 35);
  EXPECT_NEAR(distances, 40, 25);
  Options call;
  call.plan.flaws.distance_seeds = true;
  EXPECT_TRUE(score_options(call).distance_seeds);
}

}  // namespace
}  // namespace prescore::test
