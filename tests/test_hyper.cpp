// HyperAttention: hashing, sampling, what is read, and the output against the oracle.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <map>
#include <numbers>
#include <set>

#include "plan/lsh.h"
#include "support/reads.h"

namespace prescore::test {
namespace {

TEST(Lsh, NeighbouringBucketsDifferInOneBit) {
  for (std::uint32_t place = 0; place < 65536; ++place) {
    ASSERT_EQ(hamming_place(hamming_code(place)), place);
    const std::uint32_t changed = hamming_code(place) ^ hamming_code(place + 1);
    ASSERT_EQ(changed & (changed - 1), 0u) << place;
    ASSERT_NE(changed, 0u);
  }
}

// Two vectors at angle a differ in each bit with probability a / pi.
TEST(Lsh, CollisionsFollowTheAngle) {
  constexpr std::int64_t kD = 24, kBits = 16, kSeeds = 400;
  for (const double angle : {0.0, 0.3, 1.0, 1.5707963, 2.4, 3.1415926}) {
    Storage x(DType::kF32, {1, 1, 2, kD});
    x.fill_row(0, 0, 0, 0);
    x.fill_row(0, 0, 1, 0);
    x.set(0, 0, 0, 3, 2.0);
    x.set(0, 0, 1, 3, 5 * std::cos(angle));
    x.set(0, 0, 1, 9, 5 * std::sin(angle));
    int differ = 0;
    const float origin[kBits] = {};
    for (std::uint64_t seed = 0; seed < kSeeds; ++seed) {
      const AngularHash hash(kBits, kD, seed);
      float products[2 * kBits];
      hash.project(x.view(), 0, 0, 0, 2, products);
      differ += std::popcount(hash.code(products, origin) ^ hash.code(products + kBits, origin));
    }
    const double n = kBits * kSeeds, p = angle / std::numbers::pi;
    EXPECT_NEAR(differ / n, p, 3.5 * std::sqrt(p * (1 - p) / n) + 1e-6) << "angle " << angle;
  }
}

struct Trial {
  Data data;
  PlanOptions options;
  std::vector<float> scores;
  mutable ScoreLevel level;

  std::unique_ptr<Planner> planner() const {
    PlanInputs in = data.plan_inputs();
    level = {0, scores.data(), in.visibility.n_kv};
    in.scores = {&level, 1}, in.score_segment = 16;
    return make_planner(in, options);
  }
};

Trial random_trial(std::uint64_t seed, Method method) {
  std::mt19937_64 random(seed);
  const auto draw = [&](std::int64_t low, std::int64_t high) {
    return std::uniform_int_distribution<std::int64_t>(low, high)(random);
  };
  Case c;
  c.b = draw(1, 2), c.h_kv = draw(1, 2), c.h_q = c.h_kv * draw(1, 3);
  c.n_kv = draw(1, 900), c.n_q = draw(1, std::min<std::int64_t>(c.n_kv, 300));
  c.d = draw(1, 40), c.d_v = draw(1, 20), c.kv_type = static_cast<DType>(draw(0, 2));
  c.causal = draw(0, 3) > 0, c.seed = seed, c.compute = Compute::kF32;
  PlanOptions o = small_plan(method, draw(1, 200));
  o.tile = 16 * draw(1, 2), o.window = draw(1, 60), o.sinks = draw(0, 4);
  o.routing = static_cast<Routing>(draw(0, 1)), o.seed = seed;
  o.hyper = {.projections = draw(1, 7),
             .block = draw(0, 40),
             .samples = draw(0, 40),
             .leaf = o.tile * draw(1, 4),
             .centred = draw(0, 1) == 1,
             .selected = draw(1, 300)};
  if (seed % 5 == 1) o.hyper.samples = 0;
  if (seed % 7 == 1) o.hyper.block = 0;  // seeds 1 and 36: neither
  if (seed % 3 == 0) o.selection = Selection::kSample, o.sample_weights = true;
  return {Data(c), o, random_scores(c, seed), {}};
}

std::map<Query, Reads> reads_of(const Trial& t, const Plan& plan) {
  return reads_by_query(t.data.shape, t.data.visibility(), plan);
}

class Hyper : public testing::TestWithParam<Method> {};
INSTANTIATE_TEST_SUITE_P(Both, Hyper, testing::Values(Method::kHyper, Method::kPrescoredHyper),
                         [](const auto& param) { return to_string(param.param); });

TEST_P(Hyper, ReadsEveryKeyAtMostOnceAndAgreesWithTheOracle) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    Trial t = random_trial(seed, GetParam());
    SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << t.data.shape << " leaf "
                                    << t.options.hyper.leaf << " budget " << t.options.budget);
    const auto planner = t.planner();
    const auto serial = make_serial_executor();
    const Plan plan = make_plan(t.data.inputs(), *planner, *serial);
    const auto reads = reads_of(t, plan);
    const Case& c = t.data.shape;
    ASSERT_EQ(static_cast<std::int64_t>(reads.size()), c.b * c.h_q * c.n_q);
    const Counters counters = attend(t.data.inputs(), *planner, t.data.state(), *serial);
    std::int64_t keys = 0;
    for (const auto& [query, r] : reads) keys += static_cast<std::int64_t>(r.size());
    EXPECT_EQ(counters.keys, keys);
    EXPECT_EQ(counters.queries, c.b * c.h_q * c.n_q);
    t.data.shape.parts = static_cast<double>(planner->parts());
    expect_near_plan(t.data, plan);
    Data again(c);
    attend(t.data.inputs(), plan, again.state(), *serial);
    EXPECT_TRUE(again.o.same_bits(t.data.o));
    if (HasFailure()) return;
  }
}

// The budget is of a typical row; among many, one whose few heavy samples round alike may exceed
// it.
TEST_P(Hyper, Bf16ProductsAgreeWithTheOracle) {
  Trial t = random_trial(1, GetParam());
  Case c;
  c.h_q = 4, c.h_kv = 2, c.n_q = 400, c.n_kv = 1000, c.d = c.d_v = 64;
  c.compute = Compute::kBF16, c.kv_type = c.q_type = DType::kBF16;
  t.data = Data(c);
  t.scores = random_scores(c, 1);
  t.options = small_plan(GetParam(), 100);
  t.options.hyper = {.projections = 4, .block = 40, .samples = 40, .leaf = 128, .selected = 300};
  const auto planner = t.planner();
  const auto serial = make_serial_executor();
  const Plan plan = make_plan(t.data.inputs(), *planner, *serial);
  attend(t.data.inputs(), *planner, t.data.state(), *serial);
  t.data.shape.parts = static_cast<double>(planner->parts());
  std::string report;
  EXPECT_LE(rows_outside_budget(
                t.data,
                [&](const reference::Problem& p, const reference::VisitRow& visit) {
                  reference::for_each_row(p, plan, nullptr, visit);
                },
                report),
            2)
      << report;
}

// Every rest is sampled or read: the weights of what a query reads add up to all it sees.
TEST_P(Hyper, WeightsAddUpToWhatIsVisible) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    Trial t = random_trial(seed, GetParam());
    t.options.hyper.samples = 5, t.options.hyper.selected = 1000;
    const auto planner = t.planner();
    const Plan plan = make_plan(t.data.inputs(), *planner, *make_serial_executor());
    for (const auto& [query, reads] : reads_of(t, plan)) {
      double sum = 0;
      for (const auto& [key, weight] : reads) sum += std::exp(double{weight});
      const double visible =
          static_cast<double>(t.data.shape.causal ? std::get<2>(query) + 1 : t.data.shape.n_kv);
      ASSERT_NEAR(sum, visible, 1e-4 * visible) << seed;
    }
  }
}

// Sums over the softmax before it is normalised are estimated without bias.
void expect_unbiased(const Case& c, PlanOptions o, const std::vector<float>& scores = {}) {
  Trial t{Data(c), o, scores, {}};
  const reference::Result dense = reference::dense(t.data.problem());
  constexpr int kSeeds = 600;
  std::vector<double> sum(6 * 3), squares(6 * 3);
  for (int seed = 0; seed < kSeeds; ++seed) {
    t.options.seed = static_cast<std::uint64_t>(seed);
    attend(t.data.inputs(), *t.planner(), t.data.state(), *make_serial_executor());
    for (std::int64_t row = 0; row < 6; ++row) {
      const double mass = std::exp(t.data.lse.get(0, row / 3, row % 3, 0));
      for (std::int64_t x = 0; x < 3; ++x) {  // the mass, and the mass times each value
        const double got = x == 0 ? mass : mass * t.data.o.get(0, row / 3, row % 3, x - 1);
        sum[static_cast<std::size_t>(row * 3 + x)] += got;
        squares[static_cast<std::size_t>(row * 3 + x)] += got * got;
      }
    }
  }
  for (std::size_t i = 0; i < sum.size(); ++i) {
    const double mass = std::exp(dense.lse[i / 3]);
    const double want = i % 3 == 0 ? mass : mass * dense.o.data[i / 3 * 2 + i % 3 - 1];
    const double mean = sum[i] / kSeeds;
    const double error = std::sqrt((squares[i] / kSeeds - mean * mean) / (kSeeds - 1));
    ASSERT_GT(error, 0);
    EXPECT_LT(error, 0.02 * mass) << "a test that sees no bias";
    EXPECT_LT(std::abs(mean - want), 3 * error) << "entry " << i;
  }
}

constexpr Case kSampled{.h_q = 2, .n_q = 3, .n_kv = 500, .d = 8, .d_v = 2};

TEST(HyperSampling, UnbiasedOverSeeds) {
  Case c = kSampled;
  PlanOptions o = small_plan(Method::kHyper, 16);
  o.hyper = {.projections = 3, .block = 30, .samples = 40, .leaf = 32};
  for (const bool causal : {false, true}) {
    SCOPED_TRACE(causal);
    c.causal = causal;
    expect_unbiased(c, o);
  }
}

// Keys drawn in proportion to their score stand for those that were not, in the block and in the
// sample of the rest.
TEST(HyperSampling, DrawnKeysWithWeightsAreUnbiased) {
  Case c = kSampled;
  std::vector<float> scores = random_scores(c, 4);
  for (float& s : scores) s += 100;  // none that is hardly ever drawn
  PlanOptions o = small_plan(Method::kPrescoredHyper, 16);
  o.selection = Selection::kSample, o.sample_weights = true;
  o.hyper = {.projections = 3, .block = 30, .samples = 40, .leaf = 32, .selected = 200};
  for (const bool causal : {false, true}) {
    SCOPED_TRACE(causal);
    c.causal = causal;
    expect_unbiased(c, o, scores);
  }
}

TEST_P(Hyper, SizesFromTheBudgetKeepToIt) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    Trial t = random_trial(seed, GetParam());
    t.options.hyper.leaf = 0, t.options.budget += t.options.sinks + 16;
    if (seed % 3 == 0) t.options.sinks = 300, t.options.budget = 316;  // less than a tile is left
    const auto planner = t.planner();
    const Plan plan = make_plan(t.data.inputs(), *planner, *make_serial_executor());
    for (const auto& [query, reads] : reads_of(t, plan))
      ASSERT_LE(static_cast<std::int64_t>(reads.size()), t.options.budget)
          << "seed " << seed << " position " << std::get<2>(query);
  }
}

TEST_P(Hyper, WholeBudgetIsDense) {
  for (const bool causal : {false, true}) {
    for (const DType type : {DType::kF32, DType::kF16}) {
      Case c;
      c.b = 2, c.h_q = 4, c.h_kv = 2, c.n_q = 70, c.n_kv = 700, c.causal = causal;
      c.kv_type = c.o_type = type;
      Data data(c);
      Options o;
      o.plan = small_plan(GetParam(), c.n_kv);
      o.plan.hyper.leaf = type == DType::kF32 ? 512 : 0, o.causal = causal;
      const Report report = attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o);
      EXPECT_EQ(report.counters.keys, report.counters.visible);
      expect_near_dense(data);
      o.plan.budget = 100;  // and without it, in whatever dtype the output has
      o.plan.dense_until = c.n_kv;
      attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o);
      expect_near_dense(data);
    }
  }
}

// Not because the budget is so large that nothing is chosen: blocks or samples take whole spans.
TEST_P(Hyper, WholeSpansAreDense) {
  for (const bool causal : {false, true})
    for (const Routing routing : {Routing::kTile, Routing::kStrict})
      for (const std::int64_t block : {0, 8, 700}) {
        Case c;
        c.b = 2, c.h_q = 4, c.h_kv = 2, c.n_q = 70, c.n_kv = 700, c.causal = causal;
        Trial t{Data(c), small_plan(GetParam(), 1), random_scores(c, 1), {}};
        t.options.routing = routing;
        t.options.hyper = {
            .block = block, .samples = block < 700 ? 700 : 0, .leaf = 64, .selected = 700};
        const auto planner = t.planner();
        EXPECT_GT(planner->parts(), 1);
        const Counters counters =
            attend(t.data.inputs(), *planner, t.data.state(), *make_serial_executor());
        EXPECT_EQ(counters.keys, counters.visible);
        t.data.shape.parts = static_cast<double>(planner->parts());
        expect_near_dense(t.data);
      }
}

// One bucket holds every key. All weigh alike, so that the weights give the lse of dense attention.
TEST_P(Hyper, EqualKeys) {
  for (const bool centred : {false, true})
    for (const double x : {0.0, 1.0, -3.0}) {
      Case c;
      c.h_q = 2, c.n_q = 100, c.n_kv = 600;
      Trial t{Data(c), small_plan(GetParam(), 1), std::vector<float>(600, 1.0f), {}};
      for (std::int64_t j = 0; j < c.n_kv; ++j) t.data.k.fill_row(0, 0, j, x);
      t.options.hyper = {
          .block = 20, .samples = 30, .leaf = 64, .centred = centred, .selected = 600};
      const auto planner = t.planner();
      const auto serial = make_serial_executor();
      const Plan plan = make_plan(t.data.inputs(), *planner, *serial);
      attend(t.data.inputs(), *planner, t.data.state(), *serial);
      t.data.shape.parts = static_cast<double>(planner->parts());
      expect_near_plan(t.data, plan);
      const reference::Result dense = reference::dense(t.data.problem());
      for (std::int64_t i = 0; i < 200; ++i)
        ASSERT_NEAR(t.data.lse.get(0, i / 100, i % 100, 0), dense.lse[static_cast<std::size_t>(i)],
                    1e-4);
    }
}

TEST(PrescoredHyper, HasNoBudgetsThatCompete) {
  Trial t = random_trial(7, Method::kPrescoredHyper);
  t.options.adaptive = 0.5f;
  EXPECT_THROW(t.planner(), Error);
}

// Prescored with every key selected is HyperAttention; with few, only those are read far back.
TEST(PrescoredHyper, ReadsOnlySelectedKeysFarBack) {
  Trial t = random_trial(7, Method::kPrescoredHyper);
  Case c;
  c.n_q = 64, c.n_kv = 640;
  t.data = Data(c);
  t.scores.assign(640, 0.0f);
  for (std::size_t j = 100; j < 110; ++j) t.scores[j] = 1.0f + static_cast<float>(j);
  t.options = small_plan(Method::kPrescoredHyper, 50);
  t.options.hyper = {.block = 8, .samples = 2, .leaf = 64, .selected = 10};
  const auto planner = t.planner();
  for (const auto& [query, reads] :
       reads_of(t, make_plan(t.data.inputs(), *planner, *make_serial_executor()))) {
    std::int64_t far = 0;
    const std::int64_t tile_first = std::get<2>(query) / 32 * 32;
    const std::int64_t local = (tile_first + 1 - t.options.window) / 64 * 64;
    for (const auto& [key, weight] : reads) {
      if (key < t.options.sinks || key >= local) continue;
      ++far;
      EXPECT_TRUE(key >= 100 && key < 110) << key;
    }
    EXPECT_EQ(far, 10);
  }
}

// What the published code does otherwise (PublishedFlaws), one by one.
class Flaws : public testing::Test {
 protected:
  Flaws() : t_(random_trial(7, Method::kPrescoredHyper)) {
    Case c;
    c.n_q = 64, c.n_kv = 640;
    t_.data = Data(c);
    t_.scores = random_scores(c, 5);
    t_.options = small_plan(Method::kPrescoredHyper, 50);
    t_.options.hyper = {.projections = 4, .block = 12, .samples = 1000, .leaf = 64, .selected = 90};
  }
  Plan plan() {
    planner_ = t_.planner();  // its lanes are in the plan
    return make_plan(t_.data.inputs(), *planner_, *make_serial_executor());
  }
  // exp(lse) of one head's queries.
  std::vector<double> masses() {
    const auto planner = t_.planner();
    attend(t_.data.inputs(), *planner, t_.data.state(), *make_serial_executor());
    std::vector<double> mass;
    for (std::int64_t i = 0; i < 64; ++i) mass.push_back(std::exp(t_.data.lse.get(0, 0, i, 0)));
    return mass;
  }
  Trial t_;
  std::unique_ptr<Planner> planner_;
};

TEST_F(Flaws, ZeroedKeysAddOneEachToTheSoftmax) {
  const std::vector<double> clean = masses();
  const auto reads = reads_of(t_, plan());
  t_.options.flaws.zeroed = true;  // with all samples that there are: every removed key is read
  const std::vector<double> flawed = masses();
  for (std::int64_t i = 0; i < 64; ++i) {
    const std::int64_t position = 576 + i;
    const auto kept = static_cast<std::int64_t>(reads.at({0, 0, position}).size());
    const auto at = static_cast<std::size_t>(i);
    EXPECT_LT(kept, position - 300) << "the case removes nothing";
    const double removed = static_cast<double>(position + 1 - kept);
    EXPECT_NEAR(flawed[at], clean[at] + removed, 1e-3 * flawed[at]) << position;
  }
}

TEST_F(Flaws, SamplesRepeatKeysOfTheBlock) {
  t_.options.hyper.samples = 40;
  const auto twice = [&] {
    int n = 0;
    for (const TilePlan& reads : plan().reads) {
      const std::set<std::int32_t> once(reads.keys.begin(), reads.keys.end());
      n += static_cast<int>(reads.keys.size() - once.size());
    }
    return n;
  };
  EXPECT_EQ(twice(), 0);
  t_.options.flaws.repeats = true;
  EXPECT_GT(twice(), 50);
}

TEST_F(Flaws, PaddingFillsTheLastBlock) {
  const auto rows = [&] {
    float most = 0;
    for (const TilePlan& reads : plan().reads) most = std::max(most, reads.zero_rows);
    return most;
  };
  EXPECT_EQ(rows(), 0);
  t_.options.flaws.padding = true;
  EXPECT_GT(rows(), 0);
  EXPECT_LT(rows(), 12);
}

TEST(FlattenedScores, AreOfTheKeysOfAllHeads) {
  for (const std::int64_t heads : {1, 2}) {
    Case c;
    c.h_q = c.h_kv = heads, c.n_q = c.n_kv = 900, c.order = Order::kTokens;
    Data own(c), flattened(c);
    Options o;
    o.plan = small_plan(Method::kTopK, 100);
    o.plan.score = Score::kLeverage, o.score.segment = 64;
    attention(own.q.view(), own.k.view(), own.v.view(), own.state(), o);
    o.plan.flaws.flattened = true;
    attention(flattened.q.view(), flattened.k.view(), flattened.v.view(), flattened.state(), o);
    EXPECT_EQ(own.o.same_bits(flattened.o), heads == 1);
  }
}

TEST(HyperThread, SameBitsForAnyNumberOfThreads) {
  Case c;
  c.h_q = 4, c.h_kv = 2, c.n_q = c.n_kv = 900, c.kv_type = DType::kBF16;
  Data one(c), many(c);
  PlanOptions o = small_plan(Method::kHyper, 64);
  o.hyper = {.projections = 5, .block = 20, .samples = 20, .leaf = 128};
  const auto planner = make_planner(one.plan_inputs(8), o);
  attend(one.inputs(), *planner, one.state(), *make_serial_executor());
  attend(many.inputs(), *planner, many.state(), *make_executor(5));
  EXPECT_TRUE(one.o.same_bits(many.o));
  EXPECT_TRUE(one.lse.same_bits(many.lse));
}

TEST_P(Hyper, BadKeysStayInTheirHead) {
  Case c;
  c.h_q = c.h_kv = 2, c.n_q = c.n_kv = 1200;
  Data clean(c), dirty(c);
  for (const std::int64_t i : {0, 77, 700}) dirty.k.fill_row(0, 1, i, std::nan(""));
  Options o;
  o.plan = small_plan(GetParam(), 64);
  o.plan.hyper = {.projections = 4, .block = 30, .samples = 10, .leaf = 512, .selected = 200};
  attention(clean.q.view(), clean.k.view(), clean.v.view(), clean.state(), o);
  attention(dirty.q.view(), dirty.k.view(), dirty.v.view(), dirty.state(), o);
  for (std::int64_t i = 0; i < c.n_q; ++i) ASSERT_TRUE(clean.o.same_row(dirty.o, 0, 0, i)) << i;
}

TEST(HyperErrors, BadSizes) {
  Case c;
  c.n_q = c.n_kv = 100;
  const Data data(c);
  const auto make = [&](const HyperOptions& h, Method method = Method::kHyper) {
    PlanOptions o = small_plan(method, 16);
    o.hyper = h;
    return make_planner(data.plan_inputs(), o);
  };
  const std::int64_t least = std::numeric_limits<std::int64_t>::min();
  EXPECT_THROW(make({.projections = 0}), Error);
  EXPECT_THROW(make({.projections = 17}), Error);
  EXPECT_THROW(make({.block = -1}), Error);
  EXPECT_THROW(make({.samples = least}), Error);
  EXPECT_THROW(make({.leaf = -1}), Error);
  EXPECT_THROW(make({.leaf = 0}), Error) << "a budget of 16 with 4 sinks has no room for a leaf";
  EXPECT_THROW(make({.leaf = 33}), Error);
  EXPECT_THROW(make({.selected = 0}), Error);
  EXPECT_NO_THROW(make({.block = 0, .samples = 0, .leaf = 32}));
}

// A plan of several parts needs somewhere to go on from.
TEST(HyperErrors, OutputsThatPartsCannotGoOnFrom) {
  Case c;
  c.n_q = c.n_kv = 300, c.o_type = DType::kF16;
  Data data(c);
  PlanOptions o = small_plan(Method::kHyper, 16);
  o.hyper.leaf = 64;
  const auto planner = make_planner(data.plan_inputs(), o);
  const auto serial = make_serial_executor();
  EXPECT_THROW(attend(data.inputs(), *planner, data.state(), *serial), Error);
  c.o_type = DType::kF32;
  Data floats(c);
  EXPECT_THROW(attend(floats.inputs(), *planner, {floats.o.out(), nullptr}, *serial), Error);
}

}  // namespace
}  // namespace prescore::test
