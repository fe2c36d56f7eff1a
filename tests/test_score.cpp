// Scorers: norms and key difference against the oracle, and what holds for all.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>

#include "support/scores.h"

namespace prescore::test {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

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
              ASSERT_NEAR(leverage[at], want_leverage[i], 2e-4 * (1 + want_leverage[i]));
              ASSERT_NEAR(difference[at], want_difference[i], 1e-6);
            }
          }
        }
      }
    }
  }
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
    o.score = Score::kUniversal;
    const auto universal = score(k, kN, o);
    const auto keys = reference::centred(head(k, 0, 0, kN), kD, fit);
    const auto want_norm = reference::key_norms(keys, kD);
    const auto want_leverage = reference::ridge_leverage(keys, kD, o.ridge, fit);
    const auto want_universal = reference::universal_bound(keys, kD, o.degree, o.iterations, fit);
    for (std::size_t i = 0; i < static_cast<std::size_t>(kN); ++i) {
      ASSERT_NEAR(norm[i], want_norm[i], 1e-5 * (1 + want_norm[i]));
      ASSERT_NEAR(leverage[i], want_leverage[i], 1e-5 * (1 + want_leverage[i]));
      ASSERT_NEAR(universal[i], want_universal[i], 1e-4 * want_universal[i]);
    }
  }
}

// By definition, or since a shift of all keys moves centres along.
TEST(Score, OthersIgnoreCentring) {
  Storage k(DType::kF32, {1, 1, 300, 6});
  std::mt19937_64 random(3);
  k.fill_normal(random);
  for (ScoreOptions o : all_scores()) {
    if (o.score == Score::kKeyNorm || o.score == Score::kGaussianNorm ||
        o.score == Score::kLeverage || o.score == Score::kUniversal)
      continue;
    const auto plain = score(k, 300, o);
    o.centred = true;
    EXPECT_EQ(score(k, 300, o), plain) << name(o);
  }
}

TEST(Score, GaussianNormIsItsFormula) {
  Storage k(DType::kF32, {1, 1, 100, 6});
  std::mt19937_64 random(1);
  k.fill_normal(random);
  for (std::int64_t i = 0; i < 100; ++i) k.set(0, 0, i, 2, 2 + k.get(0, 0, i, 2));  // a mean
  const auto keys = head(k, 0, 0, 100);
  for (const bool centred : {false, true})
    for (const std::int64_t fit : {40, 100})
      for (const double sigma : {0.0, 0.7, 3.0}) {
        ScoreOptions o{.score = Score::kGaussianNorm, .sigma = sigma, .fit = fit};
        o.centred = centred;
        const auto got = score(k, 100, o);
        const auto want = reference::gaussian_norm(
            centred ? reference::centred(keys, 6, fit) : keys, 6, sigma, fit);
        for (std::size_t i = 0; i < 100; ++i)
          ASSERT_NEAR(got[i], want[i], 1e-6) << "centred " << centred << ", sigma " << sigma;
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

// Scores that draw nothing are those of the keys without the bad one.
TEST(Score, BadKeysTakeNoPartInTheFit) {
  Storage k(DType::kF32, {1, 1, 200, 8});
  std::mt19937_64 random(1);
  k.fill_normal(random);
  k.set(0, 0, 199, 4, std::nan(""));
  for (ScoreOptions o : all_scores()) {
    if (o.score == Score::kKMeans || o.score == Score::kKMedian ||
        o.score == Score::kKernelKMeans || o.leverage == Leverage::kSketched)
      continue;
    for (const std::int64_t iterations : {0, 10}) {
      o.iterations = iterations;
      const auto all = score(k, 200, o), good = score(k, 199, o);
      for (std::size_t i = 0; i < 199; ++i)
        ASSERT_NEAR(all[i], good[i], 1e-6 * (1 + std::abs(good[i]))) << name(o) << ", key " << i;
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
    for (const Score score :
         {Score::kLeverage, Score::kKeyDiff, Score::kUniversal, Score::kKMeans}) {
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
