// The k-means family against the oracle.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>

#include "support/scores.h"

namespace prescore::test {
namespace {

// d + 1 blobs far apart: D^2 seeding meets each once, so every distance is that to the own blob.
TEST(ScoreClusters, KMeansFindsSeparatedBlobs) {
  for (const DType type : {DType::kF32, DType::kF16}) {
    for (std::uint64_t seed = 0; seed < 5; ++seed) {
      constexpr std::int64_t kD = 8, kBlobs = kD + 1, kN = 3000;
      Storage k(type, {1, 1, kN, kD});
      std::mt19937_64 random(seed);
      k.fill_normal(random, 0.05);
      std::vector<std::int64_t> blob;
      for (std::int64_t i = 0; i < kN; ++i) {
        blob.push_back(std::uniform_int_distribution<std::int64_t>(0, kBlobs - 1)(random));
        const std::int64_t c = blob.back() % kD;
        k.set(0, 0, i, c, k.get(0, 0, i, c) + (blob.back() == kD ? -50 : 50));
      }
      const auto want = reference::distance_to_own_mean(head(k, 0, 0, kN), kD, blob);
      const auto got = score(k, kN, {.score = Score::kKMeans, .seed = seed});
      for (std::size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-3);
      ScoreOptions o{.score = Score::kKMeans, .seed = seed};
      o.cluster_score = ClusterScore::kRelative;
      const auto relative = score(k, kN, o);
      const auto want_relative = reference::relative_distance(head(k, 0, 0, kN), kD, blob);
      o.cluster_score = ClusterScore::kNearness;
      const auto nearness = score(k, kN, o);
      for (std::size_t i = 0; i < want.size(); ++i) {
        ASSERT_NEAR(relative[i], want_relative[i], 1e-4);
        ASSERT_EQ(nearness[i], -got[i]);
      }
    }
  }
}

TEST(ScoreClusters, RelativeDistanceOfEqualKeysIsZero) {
  Storage k(DType::kF32, {1, 1, 40, 6});
  for (std::int64_t i = 0; i < 40; ++i) k.fill_row(0, 0, i, 1);
  ScoreOptions o{.score = Score::kKMeans};
  o.cluster_score = ClusterScore::kRelative;
  for (const float s : score(k, 40, o)) EXPECT_EQ(s, 0.0f);
}

// Separated blobs: the medians are those of the blobs.
TEST(ScoreClusters, KMedianFindsSeparatedBlobs) {
  constexpr std::int64_t kD = 5, kBlobs = kD + 1, kN = 900;
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    Storage k(DType::kF32, {1, 1, kN, kD});
    std::mt19937_64 random(seed);
    k.fill_normal(random, 0.05);
    std::vector<std::int64_t> blob;
    for (std::int64_t i = 0; i < kN; ++i) {
      blob.push_back(std::uniform_int_distribution<std::int64_t>(0, kBlobs - 1)(random));
      const std::int64_t c = blob.back() % kD;
      k.set(0, 0, i, c, k.get(0, 0, i, c) + (blob.back() == kD ? -50 : 50));
    }
    const auto want = reference::distance_to_own_median(head(k, 0, 0, kN), kD, blob);
    const auto got = score(k, kN, {.score = Score::kKMedian, .seed = seed});
    for (std::size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-3);
  }
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

}  // namespace
}  // namespace prescore::test
