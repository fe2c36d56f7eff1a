// The certificate: what it says of the attention that was read holds, and finds what was missed.
#include <gtest/gtest.h>

#include <cmath>

#include "attend/certificate.h"
#include "support/cases.h"

namespace prescore::test {
namespace {

Case prompt(std::int64_t n, std::uint64_t seed = 1) {
  Case c;
  c.b = 1, c.h_kv = 2, c.h_q = 4, c.n_q = c.n_kv = n, c.d = 32, c.d_v = 16, c.seed = seed;
  c.peak = 4;
  return c;
}

Options routed(std::int64_t budget, std::int64_t samples) {
  Options o;
  o.plan = small_plan(Method::kRouted, budget);
  o.index = small_index();
  o.certify.samples = samples;
  return o;
}

Report run(Data& data, const Options& o) {
  return attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o,
                   *make_serial_executor());
}

// Mean share of the attention that each head's plan reads, of all queries.
std::vector<double> true_mass(const Data& data, const Options& o) {
  const auto executor = make_serial_executor();
  const Prepared call =
      prepare(data.q.view(), data.k.view(), data.v.view(), data.visibility(), {}, o, *executor);
  const Plan plan = make_plan(call.in, *call.planner, *executor);
  const auto n = static_cast<std::size_t>(data.shape.n_q);
  std::vector<float> mass(n * static_cast<std::size_t>(data.shape.h_q));
  captured_mass(call.in, plan, mass.data(), *executor);
  std::vector<double> mean;
  for (std::size_t h = 0; h < static_cast<std::size_t>(data.shape.h_q); ++h) {
    double sum = 0;
    for (std::size_t i = 0; i < n; ++i) sum += double{mass[h * n + i]};
    mean.push_back(sum / static_cast<double>(n));
  }
  return mean;
}

TEST(Certificate, OfAllQueriesIsTheirMean) {
  Data data(prompt(600));
  const Options o = routed(200, 300);  // pairs of all queries
  const Report report = run(data, o);
  const std::vector<double> want = true_mass(data, o);
  ASSERT_EQ(report.heads.size(), 4u);
  for (std::size_t h = 0; h < 4; ++h) {
    EXPECT_EQ(report.heads[h].queries, 600);
    EXPECT_NEAR(report.heads[h].mass, want[h], 1e-4);
    EXPECT_GT(report.heads[h].mass, .1);
    EXPECT_LT(report.heads[h].mass, .999);
    EXPECT_GT(report.heads[h].output_error, .01);
  }
}

// Over many draws the truth lies within two standard errors about as often as it should. Parts of
// equal size make the error smaller than the formula says, never larger.
TEST(Certificate, ErrorBarsHoldOverSeeds) {
  Data data(prompt(1500));
  Options o = routed(220, 24);
  const std::vector<double> want = true_mass(data, o);
  int inside = 0, all = 0;
  for (o.certify.seed = 1; o.certify.seed <= 40; ++o.certify.seed) {
    const Report report = run(data, o);
    for (std::size_t h = 0; h < 4; ++h, ++all) {
      EXPECT_EQ(report.heads[h].queries, 48);
      inside += std::fabs(report.heads[h].mass - want[h]) <= 2 * report.heads[h].mass_error;
    }
  }
  EXPECT_GE(inside, all * 9 / 10) << "of " << all;
}

TEST(Certificate, ChangesNoBit) {
  Data plain(prompt(700)), certified(prompt(700));
  run(plain, routed(200, 0));
  const Report report = run(certified, routed(200, 16));
  EXPECT_TRUE(plain.o.same_bits(certified.o));
  EXPECT_TRUE(plain.lse.same_bits(certified.lse));
  EXPECT_EQ(report.heads.size(), 4u);
}

TEST(Certificate, OfEverythingIsOne) {
  Data data(prompt(700));
  Options o = routed(700, 16);
  for (const HeadCertificate& h : run(data, o).heads) {
    EXPECT_EQ(h.mass, 1);
    EXPECT_EQ(h.output_error, 0);
  }
}

// Keys that only single queries want, in one head: its clusters hide them, and the certificate says
// so; min_recall makes that head dense and no other.
TEST(Certificate, SaysWhatRoutingMisses) {
  Case c = prompt(2000);
  c.peak = 1;
  Data data(c), redone(c);
  for (Data* d : {&data, &redone})
    for (std::int64_t i = 0; i < c.n_q; ++i) {
      // Query i of head 3 wants the one key (i * 7) % 1000 alone: a code of signs.
      const std::int64_t key = i * 7 % 1000;
      for (std::int64_t e = 0; e < c.d; ++e) {
        const double sign = ((key * 2654435761u >> (e % 31)) & 1) == 0 ? -1 : 1;
        d->q.set(0, 3, i, e, 3 * sign);
        d->k.set(0, 1, key, e, 3 * sign);
      }
    }
  Options o = routed(256, 64);
  o.plan.heads = {{Method::kDense, 0}, {Method::kDense, 0}, {}, {}};
  const Report report = run(data, o);
  EXPECT_EQ(report.heads[0].mass, 1);
  EXPECT_LT(report.heads[3].mass + 3 * report.heads[3].mass_error, .9);
  EXPECT_GT(report.heads[3].output_error, .5);

  o.certify.min_recall = .9f;
  o.plan.heads[2] = {Method::kDense, 0};
  const Report again = run(redone, o);
  EXPECT_TRUE(again.heads[3].redone);
  EXPECT_FALSE(again.heads[0].redone);
  EXPECT_NE(again.choice.reason.find("1 heads below min_recall"), std::string::npos);
  EXPECT_EQ(again.counters.keys, again.counters.visible) << "all are dense now";
  EXPECT_EQ(again.counters.standins, 0);
  expect_near_dense(redone);
}

TEST(Certificate, MistakesAreOneSentence) {
  Data data(prompt(64));
  Options o = routed(20, 4);
  o.certify.min_recall = 2;
  EXPECT_THROW(run(data, o), Error);
  o.certify = {0, .5f, 0};
  EXPECT_THROW(run(data, o), Error);
  for (const std::int64_t samples : {std::int64_t{-1}, std::int64_t{1} << 62}) {
    o.certify = {samples, 0, 0};
    EXPECT_THROW(run(data, o), Error);
    EXPECT_THROW(workspace_bytes(data.q.view(), data.k.view(), data.v.view(), o, 1), Error);
  }
  o.certify = {4, 0, 0};
  o.plan.method = Method::kHyper;
  EXPECT_THROW(run(data, o), Error);
}

}  // namespace
}  // namespace prescore::test
