// The certificate on the GPU says what the CPU's says of the same plans.
#include <gtest/gtest.h>

#include "cuda/routed.cuh"

namespace prescore::test {
namespace {

class CudaCertificate : public EachKernel {};
PRESCORE_WITH_EACH_KERNEL(CudaCertificate);

Options certified(Method m, std::int64_t budget, std::int64_t samples) {
  Options o = method(m, budget);
  o.plan.score = Score::kKeyNorm;
  o.certify.samples = samples, o.cuda.count = true;
  return o;
}

TEST_P(CudaCertificate, AgreesWithTheCpu) {
  for (const Method m : {Method::kWindow, Method::kTopK, Method::kDense})
    for (const auto& [n_q, n_kv, d] :
         {std::tuple<std::int64_t, std::int64_t, std::int64_t>{900, 900, 64},
          {500, 9000, 128},
          {3, 2000, 80},
          {300, 2500, 256}}) {
      SCOPED_TRACE(testing::Message()
                   << to_string(m) << ", " << n_q << " of " << n_kv << ", " << d);
      Case c = gpu_case(2, 4, 2, n_q, n_kv, d, d);
      c.peak = 3;
      Data data(c);
      const Options o = certified(m, 300, 16);
      const Report got = DeviceCase(data).run(o);
      Data cpu(c);
      Options on_cpu = o;
      on_cpu.scale = cpu.scale();
      const Report want = attention(cpu.q.view(), cpu.k.view(), cpu.v.view(), cpu.state(), on_cpu,
                                    *make_serial_executor());
      ASSERT_EQ(got.heads.size(), want.heads.size());
      for (std::size_t h = 0; h < want.heads.size(); ++h) {
        EXPECT_EQ(got.heads[h].queries, want.heads[h].queries);
        EXPECT_NEAR(got.heads[h].mass, want.heads[h].mass, 5e-3);
        EXPECT_NEAR(got.heads[h].mass_error, want.heads[h].mass_error, 5e-3);
        EXPECT_NEAR(got.heads[h].output_error, want.heads[h].output_error,
                    .02 + .05 * want.heads[h].output_error);
      }
    }
}

TEST_P(CudaCertificate, ChangesNoBit) {
  Data plain(gpu_case(2, 4, 2, 700, 4000, 64, 64)), with(plain.shape);
  cluster_keys(plain, 5), cluster_keys(with, 5);
  DeviceCase(plain).run(certified(Method::kRouted, 1000, 0));
  // In memory that is not zero.
  Options o = certified(Method::kRouted, 1000, 32);
  const DeviceArray<char> memory(std::size_t{1} << 28);
  ok(cudaMemset(memory.data(), 0xff, std::size_t{1} << 28));
  o.cuda.workspace = memory.data(), o.cuda.workspace_bytes = std::int64_t{1} << 28;
  const Report report = DeviceCase(with).run(o);
  EXPECT_EQ(report.choice.reason.find("min_recall"), std::string::npos);
  EXPECT_TRUE(plain.o.same_bits(with.o));
  EXPECT_TRUE(plain.lse.same_bits(with.lse));
  for (const HeadCertificate& h : report.heads) {
    EXPECT_EQ(h.queries, 2 * 64);
    EXPECT_GT(h.mass, 0);
    EXPECT_LE(h.mass, 1);
    EXPECT_FALSE(h.redone);
  }
}

// Heads below min_recall have the bits of dense ones, the others keep theirs.
TEST_P(CudaCertificate, HeadsBelowMinRecallAreDense) {
  Data plain(gpu_case(1, 4, 2, 700, 4000, 64, 64)), dense(plain.shape), got(plain.shape);
  for (Data* d : {&plain, &dense, &got})
    for (std::int64_t i = 0; i < 700; ++i)
      for (std::int64_t e = 0; e < 64; ++e) {
        d->q.set(0, 1, i, e, d->q.get(0, 1, i, e) * 8);  // peaks anywhere
        d->q.set(0, 3, i, e, 0);                         // wants nothing in particular
      }
  Options o = certified(Method::kWindow, 1000, 32);
  const Report before = DeviceCase(plain).run(o);
  DeviceCase(dense).run(certified(Method::kDense, 1000, 0));
  std::vector<double> mass;
  for (const HeadCertificate& h : before.heads) mass.push_back(h.mass);
  std::sort(mass.begin(), mass.end());
  o.certify.min_recall = static_cast<float>((mass[1] + mass[2]) / 2);  // two heads are below
  const Report report = DeviceCase(got).run(o);
  int redone = 0;
  for (std::int64_t h = 0; h < 4; ++h) {
    const bool again = report.heads[static_cast<std::size_t>(h)].redone;
    redone += again;
    const Data& want = again ? dense : plain;
    for (std::int64_t i = 0; i < 700; ++i)
      for (std::int64_t e = 0; e < 64; ++e)
        ASSERT_EQ(got.o.get(0, h, i, e), want.o.get(0, h, i, e)) << h << ", " << i;
  }
  EXPECT_EQ(redone, 2);
  EXPECT_GT(report.counters.keys, before.counters.keys);
  EXPECT_NE(report.choice.reason.find("2 heads below min_recall"), std::string::npos);
}

TEST(CudaCertificateErrors, AreOneSentence) {
  PRESCORE_NEEDS_GPU();
  Data data(gpu_case(1, 4, 2, 300, 2000, 64, 64));
  DeviceCase on(data);
  EXPECT_THROW(on.run(certified(Method::kRouted, 1000, 33)), Error);
  EXPECT_THROW(on.run(certified(Method::kHyper, 1000, 3)), Error);
  Options o = certified(Method::kRouted, 1000, 3);
  o.certify.min_recall = NAN;
  EXPECT_THROW(on.run(o), Error);
}

}  // namespace
}  // namespace prescore::test
