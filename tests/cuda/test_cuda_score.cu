// Scores on the GPU against those of the CPU, whose definitions are tested in float64.
#include "cuda/device.cuh"
#include "score/score_cuda.cuh"
#include "support/scores.h"

namespace prescore::test {
namespace {

// Keys of a Vision Transformer's layer: not causal, few; one of them is not finite.
Case few_keys(std::int64_t d) {
  Case c = gpu_case(2, 3, 3, 257, 257, d, d);
  c.causal = false;
  return c;
}
Options topk(const ScoreOptions& score) {
  Options o;
  o.plan.method = Method::kTopK, o.plan.budget = 64, o.plan.window = 1, o.plan.sinks = 1;
  o.plan.score = score.score, o.plan.seed = score.seed;
  o.score = score;
  o.causal = false;
  return o;
}

std::vector<float> device_scores(Data& data, const ScoreOptions& score) {
  DeviceCase on(data);
  Options o = topk(score);
  o.device = Device::kCuda;
  const cuda::Call call = cuda::prepare(on.q.view(), on.k.view(), on.v.view(), o);
  const DeviceArray<float> out(static_cast<std::size_t>(2 * 3 * 257));
  cuda::score_keys<cuda::bf16>(call.problem, call.score, out.data(), nullptr);
  ok(cudaDeviceSynchronize());
  return out.get();
}

void expect_scores(const std::vector<float>& got, const std::vector<float>& want, double error) {
  ASSERT_EQ(got.size(), want.size());
  for (std::size_t i = 0; i < want.size(); ++i) {
    if (std::isinf(want[i]))
      EXPECT_EQ(got[i], want[i]) << i;
    else
      EXPECT_NEAR(got[i], want[i], error * std::max(1e-3, std::abs(double{want[i]}))) << i;
  }
}

TEST(CudaScore, NormsRandomAndLeverageAreThoseOfTheCpu) {
  PRESCORE_NEEDS_GPU();
  for (const std::int64_t d : {64, 80, 128}) {
    Data data(few_keys(d));
    data.k.set(1, 2, 33, 5, std::numeric_limits<double>::quiet_NaN());
    for (const Score s : {Score::kKeyNorm, Score::kRandom, Score::kLeverage}) {
      const ScoreOptions o{.score = s, .seed = 5};
      SCOPED_TRACE(testing::Message() << name(o) << ", d " << d);
      expect_scores(device_scores(data, o), score(data.k, 257, o),
                    s == Score::kLeverage ? 2e-3 : 1e-5);
    }
  }
}

// By the call that looks at keys alone, of the first of them.
TEST(CudaScore, KeysAloneAreScoredAlike) {
  PRESCORE_NEEDS_GPU();
  Data data(few_keys(64));
  for (const Score s : {Score::kKeyNorm, Score::kRandom, Score::kLeverage}) {
    const ScoreOptions o{.score = s, .seed = 5};
    SCOPED_TRACE(testing::Message() << name(o));
    const DeviceCase on(data);
    const DeviceArray<float> out(static_cast<std::size_t>(2 * 3 * 200));
    score_keys_cuda(on.k.view(), 200, o, out.data(), nullptr);
    ok(cudaDeviceSynchronize());
    expect_scores(out.get(), score(data.k, 200, o), s == Score::kLeverage ? 2e-3 : 1e-5);
  }
  EXPECT_THROW(score_keys_cuda(DeviceCase(data).k.view(), 258, {}, nullptr, nullptr), Error);
}

// From the same draws. Keys in blobs far apart: no assignment hangs on a rounding.
TEST(CudaScore, KMeansIsThatOfTheCpu) {
  PRESCORE_NEEDS_GPU();
  Data data(few_keys(64));
  for (std::int64_t i = 0; i < 257; ++i)
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t h = 0; h < 3; ++h)
        data.k.set(b, h, i, i % 5, data.k.get(b, h, i, i % 5) + 64);
  data.k.set(0, 1, 100, 0, std::numeric_limits<double>::infinity());
  for (const std::int64_t clusters : {1, 5, 12})
    for (const ClusterScore kind :
         {ClusterScore::kDistance, ClusterScore::kRelative, ClusterScore::kNearness}) {
      ScoreOptions o{.score = Score::kKMeans, .seed = 11, .clusters = clusters};
      o.cluster_score = kind;
      SCOPED_TRACE(testing::Message() << name(o) << ", " << clusters << " clusters");
      const std::vector<float> got = device_scores(data, o), want = score(data.k, 257, o);
      if (clusters <= 5) {
        expect_scores(got, want, 2e-3);
        continue;
      }
      // Within a blob the cuts may differ; the objective does not.
      double mine = 0, theirs = 0;
      for (std::size_t i = 0; i < got.size(); ++i)
        if (std::isfinite(want[i])) mine += got[i], theirs += want[i];
      EXPECT_NEAR(mine, theirs, 0.02 * std::abs(theirs));
    }
}

// The plan of those scores, drawn with the CPU's noise or not, is the CPU's.
TEST(CudaScore, PlansAreThoseOfTheCpu) {
  PRESCORE_NEEDS_GPU();
  for (const Selection selection : {Selection::kTopK, Selection::kSample}) {
    Data data(few_keys(64));
    Options o = topk({.score = Score::kRandom, .seed = 3});
    o.plan.selection = selection;
    const std::vector<float> scores = score(data.k, 257, {.score = Score::kRandom, .seed = 3});
    DeviceCase(data).run(o);
    const Planned planned = plan_all(data, o.plan, nullptr, &scores);
    expect_near_plan(data, planned.plan);
  }
}

TEST(CudaScore, WhatTheGpuLacksIsOneSentence) {
  Data data(few_keys(64));
  const auto refuse = [&](const ScoreOptions& score, bool causal, const char* what) {
    Options o = topk(score);
    o.device = Device::kCuda, o.causal = causal;
    try {
      (void)cuda::prepare(data.q.view(), data.k.view(), data.v.view(), o);
      FAIL() << what;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
    }
  };
  refuse({.score = Score::kKMedian}, false, "score with device cuda");
  refuse({.score = Score::kKMeans}, true, "leverage or k-means with device cuda");
  refuse({.score = Score::kKMeans, .clusters = 65}, false, "clusters with device cuda");
  refuse({.score = Score::kLeverage, .leverage = Leverage::kExact}, false, "leverage with device");
  refuse({.score = Score::kKeyNorm, .centred = true}, true, "centred");
}

}  // namespace
}  // namespace prescore::test
