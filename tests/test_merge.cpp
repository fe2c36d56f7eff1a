// Contract 4: merging parts over disjoint keys gives the whole.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "support/cases.h"

namespace prescore::test {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();

Plan only(const Case& c, std::vector<Range> ranges) {
  Plan plan;
  for (std::int64_t b = 0; b < c.b; ++b) {
    for (std::int64_t h = 0; h < c.h_q; ++h) {
      plan.tiles.push_back({b, h, 0, c.n_q});
      plan.reads.push_back({});
      plan.reads.back().ranges = ranges;
    }
  }
  return plan;
}

TEST(Merge, PartsMakeTheWhole) {
  for (std::uint64_t seed = 1; seed <= 10; ++seed) {
    std::mt19937_64 random(seed);
    Case c;
    c.b = 2, c.h_q = 3, c.h_kv = 3, c.n_q = 20, c.n_kv = 90, c.d = 17, c.d_v = 29;
    c.order = seed % 2 == 0 ? Order::kPadded : Order::kTokens, c.seed = seed;
    c.peak = seed % 3 == 0 ? 10 : 1;
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    const std::int64_t cut1 = std::uniform_int_distribution<std::int64_t>(0, 90)(random);
    const std::int64_t cut2 = std::uniform_int_distribution<std::int64_t>(cut1, 90)(random);
    Data whole(c), second(c), third(c);
    const auto executor = make_serial_executor();
    attend(whole.inputs(), only(c, {{0, cut1}}), whole.state(), *executor);
    attend(second.inputs(), only(c, {{cut1, cut2}}), second.state(), *executor);
    attend(third.inputs(), only(c, {{cut2, 90}}), third.state(), *executor);
    merge(whole.state(), third.state());
    merge(whole.state(), second.state());
    expect_near_dense(whole);
    expect_sentinels(second);
  }
}

TEST(Merge, AgreesWithTheOracle) {
  std::mt19937_64 random(3);
  std::normal_distribution<double> normal(0, 30);
  reference::Result a{reference::Array({1, 1, 50, 4}), {}}, b = a;
  Storage oa(DType::kF32, {1, 1, 50, 4}), ob = oa;
  ob = Storage(DType::kF32, {1, 1, 50, 4});
  std::vector<float> la, lb;
  for (std::int64_t i = 0; i < 50; ++i) {
    la.push_back(static_cast<float>(normal(random)));
    lb.push_back(static_cast<float>(normal(random)));
    for (std::int64_t c = 0; c < 4; ++c) {
      oa.set(0, 0, i, c, normal(random));
      ob.set(0, 0, i, c, normal(random));
      a.o.row(0, 0, i)[c] = oa.get(0, 0, i, c);
      b.o.row(0, 0, i)[c] = ob.get(0, 0, i, c);
    }
    a.lse.push_back(double{la.back()});
    b.lse.push_back(double{lb.back()});
  }
  const reference::Result want = reference::merge(a, b);
  merge({oa.out(), la.data()}, {ob.out(), lb.data()});
  for (std::int64_t i = 0; i < 50; ++i) {
    const auto at = static_cast<std::size_t>(i);
    EXPECT_NEAR(la[at], want.lse[at], 1e-6 * (1 + std::abs(want.lse[at])));
    for (std::int64_t c = 0; c < 4; ++c) {
      EXPECT_NEAR(oa.get(0, 0, i, c), want.o.row(0, 0, i)[c], 1e-4);
    }
  }
}

TEST(Merge, EmptyPartsChangeNothing) {
  float x[] = {2, 3}, none[] = {0, 0}, x_lse[] = {0.5f}, none_lse[] = {-kInf};
  const State some{MutTensor::contiguous(x, DType::kF32, 1, 1, 1, 2), x_lse};
  const State empty{MutTensor::contiguous(none, DType::kF32, 1, 1, 1, 2), none_lse};
  merge(some, empty);
  EXPECT_EQ(x[0], 2.0f);
  EXPECT_EQ(x_lse[0], 0.5f);
  merge(empty, empty);
  EXPECT_EQ(none[1], 0.0f);
  EXPECT_EQ(none_lse[0], -kInf);
  merge(empty, some);
  EXPECT_EQ(none[1], 3.0f);
  EXPECT_EQ(none_lse[0], 0.5f);
}

TEST(Merge, InfinitiesMakeNoNaN) {
  float x[] = {2}, y[] = {4}, x_lse[] = {kInf}, y_lse[] = {1.0f};
  const State a{MutTensor::contiguous(x, DType::kF32, 1, 1, 1, 1), x_lse};
  const State b{MutTensor::contiguous(y, DType::kF32, 1, 1, 1, 1), y_lse};
  merge(a, b);
  EXPECT_EQ(x[0], 2.0f);
  EXPECT_EQ(x_lse[0], kInf);
  y_lse[0] = kInf;
  merge(a, b);
  EXPECT_EQ(x[0], 3.0f);
  EXPECT_EQ(x_lse[0], kInf);
}

TEST(Merge, BadInputIsAnError) {
  float x[4] = {}, lse[4] = {};
  const State a{MutTensor::contiguous(x, DType::kF32, 1, 1, 2, 2), lse};
  State b = a;
  b.o.shape[2] = 1;
  EXPECT_THROW(merge(a, b), Error);
  b = a;
  b.lse = nullptr;
  EXPECT_THROW(merge(a, b), Error);
  b = a;
  b.o.dtype = DType::kF16;
  EXPECT_THROW(merge(a, b), Error);
  b = a;
  b.o.data = nullptr;
  EXPECT_THROW(merge(b, a), Error);
}

}  // namespace
}  // namespace prescore::test
