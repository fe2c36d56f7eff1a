// HyperAttention on the GPU: against dense where it must be, else against the CPU. Both hash with
// the same directions; sums are rounded otherwise, so that a key or query next to a hyperplane may
// fall into the neighbouring bucket.
#include "cuda/device.cuh"

namespace prescore::test {
namespace {

Case hyper_case(std::int64_t h_q, std::int64_t h_kv, std::int64_t n_q, std::int64_t n_kv,
                std::int64_t d, bool causal = true) {
  Case c = gpu_case(2, h_q, h_kv, n_q, n_kv, d, d);
  c.causal = causal, c.parts = 2;
  return c;
}
Options hyper(std::int64_t budget, std::int64_t leaf = 0, std::int64_t block = 64,
              std::int64_t samples = 64) {
  Options o;
  o.plan.method = Method::kHyper, o.plan.budget = budget, o.plan.seed = 3;
  o.plan.hyper.leaf = leaf, o.plan.hyper.block = block, o.plan.hyper.samples = samples;
  o.cuda.count = true;
  return o;
}
Options prescored(Options o, std::int64_t selected) {
  o.plan.method = Method::kPrescoredHyper, o.plan.hyper.selected = selected;
  o.plan.score = Score::kKeyNorm;
  return o;
}

TEST(CudaHyper, BlocksThatHoldTheirSpansAreDense) {
  PRESCORE_NEEDS_GPU();
  for (const auto& [n_q, n_kv] : {std::pair{700, 700}, {130, 1100}, {1, 900}})
    for (const std::int64_t d : {64, 80, 128, 256})
      for (const bool causal : {true, false}) {
        SCOPED_TRACE(testing::Message() << n_q << " of " << n_kv << ", d " << d << causal);
        Data data(hyper_case(4, 2, n_q, n_kv, d, causal));
        const Report r = DeviceCase(data).run(hyper(300, 256, 1 << 20, 0));
        expect_near_dense(data);
        EXPECT_EQ(r.counters.keys, r.counters.visible);
      }
}

// Runs both, expects the same number of keys, and the same rows but for a few.
void expect_as_on_the_cpu(const Case& c, const Options& o) {
  Data gpu(c), cpu(c);
  const Report on_gpu = DeviceCase(gpu).run(o);
  Options host = o;
  host.causal = c.causal, host.scale = cpu.scale();
  const Report on_cpu = attention(cpu.q.view(), cpu.k.view(), cpu.v.view(), cpu.state(), host);
  EXPECT_EQ(on_gpu.counters.queries, on_cpu.counters.queries);
  EXPECT_EQ(on_gpu.counters.visible, on_cpu.counters.visible);
  EXPECT_EQ(on_gpu.counters.keys, on_cpu.counters.keys);
  EXPECT_LT(on_gpu.counters.keys, on_gpu.counters.visible);
  std::int64_t rows = 0, unlike = 0;
  for (std::int64_t b = 0; b < c.b; ++b)
    for (std::int64_t h = 0; h < c.h_q; ++h)
      for (std::int64_t i = 0; i < c.n_q; ++i, ++rows) {
        double furthest = std::abs(gpu.lse.get(b, h, i, 0) - cpu.lse.get(b, h, i, 0));
        for (std::int64_t x = 0; x < c.d_v; ++x)
          furthest = std::max(furthest, std::abs(gpu.o.get(b, h, i, x) - cpu.o.get(b, h, i, x)));
        unlike += furthest > 0.03 ? 1 : 0;
      }
  EXPECT_LT(static_cast<double>(unlike), 0.03 * static_cast<double>(rows)) << "of " << rows;
}

TEST(CudaHyper, ReadsWhatTheCpuReads) {
  PRESCORE_NEEDS_GPU();
  const Case whole = hyper_case(4, 2, 3000, 3000, 64), chunk = hyper_case(3, 1, 333, 2900, 128),
             full = hyper_case(2, 2, 257, 1025, 64, /*causal=*/false);
  for (const auto& [c, o, what] : {std::tuple{whole, hyper(700), "from the budget"},
                                   {whole, hyper(200), "small tiles"},
                                   {whole, hyper(256, 512), "leaves of 512"},
                                   {whole, hyper(256, 512, 0, 200), "samples alone"},
                                   {whole, prescored(hyper(256, 512), 600), "prescored"},
                                   {chunk, hyper(600), "chunk from the budget"},
                                   {chunk, prescored(hyper(600, 384), 500), "chunk, prescored"},
                                   {full, hyper(200, 256), "not causal"},
                                   {full, prescored(hyper(200), 300), "not causal, prescored"}}) {
    SCOPED_TRACE(what);
    expect_as_on_the_cpu(c, o);
  }
}

TEST(CudaHyper, OtherTypesSizesAndSigns) {
  PRESCORE_NEEDS_GPU();
  Case c = hyper_case(4, 2, 600, 2000, 128);
  c.q_type = c.kv_type = c.o_type = DType::kF16, c.d_v = 64;
  expect_as_on_the_cpu(c, hyper(256, 512));
  c = hyper_case(2, 1, 600, 2000, 80), c.scale = -0.1;
  expect_as_on_the_cpu(c, hyper(256, 512));
  expect_as_on_the_cpu(hyper_case(2, 1, 2300, 1900, 64), hyper(256, 512));  // some see nothing
  Options o = prescored(hyper(256, 512), 600);
  o.plan.selection = Selection::kSample;
  expect_as_on_the_cpu(hyper_case(2, 1, 600, 2000, 64), o);
}

TEST(CudaHyper, WithoutALseTheOutputIsTheSame) {
  PRESCORE_NEEDS_GPU();
  const Case c = hyper_case(2, 1, 600, 2000, 64);
  Data with(c), without(c);
  Options o = hyper(256, 512);
  DeviceCase(with).run(o);
  DeviceCase d(without);
  o.device = Device::kCuda, o.scale = without.scale();
  State to = d.state();
  to.lse = nullptr;
  attention(d.q.view(), d.k.view(), d.v.view(), to, o);
  ok(cudaDeviceSynchronize());
  d.o.copy_back();
  EXPECT_TRUE(with.o.same_bits(without.o));
}

TEST(CudaHyper, EachQueryForItselfToo) {
  PRESCORE_NEEDS_GPU();
  for (const std::int64_t leaf : {0, 384}) {
    Options o = hyper(500, leaf);
    o.plan.routing = Routing::kStrict;
    expect_as_on_the_cpu(hyper_case(2, 1, 200, 2500, 64), o);
  }
}

TEST(CudaHyper, EqualScoresSurviveFromTheFirst) {
  PRESCORE_NEEDS_GPU();
  const Case c = hyper_case(2, 2, 300, 2000, 64);
  const std::vector<float> scores(static_cast<std::size_t>(2 * 2 * 2000), 1.0f);
  const DeviceArray<float> device(scores);
  Data given(c), some(c);
  Options o = prescored(hyper(256, 512, 1 << 20, 0), 700);
  o.cuda.scores = device.data();
  const Report r = DeviceCase(given).run(o);
  // Sinks, the last leaf and what is left of [16, 716) in each span.
  std::int64_t keys = 0;
  for (std::int64_t end = 1701; end <= 2000; ++end) {
    const std::int64_t leaf = ((end - 1) / 128 * 128 + 1 - 128) / 512 * 512;
    keys += 16 + (end - leaf) + 700;
  }
  EXPECT_EQ(r.counters.keys, 2 * 2 * keys);
}

TEST(CudaHyper, RefusesWhatItLacks) {
  PRESCORE_NEEDS_GPU();
  Data data(hyper_case(2, 1, 600, 600, 64));
  const auto refused = [&](Options o, const char* why) {
    try {
      DeviceCase(data).run(o);
      ADD_FAILURE() << "no error: " << why;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(why), std::string::npos) << e.what();
    }
  };
  Options o = hyper(300, 256);
  o.plan.hyper.projections = 12;
  refused(o, "projections with device cuda");
  o = hyper(300, 256);
  o.plan.flaws.repeats = true;
  refused(o, "published flaws");
  o = prescored(hyper(300, 256), 100);
  o.plan.score = Score::kLeverage;
  refused(o, "a fit would know later keys");
}

}  // namespace
}  // namespace prescore::test
