// The k-means family on random keys, which have no clusters of their own: the same seeds must take
// the same way as the oracle.
#include <gtest/gtest.h>

#include <limits>
#include <numbers>
#include <numeric>
#include <set>

#include "common/random.h"
#include "score/clusters.h"
#include "support/scores.h"

namespace prescore::test {
namespace {

constexpr std::int64_t kN = 700, kD = 6;

Storage any_keys(std::uint64_t seed) {
  Storage k(DType::kF32, {1, 1, kN, kD});
  std::mt19937_64 random(seed);
  k.fill_normal(random);
  for (std::int64_t i = 0; i < kN; ++i) k.set(0, 0, i, 2, 3 + k.get(0, 0, i, 2));  // a mean
  return k;
}

/// The seeds that a scorer of d + 1 clusters draws by squared distances, or by absolute ones.
std::vector<std::int64_t> seeds_of(const Storage& k, std::uint64_t seed, bool absolute = false) {
  const auto serial = make_serial_executor();
  const HeadKeys keys(k.view(), 0, 0, 0, kN, *serial);
  return seed_rows(keys, kD + 1, seed, *serial,
                   [&](const float* row, const void* const* key, int n, float* out) {
                     for (int j = 0; j < n; ++j) {
                       const auto* x = static_cast<const float*>(key[j]);
                       double sum = 0;
                       for (std::int64_t c = 0; c < k.shape()[3]; ++c) {
                         const double e = double{x[c]} - double{row[c]};
                         sum += absolute ? std::abs(e) : e * e;
                       }
                       out[j] = static_cast<float>(sum);
                     }
                   });
}

TEST(ScoreLloyd, KMeansOfAnyKeysIsLloydFromItsSeeds) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    const Storage k = any_keys(seed);
    const auto seeds = seeds_of(k, mix(seed));
    const auto keys = head(k, 0, 0, kN);
    double last = std::numeric_limits<double>::infinity();
    for (const std::int64_t iterations : {0, 1, 10, 200}) {
      const auto want = reference::lloyd(keys, kD, seeds, iterations + 1);
      const auto got =
          score(k, kN, {.score = Score::kKMeans, .seed = seed, .iterations = iterations});
      double objective = 0;
      for (std::size_t i = 0; i < got.size(); ++i) {
        ASSERT_NEAR(got[i], want.distance[i], 1e-4) << iterations << " iterations, key " << i;
        objective += want.distance[i] * want.distance[i];
      }
      EXPECT_LE(objective, last);
      last = objective;
      if (iterations < 200) continue;
      const auto fixed = reference::distance_to_own_mean(keys, kD, want.cluster);
      for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], fixed[i], 1e-4);
    }
  }
}

TEST(ScoreLloyd, KMedianOfAnyKeysIsLloydFromItsSeeds) {
  for (std::uint64_t seed = 0; seed < 5; ++seed) {
    const Storage k = any_keys(seed);
    const auto seeds = seeds_of(k, mix(seed), true);
    const auto keys = head(k, 0, 0, kN);
    for (const std::int64_t iterations : {0, 1, 10, 200}) {
      const auto want = reference::lloyd_median(keys, kD, seeds, iterations + 1);
      const auto got =
          score(k, kN, {.score = Score::kKMedian, .seed = seed, .iterations = iterations});
      for (std::size_t i = 0; i < got.size(); ++i)
        ASSERT_NEAR(got[i], want.distance[i], 1e-4) << iterations << " iterations, key " << i;
      if (iterations < 200) continue;
      const auto fixed = reference::distance_to_own_median(keys, kD, want.cluster);
      for (std::size_t i = 0; i < got.size(); ++i) ASSERT_NEAR(got[i], fixed[i], 1e-4);
    }
  }
}

/// Fourier features [1, 1, n, count] as kernel k-means draws them, by the definition.
Storage features_of(const Storage& k, std::uint64_t stream, std::int64_t count, double sigma) {
  std::vector<double> w, b;
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count * kD); ++i)
    w.push_back(double{static_cast<float>(normal(stream, i) / sigma)});
  for (std::uint64_t i = 0; i < static_cast<std::uint64_t>(count); ++i)
    b.push_back(double{static_cast<float>(2 * std::numbers::pi * unit(mix(~stream + i)))});
  const auto x = reference::fourier_features(head(k, 0, 0, kN), kD, w, b);
  Storage out(DType::kF32, {1, 1, kN, count});
  for (std::int64_t i = 0; i < kN * count; ++i)
    out.set(0, 0, i / count, i % count, x[static_cast<std::size_t>(i)]);
  return out;
}

/// 1.3 times the mean distance of a key to its nearest centroid.
double width_of(const Storage& k, std::uint64_t seed, std::int64_t iterations) {
  const auto distance =
      reference::lloyd(head(k, 0, 0, kN), kD, seeds_of(k, mix(seed)), iterations + 1).distance;
  return 1.3 * std::accumulate(distance.begin(), distance.end(), 0.0) / kN;
}

TEST(ScoreLloyd, KernelKMeansOfAnyKeysIsLloydOverItsFeatures) {
  for (std::uint64_t seed = 0; seed < 3; ++seed) {
    const Storage k = any_keys(seed);
    const std::uint64_t stream = mix(mix(seed));
    for (const auto& [sigma, features] : {std::pair{2.0, 0}, {2.0, 40}, {0.0, 0}})
      for (const std::int64_t iterations : {0, 5}) {
        ScoreOptions o{.score = Score::kKernelKMeans, .seed = seed, .iterations = iterations};
        o.features = features, o.sigma = sigma;
        const std::int64_t count = features > 0 ? features : 2 * kD;
        const Storage x =
            features_of(k, stream, count, sigma > 0 ? sigma : width_of(k, seed, iterations));
        const auto want =
            reference::lloyd(head(x, 0, 0, kN), count, seeds_of(x, stream), iterations + 1);
        const auto got = score(k, kN, o);
        for (std::size_t i = 0; i < got.size(); ++i)
          ASSERT_NEAR(got[i], want.distance[i], 1e-4) << iterations << " iterations, key " << i;
      }
  }
}

// Many keys pass once for several seeds; seeds are still drawn in proportion to the weights: of
// three places with 1, 3 and 12000 keys, far apart, each gets a seed, and where all keys are alike
// there are as many seeds as asked for.
TEST(ScoreLloyd, SeedsOfManyKeysFindSmallClusters) {
  constexpr std::int64_t kMany = 12004;
  const auto serial = make_serial_executor();
  for (std::uint64_t seed = 0; seed < 20; ++seed) {
    Storage k(DType::kF32, {1, 1, kMany, 4});
    std::mt19937_64 random(seed);
    k.fill_normal(random);
    for (std::int64_t i = 0; i < 4; ++i) k.set(0, 0, i * 2500, 1, i == 0 ? 1e5 : -1e5);
    const HeadKeys keys(k.view(), 0, 0, 0, kMany, *serial);
    const auto weights = [](const float* row, const void* const* key, int n, float* out) {
      for (int j = 0; j < n; ++j) {
        out[j] = 0;
        for (int c = 0; c < 4; ++c) {
          const float e = static_cast<const float*>(key[j])[c] - row[c];
          out[j] += e * e;
        }
      }
    };
    const auto rows = seed_rows(keys, 40, seed, *serial, weights);
    ASSERT_EQ(rows.size(), 40u);
    int high = 0, low = 0;
    for (const auto r : rows) high += k.get(0, 0, r, 1) > 1e4, low += k.get(0, 0, r, 1) < -1e4;
    EXPECT_EQ(high, 1) << seed;
    EXPECT_GE(low, 1) << seed;
    const std::set<std::int64_t> unlike(rows.begin(), rows.end());
    EXPECT_EQ(unlike.size(), rows.size()) << "a key that is a seed weighs nothing";
  }
  Storage alike(DType::kF32, {1, 1, kMany, 4});
  for (std::int64_t i = 0; i < kMany; ++i) alike.fill_row(0, 0, i, 2.5);
  const HeadKeys keys(alike.view(), 0, 0, 0, kMany, *serial);
  const auto nothing = [](const float*, const void* const*, int n, float* out) {
    std::fill_n(out, n, 0.0f);
  };
  EXPECT_EQ(seed_rows(keys, 40, 1, *serial, nothing).size(), 40u);
}

// Of keys that weigh 1 and 4, as many each, one in five seeds is of the first.
TEST(ScoreLloyd, SeedsOfManyKeysFollowTheirWeights) {
  constexpr std::int64_t kMany = 6000;
  const auto serial = make_serial_executor();
  Storage k(DType::kF32, {1, 1, kMany, 1});
  for (std::int64_t i = 0; i < kMany; ++i) k.set(0, 0, i, 0, i < kMany / 2 ? 1 : 2);
  const HeadKeys keys(k.view(), 0, 0, 0, kMany, *serial);
  // Weights of the key alone, whatever the seeds.
  const auto weights = [](const float*, const void* const* key, int n, float* out) {
    for (int j = 0; j < n; ++j) {
      const float x = *static_cast<const float*>(key[j]);
      out[j] = x * x;
    }
  };
  int second = 0, all = 0;
  for (std::uint64_t seed = 0; seed < 200; ++seed) {
    const auto rows = seed_rows(keys, 20, mix(seed), *serial, weights);
    for (std::size_t i = 1; i < rows.size(); ++i, ++all) second += rows[i] >= kMany / 2;
  }
  const double share = second / static_cast<double>(all), deviation = std::sqrt(.8 * .2 / all);
  EXPECT_NEAR(share, 0.8, 4 * deviation);
}

}  // namespace
}  // namespace prescore::test
