// The kernel against the oracle: sizes, dtypes, head shapes, layouts, arbitrary plans.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>

#include "common/isa.h"
#include "support/cases.h"

namespace prescore::test {
namespace {

void run_dense(Data& data, Executor& executor) {
  const auto planner = make_dense_planner(data.plan_inputs(executor.width()), {});
  attend(data.inputs(), *planner, data.state(), executor);
}
void run_dense(Data& data) { run_dense(data, *make_serial_executor()); }

constexpr std::int64_t kDims[] = {1,  3,  7,  8,  9,   15,  16,  17, 31,
                                  33, 64, 80, 96, 128, 256, 320, 512};

class AttendDims : public testing::TestWithParam<std::int64_t> {};
INSTANTIATE_TEST_SUITE_P(All, AttendDims, testing::ValuesIn(kDims));

TEST_P(AttendDims, EveryDtypeAndPrecision) {
  const std::int64_t d = GetParam();
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const Compute compute : {Compute::kAuto, Compute::kF32, Compute::kBF16}) {
      Case c;
      c.h_q = 2, c.n_q = 37, c.n_kv = 141, c.d = d, c.d_v = d, c.compute = compute;
      c.q_type = c.kv_type = c.o_type = type;
      c.seed = 100 + static_cast<std::uint64_t>(d);
      Data data(c);
      run_dense(data);
      expect_near_dense(data);
    }
  }
}

TEST_P(AttendDims, OtherSizeOfValues) {
  const std::int64_t d = GetParam();
  for (const std::int64_t d_v : {std::int64_t{1}, std::int64_t{24}, std::int64_t{65}, 513 - d}) {
    Case c;
    c.n_q = 19, c.n_kv = 90, c.d = d, c.d_v = d_v;
    c.kv_type = DType::kF16, c.order = Order::kPadded;
    Data data(c);
    run_dense(data);
    expect_near_dense(data);
  }
}

// What llama.cpp passes: f32 queries and results around an f16 cache.
TEST_P(AttendDims, OneQueryAsInDecoding) {
  for (const std::int64_t n_kv : {1, 2, 15, 16, 17, 127, 128, 129, 300}) {
    Case c;
    c.h_q = 3, c.h_kv = 1, c.n_q = 1, c.n_kv = n_kv, c.d = GetParam(), c.d_v = GetParam();
    c.kv_type = DType::kF16, c.order = Order::kTokens;
    Data data(c);
    run_dense(data);
    expect_near_dense(data);
  }
}

TEST(Attend, EveryShapeOfHeads) {
  for (const auto& [h_q, h_kv] :
       {std::pair{1, 1}, {4, 4}, {6, 2}, {14, 2}, {9, 3}, {8, 1}, {17, 1}}) {
    for (const Order order : {Order::kDense, Order::kTokens, Order::kPadded}) {
      for (const std::int64_t b : {1, 3}) {
        Case c;
        c.b = b, c.h_q = h_q, c.h_kv = h_kv, c.n_q = 21, c.n_kv = 50, c.d = 24, c.d_v = 20;
        c.q_type = DType::kBF16, c.kv_type = DType::kBF16, c.order = order;
        Data data(c);
        run_dense(data);
        expect_near_dense(data);
      }
    }
  }
}

TEST(Attend, EveryMixOfDtypes) {
  constexpr DType kAll[] = {DType::kF32, DType::kF16, DType::kBF16};
  for (const DType q : kAll) {
    for (const DType kv : kAll) {
      for (const DType o : kAll) {
        Case c;
        c.h_q = 2, c.n_q = 18, c.n_kv = 70, c.d = 40, c.d_v = 33;
        c.q_type = q, c.kv_type = kv, c.o_type = o;
        Data data(c);
        run_dense(data);
        expect_near_dense(data);
      }
    }
  }
}

TEST(Attend, RandomShapes) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    std::mt19937_64 random(seed);
    const auto draw = [&](std::int64_t low, std::int64_t high) {
      return std::uniform_int_distribution<std::int64_t>(low, high)(random);
    };
    Case c;
    c.b = draw(1, 2), c.h_kv = draw(1, 3), c.h_q = c.h_kv * draw(1, 5);
    c.n_q = draw(1, 80), c.n_kv = draw(1, 300), c.d = draw(1, 140), c.d_v = draw(1, 140);
    c.q_type = static_cast<DType>(draw(0, 2)), c.kv_type = static_cast<DType>(draw(0, 2));
    c.o_type = static_cast<DType>(draw(0, 2)), c.order = static_cast<Order>(draw(0, 2));
    c.causal = draw(0, 1) == 1, c.compute = static_cast<Compute>(draw(0, 2));
    c.peak = draw(0, 3) == 0 ? 8 : 1, c.seed = seed;
    SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << c);
    Data data(c);
    run_dense(data, *make_executor(2));
    expect_near_dense(data);
  }
}

// Any set of ranges, keys with weights and tiles; and the empty one.
TEST(Attend, RandomPlans) {
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    std::mt19937_64 random(seed);
    const auto draw = [&](std::int64_t low, std::int64_t high) {
      return std::uniform_int_distribution<std::int64_t>(low, high)(random);
    };
    Case c;
    c.h_q = 4, c.h_kv = 2, c.n_q = draw(1, 150), c.n_kv = c.n_q + draw(0, 300);
    c.d = draw(1, 100), c.d_v = draw(1, 100), c.kv_type = static_cast<DType>(draw(0, 2));
    c.order = static_cast<Order>(draw(0, 2)), c.seed = seed;
    SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << c);
    Data data(c);
    const std::int64_t together = draw(1, 2);
    Plan plan;
    for (std::int64_t h = 0; h < c.h_q; h += together) {
      for (std::int64_t first = 0; first < c.n_q;) {
        const std::int64_t last = std::min(c.n_q, first + draw(1, 70));
        const std::int64_t end = data.visibility().end(first);
        TilePlan reads;
        if (draw(0, 9) > 0) {
          reads.ranges = {{0, std::min<std::int64_t>(draw(0, 8), end)},
                          {end - draw(0, 3), end + 200}};
          if (reads.ranges[1].begin < reads.ranges[0].end) reads.ranges.pop_back();
          const std::int64_t begin = reads.ranges[0].end;
          const std::int64_t stop = reads.ranges.size() > 1 ? reads.ranges[1].begin : end;
          for (std::int64_t j = begin; j < stop; j += draw(1, 9)) {
            reads.keys.push_back(static_cast<std::int32_t>(j));
          }
          std::ranges::shuffle(reads.keys, random);
          if (draw(0, 1) == 1) {
            for (std::size_t i = 0; i < reads.keys.size(); ++i) {
              reads.log_weights.push_back(static_cast<float>(draw(-3, 3)) * 0.5f);
            }
          }
        }
        plan.tiles.push_back({0, h, first, last});
        plan.tiles.back().heads = together;
        plan.reads.push_back(reads);
        first = last;
      }
    }
    attend(data.inputs(), plan, data.state(), *make_executor(2));
    expect_near_plan(data, plan);
  }
}

TEST(Attend, StandInsAreNodesOfTheIndex) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const std::int64_t n_q : {1, 40}) {
      Case c;
      c.b = 2, c.h_q = 6, c.h_kv = 2, c.n_q = n_q, c.n_kv = 200, c.d = 48, c.d_v = 56;
      c.kv_type = type;
      Data data(c);
      KeyIndex index(small_index());
      index.extend(data.k.view(), data.v.view(), *make_serial_executor());
      Plan plan;
      for (std::int64_t b = 0; b < c.b; ++b) {
        for (std::int64_t h = 0; h < c.h_q; ++h) {
          TilePlan reads;
          reads.ranges = {{0, 4}, {128, 200}};
          for (std::int32_t node = 0; node < 2 * index.nodes_per_segment(); ++node) {
            if (index.count(b, h / 3, node) > 0 && node % 3 == 0) reads.nodes.push_back(node);
          }
          plan.tiles.push_back({b, h, 0, n_q});
          plan.reads.push_back(reads);
        }
      }
      AttendInputs in = data.inputs();
      in.index = &index;
      attend(in, plan, data.state(), *make_serial_executor());
      expect_near_plan(data, plan, &index);
    }
  }
}

// The budget is worth something: it notices one key of 150 missing, or read twice.
TEST(Attend, BudgetNoticesOneKey) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const bool twice : {false, true}) {
      Case c;
      c.n_q = 40, c.n_kv = 150, c.d = 64, c.d_v = 64, c.kv_type = type, c.causal = false;
      Data data(c);
      Plan plan;
      plan.tiles = {{0, 0, 0, 40}};
      plan.reads.resize(1);
      plan.reads[0].ranges = {{0, 77}, {twice ? 76 : 78, 150}};
      attend(data.inputs(), plan, data.state(), *make_serial_executor());
      expect_near_plan(data, plan);
      std::string report;
      EXPECT_GT(rows_outside_budget(
                    data,
                    [](const reference::Problem& p, const reference::VisitRow& visit) {
                      reference::for_each_row(p, visit);
                    },
                    report),
                type == DType::kF32 ? 38 : 20);
    }
  }
}

TEST(Attend, LseMayBeNull) {
  Data with(Case{.n_q = 9, .n_kv = 30}), without(Case{.n_q = 9, .n_kv = 30});
  run_dense(with);
  const auto planner = make_dense_planner(without.plan_inputs(), {});
  attend(without.inputs(), *planner, {without.o.out(), nullptr}, *make_serial_executor());
  EXPECT_TRUE(with.o.same_bits(without.o));
}

TEST(Attend, CountsWhatItReads) {
  Case c;
  c.b = 2, c.h_q = 4, c.h_kv = 2, c.n_q = 50, c.n_kv = 80;
  Data data(c);
  const auto planner = make_dense_planner(data.plan_inputs(), {});
  const Counters counters = attend(data.inputs(), *planner, data.state(), *make_serial_executor());
  EXPECT_EQ(counters.queries, 2 * 4 * 50);
  EXPECT_EQ(counters.keys, 2 * 4 * (31 + 80) * 50 / 2);
  EXPECT_EQ(counters.visible, counters.keys);
  EXPECT_EQ(counters.standins, 0);
}

}  // namespace
}  // namespace prescore::test
