// Leverage and the universal set against the oracle.
#include <gtest/gtest.h>

#include <cmath>
#include <numeric>

#include "support/scores.h"

namespace prescore::test {
namespace {

TEST(ScoreLeverage, LeverageSumsToTheEffectiveRank) {
  Storage k(DType::kF32, {1, 1, 5000, 24});
  std::mt19937_64 random(1);
  k.fill_normal(random);
  const auto scores = score(k, 5000, {.score = Score::kLeverage, .ridge = 1e-9});
  EXPECT_NEAR(std::accumulate(scores.begin(), scores.end(), 0.0), 24, 1e-3);
}

TEST(ScoreLeverage, ExactLeverageAgreesWithTheOracle) {
  Storage k(DType::kF32, {1, 1, 200, 9});
  std::mt19937_64 random(6);
  k.fill_normal(random);
  for (std::int64_t i = 0; i < 200; ++i) k.set(0, 0, i, 4, 3 + k.get(0, 0, i, 4));  // a mean
  for (const bool centred : {false, true}) {
    auto keys = head(k, 0, 0, 200);
    if (centred) keys = reference::centred(keys, 9, 200);
    const auto want = reference::ridge_leverage(keys, 9, 0, 200);
    const auto exact = score(k, 200, {.centred = centred, .leverage = Leverage::kExact});
    const auto universal =
        score(k, 200, {.score = Score::kUniversal, .centred = centred, .degree = 2});
    for (std::size_t i = 0; i < 200; ++i) {
      ASSERT_NEAR(exact[i], want[i], 1e-6);
      ASSERT_NEAR(universal[i], want[i], 1e-6);
    }
  }
}

// No ridge at all is exact, of any scale, and keys that are all zero have none.
TEST(ScoreLeverage, WithoutARidgeItIsExact) {
  for (const float scale : {1e-3f, 1.0f, 1e3f}) {
    Storage k(DType::kF32, {1, 1, 200, 9});
    std::mt19937_64 random(6);
    k.fill_normal(random);
    for (std::int64_t i = 0; i < 200; ++i)
      for (std::int64_t x = 0; x < 9; ++x) k.set(0, 0, i, x, scale * k.get(0, 0, i, x));
    const auto want = reference::ridge_leverage(head(k, 0, 0, 200), 9, 0, 200);
    const auto got = score(k, 200, {.score = Score::kLeverage, .ridge = 0});
    for (std::size_t i = 0; i < 200; ++i) ASSERT_NEAR(got[i], want[i], 1e-6) << scale;
  }
  Storage zero(DType::kF32, {1, 1, 200, 9});
  for (std::int64_t i = 0; i < 200; ++i)
    for (std::int64_t x = 0; x < 9; ++x) zero.set(0, 0, i, x, 0);
  for (const double ridge : {0.0, 1e-3})
    for (const float s : score(zero, 200, {.score = Score::kLeverage, .ridge = ridge}))
      ASSERT_EQ(s, 0);
}

// Also of keys that come after the fit.
TEST(ScoreLeverage, UniversalScoreAgreesWithTheOracle) {
  constexpr std::int64_t kN = 260, kD = 7;
  Storage k(DType::kF32, {1, 1, kN, kD});
  std::mt19937_64 random(9);
  k.fill_normal(random);
  for (std::int64_t i = 0; i < 5; ++i) k.set(0, 0, i * 11, i, 9);
  const auto keys = head(k, 0, 0, kN);
  for (const std::int64_t p : {4, 6, 10})
    for (const std::int64_t iterations : {0, 1, 10})
      for (const std::int64_t fit : {std::int64_t{130}, kN}) {
        const auto want = reference::universal_bound(keys, kD, p, iterations, fit);
        const auto got = score(
            k, kN, {.score = Score::kUniversal, .iterations = iterations, .degree = p, .fit = fit});
        for (std::size_t i = 0; i < want.size(); ++i)
          ASSERT_NEAR(got[i], want[i], 1e-4 * want[i]) << p << ' ' << iterations << ' ' << i;
      }
}

TEST(ScoreLeverage, ExactLeverageOfDeficientKeys) {
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

TEST(ScoreLeverage, SketchedLeverageIsWithinItsStatedError) {
  constexpr std::int64_t kN = 5000;
  for (const auto& [d, rows] :  // 0: the default, 8 d
       {std::pair<std::int64_t, std::int64_t>{16, 0}, {64, 0}, {16, 256}, {16, 1024}}) {
    Storage k(DType::kF32, {1, 1, kN, d});
    std::mt19937_64 random(6);
    k.fill_normal(random);
    for (std::int64_t i = 0; i < 20; ++i)  // a few keys with directions of their own
      k.set(0, 0, i * 7, i % d, 40);
    const auto exact = score(k, kN, {.leverage = Leverage::kExact});
    const auto m = static_cast<double>(rows > 0 ? rows : 8 * d);
    const double e = std::sqrt(static_cast<double>(d) / m) + 3 / std::sqrt(m);
    ASSERT_LT(e, 1);
    const double stated = 1 / ((1 - e) * (1 - e)) - 1;
    double worst = 0;
    for (std::uint64_t seed = 0; seed < 10; ++seed) {
      const auto s =
          score(k, kN, {.seed = seed, .leverage = Leverage::kSketched, .sketch_rows = rows});
      for (std::size_t i = 0; i < exact.size(); ++i)
        worst = std::max(worst, std::abs(double{s[i]} / double{exact[i]} - 1));
    }
    EXPECT_LT(worst, stated) << rows << " rows, d " << d;
    EXPECT_LT(worst, m < 16.0 * static_cast<double>(d) ? 1.6 : 0.6);
    EXPECT_GT(worst, 0.01 * stated) << "it is a sketch";
  }
}

// No query gives a key a larger share of sum |q.k|^p than the score says.
TEST(ScoreLeverage, UniversalScoreBoundsEveryQuery) {
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

}  // namespace
}  // namespace prescore::test
