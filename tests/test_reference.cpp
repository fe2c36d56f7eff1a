// The oracle itself, on cases small enough to do by hand.
#include <gtest/gtest.h>

#include <cmath>
#include <numbers>

#include "reference/reference.h"

namespace prescore::reference {
namespace {

TEST(Reference, WidensHalfAndBfloat) {
  const std::uint16_t half[] = {0x3c00, 0xc000, 0x0001, 0x7bff, 0x7c00, 0x8000};
  EXPECT_EQ(load(half, DType::kF16, 0), 1.0);
  EXPECT_EQ(load(half, DType::kF16, 1), -2.0);
  EXPECT_EQ(load(half, DType::kF16, 2), 0x1p-24);
  EXPECT_EQ(load(half, DType::kF16, 3), 65504.0);
  EXPECT_EQ(load(half, DType::kF16, 4), INFINITY);
  EXPECT_TRUE(std::signbit(load(half, DType::kF16, 5)));
  const std::uint16_t bf16[] = {0x3f80, 0xc040};
  EXPECT_EQ(load(bf16, DType::kBF16, 0), 1.0);
  EXPECT_EQ(load(bf16, DType::kBF16, 1), -3.0);
}

TEST(Reference, AttendsByHand) {
  const double q[] = {1.0}, k[] = {std::log(3.0), 0.0}, v[] = {8.0, 4.0};
  const Entry entries[] = {{k, v, 0}, {k + 1, v + 1, 0}};
  double o = 0;
  EXPECT_NEAR(attend_row(q, entries, 1, 1, 1.0, &o), std::log(4.0), 1e-15);  // weights 3 and 1
  EXPECT_NEAR(o, 7.0, 1e-14);
  const Entry twice[] = {{k + 1, v + 1, std::log(2.0)}, {k + 1, v, 0}};
  EXPECT_NEAR(attend_row(q, twice, 1, 1, 1.0, &o), std::log(3.0), 1e-15);
  EXPECT_NEAR(o, (2 * 4.0 + 8.0) / 3, 1e-14);
  EXPECT_EQ(attend_row(q, {}, 1, 1, 1.0, &o), -INFINITY);
  EXPECT_EQ(o, 0.0);
}

TEST(Reference, MergesByHand) {
  Result a{Array({1, 1, 2, 1}), {std::log(1.0), -INFINITY}};
  Result b{Array({1, 1, 2, 1}), {std::log(3.0), -INFINITY}};
  a.o.data = {4.0, 0.0};
  b.o.data = {8.0, 0.0};
  const Result m = merge(a, b);
  EXPECT_NEAR(m.o.data[0], 7.0, 1e-14);
  EXPECT_NEAR(m.lse[0], std::log(4.0), 1e-15);
  EXPECT_EQ(m.o.data[1], 0.0);
  EXPECT_EQ(m.lse[1], -INFINITY);
}

TEST(Reference, ScoresByHand) {
  const std::vector<double> keys = {3, 0, 0, 4, 0, 0};
  EXPECT_EQ(key_norms(keys, 2), (std::vector<double>{3, 4, 0}));
  // Gram = diag(9, 16): with no ridge each direction is explained by one key alone.
  const auto leverage = ridge_leverage(keys, 2, 0, 3);
  EXPECT_NEAR(leverage[0], 1, 1e-14);
  EXPECT_NEAR(leverage[1], 1, 1e-14);
  EXPECT_NEAR(leverage[2], 0, 1e-14);
  const auto difference = key_difference(keys, 2, 3);
  EXPECT_NEAR(difference[0], -std::numbers::sqrt2 / 2, 1e-14);
  EXPECT_NEAR(difference[1], -std::numbers::sqrt2 / 2, 1e-14);
  EXPECT_EQ(difference[2], 0);
}

TEST(Reference, ClustersByHand) {
  const std::vector<double> points = {0, 2, 10, 14};
  const std::vector<std::int64_t> cluster = {7, 7, 1, 1}, other = {0, 0, 5, 5}, bad = {0, 1, 0, 1};
  EXPECT_EQ(kmeans_objective(points, 1, cluster), 1 + 1 + 4 + 4);
  EXPECT_EQ(adjusted_rand(cluster, other), 1.0);
  EXPECT_LT(adjusted_rand(cluster, bad), 0.0);
}

TEST(Reference, SelectsByHand) {
  EXPECT_EQ(window_keys(10, 2, 5), (std::set<std::int64_t>{0, 1, 7, 8, 9}));
  EXPECT_EQ(window_keys(3, 2, 5), (std::set<std::int64_t>{0, 1, 2}));
  const std::vector<float> scores = {9, 1, 5, 5, 5, 9};
  EXPECT_EQ(top_keys(scores, 1, 5, 2), (std::set<std::int64_t>{2, 3}));
}

}  // namespace
}  // namespace prescore::reference
