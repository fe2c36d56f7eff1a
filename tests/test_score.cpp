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
constexpr Score kAll[] = {Score::kKeyNorm, Score::kLeverage, Score::kKMeans, Score::kKeyDiff,
                          Score::kRandom};

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
              ASSERT_NEAR(leverage[at], want_leverage[i], 1e-5 * (1 + want_leverage[i]));
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

TEST(Score, KMeansObjectiveNeverRises) {
  Storage k(DType::kF32, {1, 1, 2500, 12});
  std::mt19937_64 random(4);
  k.fill_normal(random);
  double last = std::numeric_limits<double>::infinity();
  for (std::int64_t iterations = 0; iterations < 12; ++iterations) {
    const auto s = score(k, 2500, {.score = Score::kKMeans, .iterations = iterations, .seed = 9});
    double sum = 0;
    for (const float x : s) sum += double{x} * double{x};
    EXPECT_LE(sum, last * (1 + 1e-6)) << iterations;
    last = sum;
  }
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
  for (const Score which : kAll) {
    for (const std::int64_t fit : {70, 512, 2048, 2500}) {
      Storage k(DType::kF16, {1, 2, 5000, 20}), other(DType::kF16, {1, 2, 5000, 20});
      std::mt19937_64 random(1), later(2);
      k.fill_normal(random);
      std::mt19937_64 again(1);
      other.fill_normal(again);
      other.fill_normal_rows(later, 2500, 5000, 4);
      ScoreOptions o;
      o.score = which, o.fit = fit;
      const auto a = score(k, 5000, o), b = score(other, 5000, o), c = score(k, 2500, o);
      for (std::size_t h = 0; h < 2; ++h) {
        for (std::size_t i = 0; i < 2500; ++i) {
          ASSERT_EQ(a[h * 5000 + i], b[h * 5000 + i]) << static_cast<int>(which) << ' ' << i;
          ASSERT_EQ(a[h * 5000 + i], c[h * 2500 + i]) << static_cast<int>(which) << ' ' << i;
        }
      }
    }
  }
}

TEST(ScoreThread, SameBitsForAnyNumberOfThreads) {
  Storage k(DType::kBF16, {1, 2, 7000, 16});
  std::mt19937_64 random(1);
  k.fill_normal(random);
  for (const Score which : kAll) {
    ScoreOptions o;
    o.score = which;
    const auto one = score(k, 7000, o);
    EXPECT_EQ(one, score(k, 7000, o));
    EXPECT_EQ(one, score(k, 7000, o, *make_executor(2)));
    EXPECT_EQ(one, score(k, 7000, o, *make_executor(7)));
  }
}

TEST(Score, DegenerateKeys) {
  for (const Score which : kAll) {
    ScoreOptions o;
    o.score = which;
    Storage k(DType::kF32, {1, 1, 50, 6});
    for (const double x : {0.0, 1.0, 1e-30, 1e25}) {
      for (std::int64_t i = 0; i < 50; ++i) k.fill_row(0, 0, i, x);
      for (const float s : score(k, 50, o)) EXPECT_FALSE(std::isnan(s)) << static_cast<int>(which);
    }
  }
}

TEST(Score, BadKeysComeFirstAndLeaveTheOthersAlone) {
  constexpr float kInf = std::numeric_limits<float>::infinity();
  for (const Score which : {Score::kKeyNorm, Score::kLeverage, Score::kKMeans, Score::kKeyDiff}) {
    for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
      Storage k(DType::kF16, {1, 2, 200, 8});
      std::mt19937_64 random(1);
      k.fill_normal(random);
      ScoreOptions o;
      o.score = which;
      const auto clean = score(k, 200, o);
      k.set(0, 0, 33, 4, bad);
      const auto dirty = score(k, 200, o);
      for (std::size_t i = 0; i < 400; ++i) {
        if (i == 33)
          EXPECT_EQ(dirty[i], kInf);
        else if (i < 200)
          EXPECT_TRUE(std::isfinite(dirty[i])) << i;
        else
          EXPECT_EQ(dirty[i], clean[i]) << i;
      }
    }
  }
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
