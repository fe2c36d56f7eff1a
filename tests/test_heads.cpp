// Budgets by head: every head reads what a call with its budget alone would read.
#include <gtest/gtest.h>

#include <algorithm>
#include <map>
#include <set>

#include "plan/planners.h"
#include "support/allocation.h"
#include "support/cases.h"

namespace prescore::test {
namespace {

constexpr HeadBudget kAsCall{}, kAllKeys{Method::kDense, 0};

Case grouped(std::int64_t h_kv, std::int64_t group, std::int64_t n_q, std::int64_t n_kv) {
  Case c;
  c.h_kv = h_kv, c.h_q = h_kv * group, c.n_q = n_q, c.n_kv = n_kv;
  c.d = 24, c.d_v = 16, c.b = 2, c.seed = 7;
  return c;
}

// Keys that each query reads, nodes as ~node: [b][head][query].
using Reads = std::map<std::array<std::int64_t, 3>, std::set<std::int64_t>>;

Reads reads_of(const Data& data, const Plan& plan) {
  Reads all;
  for (std::size_t t = 0; t < plan.tiles.size(); ++t) {
    const Tile& tile = plan.tiles[t];
    for (std::int64_t h = 0; h < tile.heads; ++h)
      for (std::int64_t i = tile.first; i < tile.last; ++i) {
        const auto [at, fresh] = all.insert({{tile.batch, tile.head_at(h), i}, {}});
        EXPECT_TRUE(fresh) << "a query in two tiles";
        const std::int64_t end = data.visibility().end(i);
        for (const Range& r : plan.reads[t].ranges)
          for (std::int64_t j = r.begin; j < std::min(r.end, end); ++j) at->second.insert(j);
        at->second.insert(plan.reads[t].keys.begin(), plan.reads[t].keys.end());
        for (const std::int32_t node : plan.reads[t].nodes) at->second.insert(~std::int64_t{node});
      }
  }
  return all;
}

struct Mix {
  const char* name;
  std::vector<HeadBudget> heads;  // of a group; repeated over the groups, rotated by one each
};
const Mix kMixes[] = {
    {"AsTheCall", {kAsCall, kAsCall, kAsCall}},
    {"OneDense", {kAsCall, kAllKeys, kAsCall}},
    {"Windows", {{Method::kWindow, 100}, kAsCall, {Method::kWindow, 0}}},
    {"More", {kAsCall, {Method::kRouted, 400}, {Method::kRouted, 300}}},
    {"AllKinds", {{Method::kTopK, 250}, kAllKeys, {Method::kRouted, 400}}},
};

std::vector<HeadBudget> spread(const Mix& mix, std::int64_t h_kv) {
  std::vector<HeadBudget> all;
  for (std::int64_t g = 0; g < h_kv; ++g)
    for (std::size_t i = 0; i < mix.heads.size(); ++i)
      all.push_back(mix.heads[(i + static_cast<std::size_t>(g)) % mix.heads.size()]);
  return all;
}

class Heads : public testing::TestWithParam<Mix> {
 protected:
  void SetUp() override {
    options_ = small_plan(Method::kRouted, 200);
    options_.heads = spread(GetParam(), 2);
  }
  Planned planned(const Data& data, const PlanOptions& o) {
    index_ = KeyIndex(small_index());
    index_.extend(data.k.view(), data.v.view(), *make_serial_executor());
    scores_ = random_scores(data.shape, 3);
    return plan_all(data, o, &index_, &scores_);
  }
  PlanOptions options_;
  KeyIndex index_;
  std::vector<float> scores_;
};
INSTANTIATE_TEST_SUITE_P(All, Heads, testing::ValuesIn(kMixes),
                         [](const auto& param) { return param.param.name; });

// A head that chooses for itself reads what it reads in a call where all choose for themselves;
// those that choose together are compared where all heads of the group do.
TEST_P(Heads, ReadWhatACallWithTheirBudgetReads) {
  for (const Routing routing : {Routing::kTile, Routing::kStrict}) {
    const Data data(grouped(2, 3, routing == Routing::kTile ? 160 : 9, 900));
    PlanOptions mixed = options_;
    mixed.routing = routing;
    const Reads got = reads_of(data, planned(data, mixed).plan);
    EXPECT_EQ(got.size(), static_cast<std::size_t>(2 * 6 * data.shape.n_q));
    const ResolvedBudgets budgets = resolve_heads(mixed, 6, 2);
    for (std::int64_t h = 0; h < 6; ++h) {
      const ResolvedBudget& b = budgets[static_cast<std::size_t>(h)];
      const auto group = budgets.begin() + h / 3 * 3;
      const bool all = std::all_of(group, group + 3, [&](const auto& x) { return x == b; });
      if (b.method == Method::kRouted && !b.alone && !all) continue;
      PlanOptions one = mixed;
      one.heads.clear();
      one.method = b.method, one.heads_together = !b.alone;
      if (b.method != Method::kDense) one.budget = b.keys;
      const Reads want = reads_of(data, planned(data, one).plan);
      for (const auto& [at, keys] : want) {
        if (at[1] == h) {
          ASSERT_EQ(got.at(at), keys) << "head " << h << ", query " << at[2];
        }
      }
    }
  }
}

TEST_P(Heads, AreNearTheOracle) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    Case c = grouped(2, 3, 130, 700);
    c.kv_type = type;
    Data data(c);
    const Planned p = planned(data, options_);
    AttendInputs in = data.inputs();
    in.index = &index_;
    attend(in, p.plan, data.state(), *make_serial_executor());
    expect_near_plan(data, p.plan, &index_);
  }
}

// The call plans and attends by itself: the same bits as the plan that was looked at, for any
// number of threads, and the budget of each head is kept.
TEST_P(Heads, CallsDoAsTheirPlansSay) {
  Data data(grouped(2, 3, 130, 700)), again(data.shape);
  Options o;
  o.plan = options_, o.index = small_index(), o.plan.method = Method::kRouted;
  if (takes(o.plan, Method::kTopK)) o.plan.score = Score::kKeyNorm;
  const auto one = make_serial_executor(), four = make_executor(4);
  const Report report =
      attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o, *one);
  attention(data.q.view(), data.k.view(), data.v.view(), again.state(), o, *four);
  EXPECT_TRUE(data.o.same_bits(again.o));
  EXPECT_TRUE(data.lse.same_bits(again.lse));
  const Prepared call =
      prepare(data.q.view(), data.k.view(), data.v.view(), data.visibility(), {}, o, *one);
  const Plan plan = make_plan(call.in, *call.planner, *one);
  std::int64_t keys = 0;
  const ResolvedBudgets budgets = resolve_heads(o.plan, 6, 2);
  for (const auto& [at, read] : reads_of(data, plan)) {
    const auto n = std::count_if(read.begin(), read.end(), [](std::int64_t j) { return j >= 0; });
    keys += n;
    const ResolvedBudget& b = budgets[static_cast<std::size_t>(at[1])];
    if (b.method != Method::kDense) {
      EXPECT_LE(n, b.keys);
    }
  }
  EXPECT_EQ(report.counters.queries, 2 * 6 * 130);
  EXPECT_EQ(report.counters.keys, keys);
  EXPECT_NE(report.choice.reason.find("heads have budgets of their own"), std::string::npos);
}

TEST_P(Heads, ChunksReadTheSame) {
  const auto executor = make_serial_executor();
  Options o;
  o.plan = options_, o.index = small_index(), o.plan.method = Method::kRouted;
  o.plan.dense_until = 300;  // no multiple of the tile
  o.plan.score = Score::kKeyNorm, o.score.segment = 64;
  const auto run = [&](Data& data, const std::vector<std::int64_t>& ends) {
    KeyIndex index(o.index);
    std::int64_t from = 0;
    for (const std::int64_t to : ends) {
      const auto part = [&](auto t, std::int64_t first, std::int64_t last) {
        const std::int64_t step = t.stride[2] * size_of(t.dtype);
        if constexpr (std::is_same_v<decltype(t), Tensor>)
          t.data = static_cast<const std::byte*>(t.data) + first * step;
        else
          t.data = static_cast<std::byte*>(t.data) + first * step;
        t.shape[2] = last - first;
        return t;
      };
      Visibility v;
      v.n_q = to - from, v.n_kv = to;
      attention(part(data.q.view(), from, to), part(data.k.view(), 0, to),
                part(data.v.view(), 0, to), v, {&index},
                State{part(data.o.out(), from, to), nullptr}, o, *executor);
      from = to;
    }
  };
  Case c = grouped(2, 3, 768, 768);
  Data whole(c), chunked(c);
  run(whole, {768});
  run(chunked, {256, 512, 768});  // multiples of every tile, also of dense
  EXPECT_TRUE(whole.o.same_bits(chunked.o));
}

TEST_P(Heads, WorkspaceBoundsThem) {
  if (!PeakMemory::works()) GTEST_SKIP() << "a sanitizer owns the allocator";
  for (const auto& [n_q, n_kv] : {std::pair<std::int64_t, std::int64_t>{64, 4000}, {2000, 2000}}) {
    Case c = grouped(2, 3, n_q, n_kv);
    c.kv_type = DType::kF16;
    Data data(c);
    Options o;
    o.plan = options_;
    o.plan.tile = 128;
    const auto executor = make_serial_executor();
    const std::int64_t bound = workspace_bytes(data.q.view(), data.k.view(), data.v.view(), o, 1);
    const PeakMemory peak;
    attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o, *executor);
    EXPECT_LE(peak.bytes(), bound) << n_q << " queries";
    EXPECT_LE(bound, 8 * peak.bytes() + (1 << 24)) << n_q << " queries";
  }
}

// Budgets that say what the call says change no bit, of no method.
TEST(HeadBudgets, AsTheCallChangeNoBit) {
  for (const Method m : {Method::kWindow, Method::kRouted, Method::kTopK})
    for (const bool together : {true, false}) {
      Data plain(grouped(2, 3, 130, 700)), same(plain.shape);
      Options o;
      o.plan = small_plan(m, 200), o.index = small_index();
      o.plan.score = Score::kKeyNorm, o.score.segment = 64, o.plan.heads_together = together;
      const auto executor = make_serial_executor();
      attention(plain.q.view(), plain.k.view(), plain.v.view(), plain.state(), o, *executor);
      o.plan.heads.assign(6, kAsCall);
      const Report report =
          attention(same.q.view(), same.k.view(), same.v.view(), same.state(), o, *executor);
      EXPECT_TRUE(plain.o.same_bits(same.o)) << to_string(m);
      EXPECT_TRUE(plain.lse.same_bits(same.lse)) << to_string(m);
      EXPECT_NE(report.choice.reason.find("0 of 6 heads"), std::string::npos);
    }
}

// Tiles of single queries, heads that choose apart, certificates: what lives beside the runners.
TEST(HeadMemory, WorkspaceBoundsTilesAndCertificates) {
  if (!PeakMemory::works()) GTEST_SKIP() << "a sanitizer owns the allocator";
  for (const Method method : {Method::kWindow, Method::kRouted})
    for (const bool strict : {true, false})
      for (const bool own : {true, false})
        for (const std::int64_t samples : {0, 1000}) {
          Case c;
          c.h_q = c.h_kv = 8, c.n_q = c.n_kv = 2048, c.d = c.d_v = 64;
          Data data(c);
          Options o;
          o.plan.method = method, o.plan.budget = 900, o.plan.heads_together = false;
          o.plan.routing = strict ? Routing::kStrict : Routing::kTile;
          if (own) o.plan.heads.assign(8, {}), o.plan.heads[1] = kAllKeys;
          o.certify.samples = samples, o.certify.min_recall = samples > 0 ? 1 : 0;
          const auto executor = make_serial_executor();
          const std::int64_t bound =
              workspace_bytes(data.q.view(), data.k.view(), data.v.view(), o, 1);
          const PeakMemory peak;
          attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o, *executor);
          EXPECT_LE(peak.bytes(), bound) << to_string(method) << strict << own << samples;
        }
}

TEST(HeadErrors, AreOneSentence) {
  Data data(grouped(2, 3, 64, 256));
  Options o;
  const auto executor = make_serial_executor();
  const auto text = [&](const std::vector<HeadBudget>& heads, Method method) -> std::string {
    o.plan = small_plan(method, 100);
    o.plan.heads = heads;
    try {
      attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o, *executor);
    } catch (const Error& e) {
      return e.what();
    }
    return "";
  };
  const std::vector<HeadBudget> six(6);
  EXPECT_EQ(text(six, Method::kWindow), "");
  EXPECT_NE(text(std::vector<HeadBudget>(5), Method::kRouted).find("want one a query head, 6"),
            std::string::npos);
  EXPECT_NE(text(six, Method::kHyper).find("budgets by head with hyper"), std::string::npos);
  std::vector<HeadBudget> bad = six;
  bad[2].keys = -1;
  EXPECT_NE(text(bad, Method::kRouted).find("keys of head 2"), std::string::npos);
  EXPECT_NE(text(std::vector<HeadBudget>(3), Method::kAuto).find("one a query head"),
            std::string::npos)
      << "below the crossover too";
  bad[2] = {Method::kHyper, 0};
  EXPECT_NE(text(bad, Method::kRouted).find("method of head 2"), std::string::npos);
}

// A call that `auto` reads densely has no budgets; heads of a dense call may still have theirs.
TEST(HeadBudgets, OfAutoCountFromTheCrossoverOn) {
  Data data(grouped(1, 2, 64, 256)), dense(data.shape);
  Options o;
  const auto executor = make_serial_executor();
  attention(dense.q.view(), dense.k.view(), dense.v.view(), dense.state(), o, *executor);
  o.plan.heads = {{Method::kWindow, 20}, kAsCall};
  attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o, *executor);
  EXPECT_TRUE(data.o.same_bits(dense.o));
  o.plan.method = Method::kDense;
  const Report report =
      attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o, *executor);
  EXPECT_FALSE(data.o.same_bits(dense.o));
  EXPECT_LT(report.counters.keys, report.counters.visible);
}

}  // namespace
}  // namespace prescore::test
