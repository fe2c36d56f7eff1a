// Contract 3: the same bits for any number of threads, every time.
#include <gtest/gtest.h>

#include <functional>
#include <thread>

#include "support/cases.h"

namespace prescore::test {
namespace {

// Runs `body` on a team of host threads.
void with_team(int width, const std::function<void(Executor&)>& body) {
  TeamExecutor team(width);
  std::vector<std::thread> threads;
  for (int ith = 1; ith < width; ++ith) threads.emplace_back([&, ith] { team.join(ith, [] {}); });
  team.join(0, [&] { body(team); });
  for (std::thread& t : threads) t.join();
}

class MethodThreads : public testing::TestWithParam<Method> {};
INSTANTIATE_TEST_SUITE_P(All, MethodThreads,
                         testing::Values(Method::kDense, Method::kWindow, Method::kTopK,
                                         Method::kRouted, Method::kHyper, Method::kPrescoredHyper),
                         [](const auto& param) { return to_string(param.param); });

TEST_P(MethodThreads, SameBits) {
  for (const DType type : {DType::kF32, DType::kF16}) {
    Case c;
    c.b = 2, c.h_q = 4, c.h_kv = 2, c.n_q = 200, c.n_kv = 700, c.d = 32, c.d_v = 24;
    c.kv_type = type;
    Options o;
    o.plan = small_plan(GetParam(), 200);
    o.plan.hyper.leaf = 128, o.plan.hyper.block = o.plan.hyper.samples = 16;
    o.plan.hyper.selected = 100, o.score.segment = 64;
    o.index = small_index();
    const auto run = [&](Data& data, Executor& executor) {
      const Report r =
          attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o, executor);
      EXPECT_EQ(r.counters.queries, 2 * 4 * 200);
      return r.counters;
    };
    Data one(c);
    const Counters counters = run(one, *make_serial_executor());
    const auto expect_same = [&](const std::function<Counters(Data&)>& other, const char* what) {
      Data data(c);
      const Counters got = other(data);
      EXPECT_TRUE(one.o.same_bits(data.o)) << what;
      EXPECT_TRUE(one.lse.same_bits(data.lse)) << what;
      EXPECT_EQ(counters.keys, got.keys) << what;
      EXPECT_EQ(counters.standins, got.standins) << what;
      EXPECT_EQ(counters.products, got.products) << what;
    };
    for (const int threads : {1, 2, 7}) {
      expect_same([&](Data& d) { return run(d, *make_executor(threads)); }, "tbb");
      expect_same(
          [&](Data& d) {
            Counters got;
            with_team(threads, [&](Executor& team) { got = run(d, team); });
            return got;
          },
          "team");
    }
    expect_same([&](Data& d) { return run(d, *make_executor(7)); }, "again");
  }
}

TEST(PlanThreads, SamePlan) {
  Case c;
  c.h_q = 4, c.h_kv = 2, c.n_q = 300, c.n_kv = 900, c.d = 32, c.kv_type = DType::kBF16;
  Data data(c);
  KeyIndex index(small_index());
  index.extend(data.k.view(), data.v.view(), *make_serial_executor());
  const PlanOptions o = small_plan(Method::kRouted, 200);
  const Planned want = plan_all(data, o, &index);
  for (const int threads : {2, 7}) {
    const auto executor = make_executor(threads);
    PlanInputs in = data.plan_inputs(executor->width());
    in.index = &index;
    const auto planner = make_planner(in, o);
    const Plan got = make_plan(data.inputs(), *planner, *executor);
    ASSERT_EQ(got.tiles.size(), want.plan.tiles.size());
    for (std::size_t t = 0; t < got.tiles.size(); ++t) {
      EXPECT_EQ(got.reads[t].keys, want.plan.reads[t].keys);
      EXPECT_EQ(got.reads[t].nodes, want.plan.reads[t].nodes);
      EXPECT_EQ(got.reads[t].ranges, want.plan.reads[t].ranges);
    }
  }
}

// Tiles share what was chosen before a boundary, also where nothing was.
TEST(PlanThreads, SamePlanWhereNothingIsChosen) {
  Case c;
  c.b = 2, c.h_q = 4, c.h_kv = 2, c.n_q = 900, c.n_kv = 3000, c.d = 8, c.d_v = 8;
  const Data data(c);
  const std::vector<float> scores(static_cast<std::size_t>(c.b * c.h_kv * c.n_kv), -1.0f);
  PlanOptions threshold = small_plan(Method::kTopK, 700);
  threshold.tile = 16, threshold.selection = Selection::kThreshold, threshold.least_score = 1;
  PlanOptions competing = threshold, drawn = threshold;
  competing.adaptive = 0.5f;
  drawn.selection = Selection::kSample;  // in proportion to negative scores
  for (const PlanOptions& o : {threshold, competing, drawn}) {
    const Planned want = plan_all(data, o, nullptr, &scores);
    const ScoreLevel level{0, scores.data(), c.n_kv};
    for (const int threads : {2, 7}) {
      const auto executor = make_executor(threads);
      PlanInputs in = data.plan_inputs(executor->width());
      in.scores = {&level, 1};
      const auto planner = make_planner(in, o);
      const Plan got = make_plan(data.inputs(), *planner, *executor);
      ASSERT_EQ(got.tiles.size(), want.plan.tiles.size());
      for (std::size_t t = 0; t < got.tiles.size(); ++t) {
        const TilePlan& reads = got.reads[t];
        EXPECT_TRUE(reads.keys.empty());
        EXPECT_EQ(reads.ranges, want.plan.reads[t].ranges);
        ASSERT_EQ(reads.ranges.size(), 2u) << "sinks and window";
        EXPECT_EQ(reads.ranges[1].begin % in.score_segment, 0) << "no far key may be read";
      }
    }
  }
}

// Calls from several threads at once share nothing that they write.
TEST(AttentionThreads, SeveralCallsAtOnce) {
  Case c;
  c.h_q = 2, c.n_q = 100, c.n_kv = 400, c.d = 32, c.kv_type = DType::kF16;
  Options o;
  o.plan = small_plan(Method::kRouted, 150);
  o.index = small_index();
  o.threads = 2;
  Data want(c);
  attention(want.q.view(), want.k.view(), want.v.view(), want.state(), o);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int r = 0; r < 5; ++r) {
        Data data(c);
        attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o);
        EXPECT_TRUE(want.o.same_bits(data.o));
      }
    });
  }
  for (std::thread& t : threads) t.join();
}

}  // namespace
}  // namespace prescore::test
