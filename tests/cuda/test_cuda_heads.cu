// Budgets by head on the GPU: every head has the bits of a call with its budget alone.
#include <gtest/gtest.h>

#include "cuda/routed.cuh"
#include "plan/planners.h"

namespace prescore::test {
namespace {

constexpr HeadBudget kAsCall{}, kAllKeys{Method::kDense, 0};

struct Mix {
  const char* name;
  std::vector<HeadBudget> heads;  // four query heads on two
};
const Mix kMixes[] = {
    {"OneDense", {kAsCall, kAllKeys, kAsCall, kAsCall}},
    {"Windows", {{Method::kWindow, 300}, kAsCall, {Method::kWindow, 0}, {Method::kWindow, 400}}},
    {"More", {kAsCall, {Method::kRouted, 1400}, {Method::kRouted, 1100}, {Method::kRouted, 1100}}},
    {"AllKinds", {{Method::kTopK, 900}, kAllKeys, {Method::kRouted, 1400}, kAsCall}},
};

class CudaHeads : public testing::TestWithParam<Mix> {
 protected:
  void SetUp() override { PRESCORE_NEEDS_GPU(); }
};
INSTANTIATE_TEST_SUITE_P(All, CudaHeads, testing::ValuesIn(kMixes),
                         [](const auto& param) { return param.param.name; });

Options mixed(const Mix& mix) {
  Options o = method(Method::kRouted, 1000);
  o.plan.heads = mix.heads;
  o.plan.score = Score::kKeyNorm;
  return o;
}

// One head's rows of two results.
void expect_head(const Data& got, const Data& want, std::int64_t h) {
  const auto [b, heads, n, d] = got.o.shape();
  for (std::int64_t ib = 0; ib < b; ++ib)
    for (std::int64_t i = 0; i < n; ++i) {
      ASSERT_EQ(got.lse.get(ib, h, i, 0), want.lse.get(ib, h, i, 0)) << "head " << h << ", " << i;
      for (std::int64_t e = 0; e < d; ++e)
        ASSERT_EQ(got.o.get(ib, h, i, e), want.o.get(ib, h, i, e)) << "head " << h << ", " << i;
    }
}

TEST_P(CudaHeads, HaveTheBitsOfACallWithTheirBudget) {
  for (const std::int64_t d : {64, 128, 256})
    for (const Routing routing : {Routing::kTile, Routing::kStrict}) {
      Case c = gpu_case(2, 4, 2, routing == Routing::kTile ? 700 : 20, 4000, d, d);
      if (d == 128) c.q_type = c.kv_type = c.o_type = DType::kF16;
      Data data(c);
      cluster_keys(data, 9);
      Options o = mixed(GetParam());
      o.plan.routing = routing, o.cuda.count = true;
      const Report report = DeviceCase(data).run(o);
      const ResolvedBudgets budgets = resolve_heads(o.plan, 4, 2);
      std::int64_t keys = 0;
      for (std::int64_t h = 0; h < 4; ++h) {
        const ResolvedBudget& b = budgets[static_cast<std::size_t>(h)];
        // Where only some heads of a group choose together, no uniform call chooses alike.
        const bool pair = budgets[static_cast<std::size_t>(h / 2 * 2)] ==
                          budgets[static_cast<std::size_t>(h / 2 * 2 + 1)];
        Data one(c);
        cluster_keys(one, 9);
        Options alone = o;
        alone.plan.heads.clear();
        alone.plan.method = b.method, alone.plan.heads_together = pair && !b.alone;
        if (b.method != Method::kDense) alone.plan.budget = b.keys;
        const Report want = DeviceCase(one).run(alone);
        keys += want.counters.keys / 4;
        if (b.method == Method::kRouted && !b.alone && !pair) continue;  // other columns
        SCOPED_TRACE(testing::Message() << "d " << d << ", routing " << static_cast<int>(routing));
        expect_head(data, one, h);
      }
      EXPECT_EQ(report.counters.queries, std::int64_t{2} * 4 * c.n_q);
      EXPECT_NEAR(static_cast<double>(report.counters.keys), static_cast<double>(keys),
                  .02 * static_cast<double>(keys));
      EXPECT_NE(report.choice.reason.find("of 4 heads have budgets"), std::string::npos);
    }
}

// dense_until holds for every head, and chunks choose alike.
TEST_P(CudaHeads, ChunksChooseAlike) {
  const Case c = gpu_case(2, 4, 2, 2560, 2560, 64, 64);
  Data whole(c);
  Options o = mixed(GetParam());
  o.plan.dense_until = 1500;
  DeviceCase(whole).run(o);
  for (const std::int64_t until : {1024, 1920}) {  // multiples of the tile
    Case part_case = c;
    part_case.n_q = 384, part_case.n_kv = until;
    Data part(part_case);
    copy_rows(part.q, whole.q, until - 384);
    copy_rows(part.k, whole.k, 0), copy_rows(part.v, whole.v, 0);
    DeviceCase(part).run(o);
    expect_rows(part.o, whole.o, until - 384);
    expect_rows(part.lse, whole.lse, until - 384);
  }
}

// More lists than a wave has room for, and more heads than one launch tells of.
TEST(CudaHeadLists, ManyHeadsAndWaves) {
  PRESCORE_NEEDS_GPU();
  const Case c = gpu_case(1, 320, 32, 130, 1700, 64, 64);
  Data got(c), want(c);
  Options o = method(Method::kRouted, 1000);
  o.plan.heads_together = false;
  DeviceCase(want).run(o);
  o.plan.heads.resize(320);
  for (std::size_t h = 0; h < 320; h += 3) o.plan.heads[h] = kAllKeys;
  DeviceCase(got).run(o);
  Data dense(c);
  DeviceCase(dense).run(method(Method::kDense));
  for (std::int64_t h = 0; h < 320; ++h) expect_head(got, h % 3 == 0 ? dense : want, h);
}

TEST(CudaHeadLists, WorkspaceIsEnoughAndMistakesAreErrors) {
  PRESCORE_NEEDS_GPU();
  const Case c = gpu_case(2, 4, 2, 300, 3000, 64, 64);
  Data plain(c), given(c);
  Options o = mixed(kMixes[3]);
  DeviceCase(plain).run(o);
  DeviceCase on(given);
  o.device = Device::kCuda;
  const std::int64_t bytes = workspace_bytes(on.q.view(), on.k.view(), on.v.view(), o, 0);
  const DeviceArray<char> memory(static_cast<std::size_t>(bytes));
  o.cuda.workspace = memory.data(), o.cuda.workspace_bytes = bytes;
  on.run(o);
  EXPECT_TRUE(plain.o.same_bits(given.o));
  o.plan.heads.pop_back();
  EXPECT_THROW(on.run(o), Error);
}

}  // namespace
}  // namespace prescore::test
