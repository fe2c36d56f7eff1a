// Which of the scored keys are read: threshold, share, drawing in proportion, competing heads.
#include "plan/selection.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <numeric>
#include <set>

#include "support/cases.h"

namespace prescore::test {
namespace {

std::vector<std::int32_t> keys_of(const std::vector<Choosable>& list) {
  std::vector<std::int32_t> keys;
  for (const Choosable& c : list) keys.push_back(c.key);
  return keys;
}

TEST(Selection, BestFirstTiesToTheLowerIdNaNLast) {
  const float nan = std::nanf(""), inf = std::numeric_limits<float>::infinity();
  const std::vector<float> scores{9, 1, nan, 3, 3, -inf, inf, 0};
  PlanOptions o;
  EXPECT_EQ(keys_of(choose_keys(scores, 1, 8, 9, o, 0)),
            (std::vector<std::int32_t>{6, 3, 4, 1, 7, 2, 5}));
  EXPECT_EQ(keys_of(choose_keys(scores, 1, 8, 2, o, 0)), (std::vector<std::int32_t>{6, 3}));
  EXPECT_TRUE(choose_keys(scores, 3, 3, 2, o, 0).empty());
}

TEST(Selection, ThresholdAndShare) {
  const std::vector<float> scores{4, -2, 1, 3, 2};
  PlanOptions o;
  o.selection = Selection::kThreshold, o.least_score = 2;
  EXPECT_EQ(keys_of(choose_keys(scores, 0, 5, 9, o, 0)), (std::vector<std::int32_t>{0, 3, 4}));
  EXPECT_EQ(keys_of(choose_keys(scores, 0, 5, 2, o, 0)), (std::vector<std::int32_t>{0, 3}));
  o.selection = Selection::kShare;
  for (const auto& [share, count] :
       {std::pair{0.0f, 0u}, {0.39f, 1u}, {0.41f, 2u}, {0.9f, 3u}, {1.0f, 4u}}) {
    o.share = share;
    EXPECT_EQ(choose_keys(scores, 0, 5, 9, o, 0).size(), count) << share;
  }
}

// Horvitz-Thompson: each drawn key, weighted by one over its chance, stands for the sum exactly on
// average.
TEST(Selection, DrawnKeysWithWeightsAreUnbiased) {
  constexpr std::int64_t kN = 40, kDrawn = 12;
  std::vector<float> scores(kN);
  std::vector<double> value(kN);
  std::mt19937_64 random(3);
  for (std::size_t j = 0; j < kN; ++j) {
    scores[j] = std::exp(std::normal_distribution<float>(0, 1.5f)(random));
    value[j] = double{scores[j]} + std::normal_distribution<double>(1, 1)(random);
  }
  const double exact = std::accumulate(value.begin(), value.end(), 0.0);
  PlanOptions o;
  o.selection = Selection::kSample;
  double sum = 0, squares = 0;
  constexpr int kSeeds = 4000;
  for (int seed = 0; seed < kSeeds; ++seed) {
    o.seed = static_cast<std::uint64_t>(seed);
    const auto list = choose_keys(scores, 0, kN, kDrawn, o, 1);
    ASSERT_EQ(list.size(), std::size_t{kDrawn + 1});
    const auto keys = keys_of(list);
    ASSERT_EQ(std::set<std::int32_t>(keys.begin(), keys.end()).size(), keys.size());
    std::vector<float> weights;
    sample_log_weights(list, kDrawn, weights);
    double estimate = 0;
    for (std::size_t i = 0; i < kDrawn; ++i) {
      ASSERT_GE(weights[i], 0.0f);
      estimate += std::exp(double{weights[i]}) * value[static_cast<std::size_t>(list[i].key)];
    }
    sum += estimate, squares += estimate * estimate;
  }
  const double mean = sum / kSeeds, error = std::sqrt((squares / kSeeds - mean * mean) / kSeeds);
  EXPECT_NEAR(mean, exact, 3 * error);
  EXPECT_LT(error, 0.02 * exact);  // and the test can see a bias
}

TEST(Selection, DrawnInProportion) {
  PlanOptions o;
  o.selection = Selection::kSample;
  const std::vector<float> scores{1, 0, 2, -1, 5, std::nanf("")};
  std::vector<int> first(6);
  constexpr int kSeeds = 8000;
  for (int seed = 0; seed < kSeeds; ++seed) {
    o.seed = static_cast<std::uint64_t>(seed);
    const auto list = choose_keys(scores, 0, 6, 5, o, 0);
    ASSERT_EQ(list.size(), 3u);  // only what has a positive score
    ++first[static_cast<std::size_t>(list[0].key)];
  }
  for (const auto& [key, share] : {std::pair{0u, 0.125}, {2u, 0.25}, {4u, 0.625}})
    EXPECT_NEAR(first[key], kSeeds * share, 3.5 * std::sqrt(kSeeds * share * (1 - share)));
}

TEST(Selection, EverySelectionKeepsTheContractsOfAPlan) {
  for (const Selection selection :
       {Selection::kTopK, Selection::kThreshold, Selection::kShare, Selection::kSample}) {
    for (const bool causal : {true, false}) {
      const Case c{.b = 2, .h_q = 4, .h_kv = 2, .n_q = 300, .n_kv = 1200, .causal = causal};
      Data data(c);
      std::vector<float> scores = random_scores(c, 5);
      for (float& s : scores) s = std::exp(s);
      PlanOptions o = small_plan(Method::kTopK, 700);
      o.selection = selection, o.least_score = 1.5f, o.share = 0.3f, o.sample_weights = true;
      const Planned planned = plan_all(data, o, nullptr, &scores);
      bool weighted = false;
      for (std::size_t t = 0; t < planned.plan.reads.size(); ++t) {
        const Tile& tile = planned.plan.tiles[t];
        const TilePlan& p = planned.plan.reads[t];
        weighted = weighted || !p.log_weights.empty();
        const auto reads = reference::reads_of(p, data.visibility().end(tile.last - 1));
        const std::set<std::int64_t> once(reads.keys.begin(), reads.keys.end());
        ASSERT_EQ(once.size(), reads.keys.size());
        ASSERT_LE(reads.keys.size(), 700u);
      }
      EXPECT_EQ(weighted, selection == Selection::kSample);
      attend(data.inputs(), planned.plan, data.state(), *make_serial_executor());
      expect_near_plan(data, planned.plan);
    }
  }
}

TEST(Selection, HeadsCompeteWithinTheBudget) {
  const Case c{.b = 1, .h_q = 4, .h_kv = 4, .n_q = 1, .n_kv = 4000};
  const Data data(c);
  std::vector<float> scores(4 * 4000);
  std::mt19937_64 random(1);
  for (std::size_t i = 0; i < scores.size(); ++i)  // head 0 is peaked, head 3 flat
    scores[i] =
        std::exp(static_cast<float>(3 - i / 4000) * std::normal_distribution<float>(0, 1)(random));
  PlanOptions o = small_plan(Method::kTopK, 1000);
  const auto counts = [&](float adaptive) {
    o.adaptive = adaptive;
    std::vector<std::size_t> far(4);
    const Planned planned = plan_all(data, o, nullptr, &scores);
    for (std::size_t t = 0; t < planned.plan.reads.size(); ++t)
      far[static_cast<std::size_t>(planned.plan.tiles[t].head)] = planned.plan.reads[t].keys.size();
    return far;
  };
  const auto equal = counts(0), half = counts(0.5f), all = counts(1);
  EXPECT_EQ(equal, std::vector<std::size_t>(4, equal[0]));
  for (const auto& far : {half, all}) {
    EXPECT_EQ(std::accumulate(far.begin(), far.end(), std::size_t{0}), 4 * equal[0]);
    EXPECT_NE(far[0], far[3]);
  }
  for (const std::size_t n : half) EXPECT_GE(2 * n, equal[0]);
}

// Scores may be negative, or all alike: what counts is how far they are above the head's lowest.
TEST(Selection, HeadsCompeteByScoresOfAnySign) {
  const Case c{.b = 1, .h_q = 2, .h_kv = 2, .n_q = 1, .n_kv = 4000};
  const Data data(c);
  std::vector<float> scores(2 * 4000);
  std::mt19937_64 random(1);
  for (float& s : scores) s = std::exp(std::normal_distribution<float>(0, 1)(random));
  PlanOptions o = small_plan(Method::kTopK, 1000);
  o.adaptive = 1;
  const auto counts = [&](float shift0, float shift1) {
    std::vector<float> moved = scores;
    for (std::size_t i = 0; i < moved.size(); ++i) moved[i] += i < 4000 ? shift0 : shift1;
    std::vector<std::size_t> far(2);
    const Planned planned = plan_all(data, o, nullptr, &moved);
    for (std::size_t t = 0; t < planned.plan.reads.size(); ++t)
      far[static_cast<std::size_t>(planned.plan.tiles[t].head)] = planned.plan.reads[t].keys.size();
    return far;
  };
  const auto both = counts(-1e3f, -1e3f);  // neither head takes all
  EXPECT_GT(both[0], (both[0] + both[1]) / 3);
  EXPECT_GT(both[1], (both[0] + both[1]) / 3);
  EXPECT_EQ(counts(-1e3f, -2e3f), both) << "a shift says nothing";
  std::fill(scores.begin(), scores.end(), 0.0f);
  const auto alike = counts(-1, -1);
  EXPECT_NEAR(static_cast<double>(alike[0]), static_cast<double>(alike[1]), 300);
}

TEST(Selection, BadInputIsAnError) {
  const Case c{.n_q = 10, .n_kv = 2000};
  const Data data(c);
  const std::vector<float> scores = random_scores(c, 1);
  const auto plan = [&](auto&& change) {
    PlanOptions o = small_plan(Method::kTopK, 500);
    change(o);
    return plan_all(data, o, nullptr, &scores);
  };
  EXPECT_THROW(plan([](PlanOptions& o) { o.share = 1.5f; }), Error);
  EXPECT_THROW(plan([](PlanOptions& o) { o.share = std::nanf(""); }), Error);
  EXPECT_THROW(plan([](PlanOptions& o) { o.adaptive = -1; }), Error);
  EXPECT_THROW(plan([](PlanOptions& o) { o.least_score = std::nanf(""); }), Error);
  EXPECT_THROW(plan([](PlanOptions& o) { o.selection = static_cast<Selection>(9); }), Error);
  EXPECT_THROW(plan([](PlanOptions& o) { o.selection = Selection::kSample, o.adaptive = 0.5f; }),
               Error);
}

}  // namespace
}  // namespace prescore::test
