// Scorers against the oracle.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "support/cases.h"

namespace prescore::test {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

/// Every score of keys alone, with every option that changes how it is computed.
std::vector<ScoreOptions> all_scores() {
  std::vector<ScoreOptions> all;
  const auto add = [&](Score score, auto&& change) {
    ScoreOptions o;
    o.score = score;
    change(o);
    all.push_back(o);
  };
  const auto plain = [](ScoreOptions&) {};
  const auto centred = [](ScoreOptions& o) { o.centred = true; };
  for (const Score s : {Score::kKeyNorm, Score::kGaussianNorm}) add(s, plain), add(s, centred);
  for (const Score s : {Score::kKeyDiff, Score::kRandom, Score::kUniversal}) add(s, plain);
  for (const Leverage kind : {Leverage::kRidge, Leverage::kExact, Leverage::kSketched})
    for (const bool c : {false, true})
      add(Score::kLeverage, [&](ScoreOptions& o) { o.leverage = kind, o.centred = c; });
  add(Score::kLeverage, [](ScoreOptions& o) { o.ridge = 0; });
  for (const Score s : {Score::kKMeans, Score::kKMedian, Score::kKernelKMeans})
    for (const ClusterScore kind :
         {ClusterScore::kDistance, ClusterScore::kRelative, ClusterScore::kNearness})
      add(s, [&](ScoreOptions& o) { o.cluster_score = kind, o.iterations = 4; });
  add(Score::kKernelKMeans, [](ScoreOptions& o) { o.kernel = KernelKMeans::kDistance; });
  return all;
}

std::string name(const ScoreOptions& o) {
  return "score " + std::to_string(static_cast<int>(o.score)) + ", leverage " +
         std::to_string(static_cast<int>(o.leverage)) + ", clusters scored " +
         std::to_string(static_cast<int>(o.cluster_score)) + ", centred " +
         std::to_string(o.centred);
}

std::vector<float> score(const Storage& k, std::int64_t n, const ScoreOptions& options,
                         Executor& executor) {
  std::vector<float> out(static_cast<std::size_t>(k.shape()[0] * k.shape()[1] * n), -99.0f);
  score_keys(k.view(), n, options, out.data(), executor);
  return out;
}
std::vector<float> score(const Storage& k, std::int64_t n, const ScoreOptions& options) {
  return score(k, n, options, *make_serial_executor());
}

std::vector<double> head(const Storage& k, std::int64_t b, std::int64_t h, std::int64_t n) {
  const reference::Array all = reference::load(k.view());
  return {all.row(b, h, 0), all.row(b, h, 0) + n * k.shape()[3]};
}

TEST(Score, AgreesWithTheOracle) {
  for (const DType type : kTypes) {
    for (const std::int64_t d : {1, 5, 16, 33}) {
      for (const std::int64_t n : {1, 40, 300}) {
        for (const std::int64_t fit : {std::int64_t{0}, (n + 1) / 2}) {
          Storage k(type, {2, 2, 310, d}, Order::kTokens);
          std::mt19937_64 random(static_cast<std::uint64_t>(d * n));
          k.fill_normal(random);
          for (std::int64_t i = 0; i < 310; ++i)
            k.set(1, 1, i, 0, 3 + k.get(1, 1, i, 0));  // a mean
          ScoreOptions o;
          o.fit = fit;
          const std::int64_t used = fit > 0 ? fit : n;
          o.score = Score::kKeyNorm;
          const auto norm = score(k, n, o);
          o.score = Score::kLeverage;
          const auto leverage = score(k, n, o);
          o.score = Score::kKeyDiff;
          const auto difference = score(k, n, o);
          for (std::int64_t bh = 0; bh < 4; ++bh) {
            const auto keys = head(k, bh / 2, bh % 2, n);
            const auto want_norm = reference::key_norms(keys, d);
            const auto want_leverage = reference::ridge_leverage(keys, d, o.ridge, used);
            const auto want_difference = reference::key_difference(keys, d, used);
            for (std::size_t i = 0; i < static_cast<std::size_t>(n); ++i) {
              const std::size_t at = static_cast<std::size_t>(bh * n) + i;
              ASSERT_NEAR(norm[at], want_norm[i], 1e-6 * (1 + want_norm[i]));
              ASSERT_NEAR(leverage[at], want_leverage[i], 1e-4 * (1 + want_leverage[i]));
              ASSERT_NEAR(difference[at], want_difference[i], 1e-6);
            }
          }
        }
      }
    }
  }
}

TEST(Score, LeverageSumsToTheEffectiveRank) {
  Storage k(DType::kF32, {1, 1, 5000, 24});
  std::mt19937_64 random(1);
  k.fill_normal(random);
  const auto scores = score(k, 5000, {.score = Score::kLeverage, .ridge = 1e-9});
  EXPECT_NEAR(std::accumulate(scores.begin(), scores.end(), 0.0), 24, 1e-3);
}

// d + 1 blobs far apart: D^2 seeding meets each once, so every distance is that to the own blob.
TEST(Score, KMeansFindsSeparatedBlobs) {
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

TEST(Score, RelativeDistanceOfEqualKeysIsZero) {
  Storage k(DType::kF32, {1, 1, 40, 6});
  for (std::int64_t i = 0; i < 40; ++i) k.fill_row(0, 0, i, 1);
  ScoreOptions o{.score = Score::kKMeans};
  o.cluster_score = ClusterScore::kRelative;
  for (const float s : score(k, 40, o)) EXPECT_EQ(s, 0.0f);
}

TEST(Score, CentredScoresAreThoseOfTheKeysLessTheirMean) {
  constexpr std::int64_t kN = 300, kD = 12;
  Storage k(DType::kF32, {1, 1, kN, kD});
  std::mt19937_64 random(3);
  k.fill_normal(random);
  for (std::int64_t i = 0; i < kN; ++i) k.set(0, 0, i, 2, 5 + k.get(0, 0, i, 2));
  for (const std::int64_t fit : {std::int64_t{150}, kN}) {
    ScoreOptions o{.score = Score::kKeyNorm, .fit = fit};
    o.centred = true;
    const auto norm = score(k, kN, o);
    o.score = Score::kLeverage;
    const auto leverage = score(k, kN, o);
    const auto keys = reference::centred(head(k, 0, 0, kN), kD, fit);
    const auto want_norm = reference::key_norms(keys, kD);
    const auto want_leverage = reference::ridge_leverage(keys, kD, o.ridge, fit);
    for (std::size_t i = 0; i < static_cast<std::size_t>(kN); ++i) {
      ASSERT_NEAR(norm[i], want_norm[i], 1e-5 * (1 + want_norm[i]));
      ASSERT_NEAR(leverage[i], want_leverage[i], 1e-5 * (1 + want_leverage[i]));
    }
  }
}

// Separated blobs: the medians are those of the blobs.
TEST(Score, KMedianFindsSeparatedBlobs) {
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

TEST(Score, KMedianObjectiveNeverRises) {
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

TEST(Score, GaussianNormIsItsFormula) {
  Storage k(DType::kF32, {1, 1, 100, 6});
  std::mt19937_64 random(1);
  k.fill_normal(random);
  const auto norm = reference::key_norms(head(k, 0, 0, 100), 6);
  double squares = 0;
  for (const double x : norm) squares += x * x;
  for (const double sigma : {0.0, 0.7, 3.0}) {
    const auto s = score(k, 100, {.score = Score::kGaussianNorm, .sigma = sigma});
    const double variance = sigma > 0 ? sigma * sigma : squares / 100;
    for (std::size_t i = 0; i < 100; ++i)
      ASSERT_NEAR(s[i], std::exp(-norm[i] * norm[i] / 2 / variance), 1e-6);
  }
}

TEST(Score, GaussianOfTheDistanceIsTheDistanceInItsSpace) {
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
TEST(Score, FourierFeaturesAgreeWithTheKernel) {
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

TEST(Score, ExactLeverageAgreesWithTheOracle) {
  Storage k(DType::kF32, {1, 1, 200, 9});
  std::mt19937_64 random(6);
  k.fill_normal(random);
  const auto keys = head(k, 0, 0, 200);
  const auto want = reference::ridge_leverage(keys, 9, 0, 200);
  const auto exact = score(k, 200, {.leverage = Leverage::kExact});
  const auto universal = score(k, 200, {.score = Score::kUniversal, .degree = 2});
  for (std::size_t i = 0; i < 200; ++i) {
    ASSERT_NEAR(exact[i], want[i], 1e-6);
    ASSERT_NEAR(universal[i], want[i], 1e-6);
  }
}

TEST(Score, ExactLeverageOfDeficientKeys) {
  constexpr std::int64_t kN = 150, kD = 10, kRank = 4;
  Storage k(DType::kF32, {1, 1, kN, kD}), base(DType::kF32, {1, 1, kN, kRank});
  std::mt19937_64 random(6);
  base.fill_normal(random);
  for (std::int64_t i = 0; i < kN; ++i)
    for (std::int64_t c = 0; c < kD; ++c)
      k.set(0, 0, i, c, base.get(0, 0, i, c % kRank) * static_cast<double>(c + 1));
  const auto want = reference::ridge_leverage(head(base, 0, 0, kN), kRank, 0, kN);
  const auto got = score(k, kN, {.leverage = Leverage::kExact});
  for (std::size_t i = 0; i < want.size(); ++i) ASSERT_NEAR(got[i], want[i], 1e-5);
  EXPECT_NEAR(std::accumulate(got.begin(), got.end(), 0.0), kRank, 1e-4);
}

TEST(Score, SketchedLeverageIsWithinItsStatedError) {
  constexpr std::int64_t kN = 5000, kD = 16;
  Storage k(DType::kF32, {1, 1, kN, kD});
  std::mt19937_64 random(6);
  k.fill_normal(random);
  for (std::int64_t i = 0; i < 20; ++i)  // a few keys with directions of their own
    k.set(0, 0, i * 7, i % kD, 40);
  const auto exact = score(k, kN, {.leverage = Leverage::kExact});
  for (const std::int64_t rows : {256, 1024}) {
    const double m = static_cast<double>(rows), e = std::sqrt(kD / m) + 3 / std::sqrt(m);
    const double stated = 1 / ((1 - e) * (1 - e)) - 1;
    double worst = 0;
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
      const auto s =
          score(k, kN, {.seed = seed, .leverage = Leverage::kSketched, .sketch_rows = rows});
      for (std::size_t i = 0; i < exact.size(); ++i)
        worst = std::max(worst, std::abs(double{s[i]} / double{exact[i]} - 1));
    }
    EXPECT_LT(worst, stated) << rows << " rows";
    EXPECT_GT(worst, 0.01 * stated) << "it is a sketch";
  }
}

// No query gives a key a larger share of sum |q.k|^p than the score says.
TEST(Score, UniversalScoreBoundsEveryQuery) {
  constexpr std::int64_t kN = 120, kD = 6;
  Storage k(DType::kF32, {1, 1, kN, kD});
  std::mt19937_64 random(8);
  k.fill_normal(random);
  for (std::int64_t i = 0; i < 4; ++i) k.set(0, 0, i, i, 8);
  const auto keys = head(k, 0, 0, kN);
  for (const std::int64_t p : {2, 4, 6}) {
    const auto bound = score(k, kN, {.score = Score::kUniversal, .degree = p});
    double tightest = 0;
    for (std::int64_t i = 0; i < kN; ++i) {
      const double most = reference::largest_polynomial_share(keys, kD, i, p);
      ASSERT_LE(most, double{bound[static_cast<std::size_t>(i)]} * (1 + 1e-5)) << p << ' ' << i;
      tightest = std::max(tightest, most / double{bound[static_cast<std::size_t>(i)]});
    }
    EXPECT_GT(tightest, p == 2 ? 0.999 : 0.3) << "a bound that says little";
  }
}

TEST(Score, KMeansObjectiveNeverRises) {
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

TEST(Score, RandomIsUniformAndByCounter) {
  const Storage k(DType::kF16, {2, 2, 4000, 3});
  const ScoreOptions o{.score = Score::kRandom, .seed = 7};
  const auto s = score(k, 4000, o);
  EXPECT_EQ(std::set<float>(s.begin(), s.end()).size() > 15900, true);
  double sum = 0;
  for (const float x : s) {
    ASSERT_GE(x, 0.0f);
    ASSERT_LT(x, 1.0f);
    sum += double{x};
  }
  EXPECT_NEAR(sum / 16000, 0.5, 0.01);
  const auto fewer = score(k, 100, o);
  for (std::size_t i = 0; i < 100; ++i) EXPECT_EQ(fewer[i], s[i]);
  EXPECT_NE(score(k, 100, {.score = Score::kRandom, .seed = 8}), fewer);
}

// Contract 2: scores fitted to a prefix are blind to what follows, bit for bit.
TEST(Score, FitKnowsNoLaterKeys) {
  for (ScoreOptions o : all_scores()) {
    for (const std::int64_t fit : {70, 512, 2500}) {
      Storage k(DType::kF16, {1, 2, 3000, 20}), other(DType::kF16, {1, 2, 3000, 20});
      std::mt19937_64 random(1), later(2);
      k.fill_normal(random);
      std::mt19937_64 again(1);
      other.fill_normal(again);
      other.fill_normal_rows(later, 2500, 3000, 4);
      o.fit = fit;
      const auto a = score(k, 3000, o), b = score(other, 3000, o), c = score(k, 2500, o);
      for (std::size_t h = 0; h < 2; ++h) {
        for (std::size_t i = 0; i < 2500; ++i) {
          ASSERT_EQ(a[h * 3000 + i], b[h * 3000 + i]) << name(o) << ", key " << i;
          ASSERT_EQ(a[h * 3000 + i], c[h * 2500 + i]) << name(o) << ", key " << i;
        }
      }
    }
  }
}

TEST(ScoreThread, SameBitsForAnyNumberOfThreads) {
  Storage k(DType::kBF16, {1, 2, 5000, 16});
  std::mt19937_64 random(1);
  k.fill_normal(random);
  for (const ScoreOptions& o : all_scores()) {
    const auto one = score(k, 5000, o);
    EXPECT_EQ(one, score(k, 5000, o)) << name(o);
    EXPECT_EQ(one, score(k, 5000, o, *make_executor(2))) << name(o);
    EXPECT_EQ(one, score(k, 5000, o, *make_executor(7))) << name(o);
  }
}

TEST(Score, DegenerateKeys) {
  for (const ScoreOptions& o : all_scores()) {
    Storage k(DType::kF32, {1, 1, 50, 6});
    for (const double x : {0.0, 1.0, 1e-30, 1e25}) {
      for (std::int64_t i = 0; i < 50; ++i) k.fill_row(0, 0, i, x);
      const auto all = score(k, 50, o);
      for (const float s : all) EXPECT_FALSE(std::isnan(s)) << name(o) << ", keys of " << x;
      if (o.score == Score::kRandom) continue;
      for (const float s : all) EXPECT_EQ(s, all[0]) << name(o) << ": equal keys, unequal scores";
    }
    EXPECT_FALSE(std::isnan(score(k, 1, o)[0])) << name(o) << ", one key";
  }
}

TEST(Score, BadKeysComeFirstAndLeaveTheOthersAlone) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const ScoreOptions& o : all_scores()) {
    if (o.score == Score::kRandom) continue;
    for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
      Storage k(DType::kF16, {1, 2, 200, 8});
      std::mt19937_64 random(1);
      k.fill_normal(random);
      const auto clean = score(k, 200, o);
      k.set(0, 0, 33, 4, bad);
      const auto dirty = score(k, 200, o);
      for (std::size_t i = 0; i < 400; ++i) {
        if (i == 33)
          EXPECT_EQ(dirty[i], kInf) << name(o);
        else if (i < 200)
          EXPECT_TRUE(std::isfinite(dirty[i])) << name(o) << ", key " << i;
        else
          EXPECT_EQ(dirty[i], clean[i]) << name(o) << ", key " << i;
      }
    }
  }
}

TEST(Score, NothingButBadKeys) {
  Storage k(DType::kF32, {1, 1, 30, 4});
  for (std::int64_t i = 0; i < 30; ++i) k.fill_row(0, 0, i, std::nan(""));
  for (const ScoreOptions& o : all_scores()) {
    if (o.score == Score::kRandom) continue;
    for (const float s : score(k, 30, o)) EXPECT_EQ(s, HUGE_VALF) << name(o);
  }
}

TEST(Score, MoreClustersThanKeys) {
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

// Rotates the keys of a tensor as RoPE does, by the definition.
std::vector<float> rotated(const std::vector<float>& keys, std::int64_t n, std::int64_t d,
                           const Rotation& r) {
  std::vector<float> out = keys;
  for (std::int64_t i = 0; i < n; ++i) {
    for (std::int64_t p = 0; p < r.dims / 2; ++p) {
      const auto a = static_cast<std::size_t>(i * d + (r.interleaved ? 2 * p : p));
      const std::size_t b = a + static_cast<std::size_t>(r.interleaved ? 1 : r.dims / 2);
      const double angle =
          static_cast<double>(i) * r.position_scale *
          std::pow(r.base, -2.0 * static_cast<double>(p) / static_cast<double>(r.dims));
      const double x = double{keys[a]}, y = double{keys[b]};
      out[a] = static_cast<float>(x * std::cos(angle) - y * std::sin(angle));
      out[b] = static_cast<float>(x * std::sin(angle) + y * std::cos(angle));
    }
  }
  return out;
}

TEST(Score, RotationIsUndone) {
  constexpr std::int64_t kN = 2500, kD = 16;
  std::mt19937_64 random(5);
  std::normal_distribution<float> normal;
  std::vector<float> keys(kN * kD);
  for (std::size_t i = 0; i < keys.size(); ++i)
    keys[i] = normal(random) + (i % kD == 3 ? 2.0f : 0.0f);  // not alike in all directions
  const auto executor = make_executor(2);
  const auto scores = [&](const std::vector<float>& k, const ScoreOptions& o) {
    std::vector<float> out(kN);
    score_keys(Tensor::contiguous(k.data(), DType::kF32, 1, 1, kN, kD), kN, o, out.data(),
               *executor);
    return out;
  };
  for (const Rotation& r : {Rotation{16, 10000, false, 1}, Rotation{16, 500000, true, 0.25},
                            Rotation{8, 100, false, 1}}) {
    const std::vector<float> turned = rotated(keys, kN, kD, r);
    for (const Score score : {Score::kLeverage, Score::kKeyDiff, Score::kUniversal}) {
      ScoreOptions o;
      o.score = score;
      const std::vector<float> want = scores(keys, o), without = scores(turned, o);
      o.rotation = r;
      const std::vector<float> got = scores(turned, o);
      double error = 0, change = 0, size = 0;
      for (std::size_t i = 0; i < kN; ++i) {
        error = std::max(error, std::abs(double{got[i]} - double{want[i]}));
        change = std::max(change, std::abs(double{without[i]} - double{want[i]}));
        size = std::max(size, std::abs(double{want[i]}));
      }
      EXPECT_LT(error, 1e-4 * size);
      EXPECT_GT(change, 1e-2 * size);
    }
  }
  ScoreOptions bad;
  bad.rotation.dims = 7;
  EXPECT_THROW(scores(keys, bad), Error);
  bad.rotation.dims = 18;
  EXPECT_THROW(scores(keys, bad), Error);
  bad.rotation = {8, 0, false, 1};
  EXPECT_THROW(scores(keys, bad), Error);
}

TEST(Score, BadInputIsAnError) {
  const Storage k(DType::kF32, {1, 1, 10, 4});
  float out[10] = {};
  const auto serial = make_serial_executor();
  const auto run = [&](std::int64_t n, const ScoreOptions& o, float* to) {
    score_keys(k.view(), n, o, to, *serial);
  };
  EXPECT_THROW(run(0, {}, out), Error);
  EXPECT_THROW(run(-1, {}, out), Error);
  EXPECT_THROW(run(11, {}, out), Error);
  EXPECT_THROW(run(10, {}, nullptr), Error);
  EXPECT_THROW(run(10, {.ridge = -1}, out), Error);
  EXPECT_THROW(run(10, {.ridge = std::nan("")}, out), Error);
  EXPECT_THROW(run(10, {.sigma = -1}, out), Error);
  EXPECT_THROW(run(10, {.features = 513}, out), Error);
  EXPECT_THROW(run(10, {.sketch_rows = -1}, out), Error);
  EXPECT_THROW(run(10, {.degree = 3}, out), Error);
  EXPECT_THROW(run(10, {.degree = 0}, out), Error);
  EXPECT_THROW(run(10, {.score = Score::kExpected}, out), Error) << "needs queries";
  EXPECT_THROW(run(10, {.score = Score::kOracle}, out), Error);
  EXPECT_THROW(run(10, {.clusters = -1}, out), Error);
  EXPECT_THROW(run(10, {.clusters = std::int64_t{1} << 40}, out), Error);
  EXPECT_THROW(run(10, {.iterations = -1}, out), Error);
  EXPECT_THROW(run(10, {.fit = 11}, out), Error);
  ScoreOptions unknown;
  unknown.cluster_score = static_cast<ClusterScore>(3);
  EXPECT_THROW(run(10, unknown, out), Error);
  EXPECT_THROW(run(10, {.score = static_cast<Score>(17)}, out), Error);
  EXPECT_THROW(score_keys(Tensor{}, 1, {}, out, *serial), Error);
}

}  // namespace
}  // namespace prescore::test
