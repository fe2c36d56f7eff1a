// The lists of what experiments compare: each entry is understood, and the library takes it.
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "lm_candidates.h"
#include "methods.h"
#include "support/cases.h"

namespace prescore::experiments {
namespace {

void expect_distinct(const std::vector<Candidate>& all) {
  std::set<std::string> names, flags;
  for (const Candidate& c : all) {
    EXPECT_TRUE(names.insert(c.name).second) << c.name << " twice";
    EXPECT_TRUE(flags.insert(c.flags).second) << c.name << " is as another";
  }
}

// Attention over a text longer than the budget.
void expect_taken(const Candidate& c, const Options& o) {
  test::Case shape;
  shape.h_q = 4, shape.h_kv = 2, shape.n_q = 64, shape.n_kv = 1500;
  shape.kv_type = DType::kF16, shape.order = test::Order::kTokens;
  test::Data data(shape);
  const Report report = attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o,
                                  *make_serial_executor());
  EXPECT_EQ(report.choice.method, o.plan.method) << c.name;
  if (o.plan.method != Method::kDense && o.plan.budget < 1280 && o.plan.dense_until == 0 &&
      o.plan.hyper.leaf == 0) {
    EXPECT_LT(report.counters.keys, report.counters.visible) << c.name;
  }
}

std::vector<Candidate> quick_forms(std::vector<Candidate> all) {
  for (Candidate& c : all) c = keeping_a_quarter(c, 1024);
  return all;
}

/// parse(candidate, budget): as the experiment does.
template <typename Parse>
void expect_understood(const std::vector<Candidate>& all, const Parse& parse) {
  ASSERT_FALSE(all.empty());
  expect_distinct(all);
  for (const Candidate& c : all)
    for (const std::int64_t budget : {256, 512, 1280}) {
      SCOPED_TRACE(c.name + ": " + c.flags);
      Options o;
      ASSERT_NO_THROW(o = parse(c, budget));
      EXPECT_EQ(o.plan.budget, budget);
      if (c.flags.find("--half-window") != std::string::npos) {
        EXPECT_EQ(o.plan.window, budget / 2);
      }
      EXPECT_NO_THROW(expect_taken(c, o));
    }
}

TEST(Candidates, OfLmAreUnderstood) {
  const auto parse = [](const Candidate& c, std::int64_t budget) {
    return ablated(sized(c, budget), budget, nullptr);
  };
  for (const auto& list : {lm_candidates(false), quick_forms(lm_candidates(true)), lm_ablation(),
                           quick_forms(lm_ablation())})
    expect_understood(list, parse);
}

// Those of the quick list are found by name.
TEST(Candidates, QuickOnesAreAmongAll) {
  const auto all = lm_candidates(false), quick = lm_candidates(true);
  EXPECT_EQ(quick.size(), 6u);
  for (const Candidate& q : quick)
    EXPECT_TRUE(std::ranges::any_of(all, [&](const Candidate& c) { return c.flags == q.flags; }));
}

// The picture's are found by name, a window among them.
TEST(Candidates, DrawnOnesAreAmongAll) {
  const auto all = lm_candidates(false);
  EXPECT_EQ(std::ranges::count_if(all, [](const Candidate& c) { return in_picture(c.name); }), 10);
  EXPECT_TRUE(in_picture("window") && in_picture("dense"));
}

TEST(Candidates, OfOtherExperimentsAreUnderstood) {
  const auto parse = [](const Candidate& c, std::int64_t budget) {
    return options_of(sized(c, budget), budget);
  };
  for (const auto& list : {coverage_methods(), layer_methods(), retrieval_methods()}) {
    expect_understood(list, parse);
    expect_understood(quick_forms(list), parse);
  }
}

}  // namespace
}  // namespace prescore::experiments
