// The one call on the GPU against the float64 oracle, merging, and what is refused.
#include <algorithm>

#include "cuda/device.cuh"

namespace prescore::test {
namespace {

class Cuda : public EachKernel {};
PRESCORE_WITH_EACH_KERNEL(Cuda);

TEST_P(Cuda, DenseIsNearTheOracle) {
  for (const auto& [n_q, n_kv] : {std::pair{1, 1},
                                  {1, 257},
                                  {63, 64},
                                  {128, 128},
                                  {129, 300},
                                  {130, 100},
                                  {300, 300},
                                  {17, 700}})
    for (const std::int64_t d : {8, 64, 80, 96, 128, 256})
      for (const bool causal : {true, false}) {
        Case c = gpu_case(2, 4, 2, n_q, n_kv, d, d == 96 ? 64 : d);
        c.causal = causal;
        c.order = d == 80 ? Order::kDense : Order::kTokens;
        c.seed = static_cast<std::uint64_t>(n_q + d);
        if (d % 3 == 0) c.q_type = c.kv_type = c.o_type = DType::kF16;
        Data data(c);
        DeviceCase(data).run(method(Method::kDense));
        expect_near_dense(data);
      }
}

TEST_P(Cuda, WindowReadsWhatTheCpuReads) {
  for (const std::int64_t budget : {20, 200, 1000}) {
    Data data(gpu_case(1, 4, 1, 300, 900, 64, 64));
    Options o = method(Method::kWindow, budget);
    o.cuda.count = true;
    const Report report = DeviceCase(data).run(o);
    const Planned planned = plan_all(data, o.plan, nullptr);
    expect_near_plan(data, planned.plan);
    std::int64_t keys = 0;
    reference::for_each_row(
        data.problem(), planned.plan, nullptr,
        [&](auto, auto, auto, auto entries) { keys += static_cast<std::int64_t>(entries.size()); });
    EXPECT_EQ(report.counters.keys, keys) << budget;
    EXPECT_EQ(report.counters.queries, 4 * 300);
  }
}

// The same plan as the CPU's, given the same scores: NaN last, ties by position.
TEST_P(Cuda, TopKReadsWhatTheCpuReads) {
  for (const bool equal : {false, true}) {
    Data data(gpu_case(2, 4, 2, 300, 2300, 64, 64));
    std::vector<float> scores = random_scores(data.shape, 3);
    if (equal) std::fill(scores.begin(), scores.end(), 1.5f);
    for (std::size_t i = 0; i < scores.size(); i += 50) scores[i] = NAN;
    const DeviceArray<float> device(scores);
    Options o = method(Method::kTopK, 900);
    o.cuda.scores = device.data(), o.cuda.count = true;
    const Report report = DeviceCase(data).run(o);
    const Planned planned = plan_all(data, o.plan, nullptr, &scores);
    expect_near_plan(data, planned.plan);
    std::int64_t keys = 0;
    reference::for_each_row(
        data.problem(), planned.plan, nullptr,
        [&](auto, auto, auto, auto entries) { keys += static_cast<std::int64_t>(entries.size()); });
    EXPECT_EQ(report.counters.keys, keys);
  }
}

// Its ids too, tile by tile.
TEST(CudaTopK, ListsTheKeysOfTheCpusPlan) {
  PRESCORE_NEEDS_GPU();
  Data data(gpu_case(2, 4, 2, 300, 2300, 64, 64));
  std::vector<float> scores = random_scores(data.shape, 3);
  for (std::size_t i = 0; i < scores.size(); i += 50) scores[i] = NAN;
  Options o = method(Method::kTopK, 900);
  const DeviceArray<float> device(scores);
  o.cuda.scores = device.data();
  LaidOut on(data, o);
  cuda::plan_topk(on.call.problem, on.call.plan, on.call.classes[0].rule, device.data(), nullptr);
  on.fetch_plans();
  const Planned planned = plan_all(data, o.plan, nullptr, &scores);
  std::size_t compared = 0;
  for (std::size_t i = 0; i < planned.plan.tiles.size(); ++i) {
    const Tile& tile = planned.plan.tiles[i];
    std::vector<std::int64_t> want(planned.plan.reads[i].keys.begin(),
                                   planned.plan.reads[i].keys.end());
    for (const auto& [begin, end] : planned.plan.reads[i].ranges)
      for (std::int64_t j = begin; j < end; ++j) want.push_back(j);
    for (std::size_t t = 0; t < on.tiles.size(); ++t) {
      const cuda::TileInfo& mine = on.tiles[t];
      if (mine.rows == 0 || mine.batch != tile.batch || mine.q != tile.first) continue;
      const std::int64_t at = on.plan_of(tile.head, static_cast<std::int64_t>(t));
      const cuda::Reads& r = on.reads[static_cast<std::size_t>(at)];
      const auto* from = on.list.data() + at * on.capacity();
      std::vector<std::int64_t> got(from, from + r.keys);
      for (int j = 0; j < r.sinks; ++j) got.push_back(j);
      for (int j = r.window; j < r.end; ++j) got.push_back(j);
      std::sort(got.begin(), got.end()), std::sort(want.begin(), want.end());
      EXPECT_EQ(got, want) << "tile " << tile.first << ", head " << tile.head;
      ++compared;
    }
  }
  EXPECT_EQ(compared, planned.plan.tiles.size());
}

TEST_P(Cuda, TopKByNorms) {
  for (const Score score : {Score::kKeyNorm, Score::kValueNorm}) {
    Data data(gpu_case(1, 2, 2, 200, 2000, 80, 64));
    Options o = method(Method::kTopK, 800);
    o.plan.score = score;
    std::vector<float> scores;
    const Storage& from = score == Score::kKeyNorm ? data.k : data.v;
    for (std::int64_t h = 0; h < 2; ++h)
      for (std::int64_t i = 0; i < 2000; ++i) {
        double sum = 0;
        for (std::int64_t x = 0; x < from.shape()[3]; ++x)
          sum += from.get(0, h, i, x) * from.get(0, h, i, x);
        scores.push_back(static_cast<float>(std::sqrt(sum)));
      }
    DeviceCase(data).run(o);
    const Planned planned = plan_all(data, o.plan, nullptr, &scores);
    expect_near_plan(data, planned.plan);
  }
}

// In every dtype what the CPU makes of the same numbers in f32, rounded. Where a part is empty its
// o is not looked at.
TEST(CudaMerge, IsThatOfTheCpu) {
  PRESCORE_NEEDS_GPU();
  constexpr float kEmpty = -std::numeric_limits<float>::infinity();
  const std::array<std::int64_t, 4> shape{2, 3, 65, 80};
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    std::mt19937_64 random(7);
    std::normal_distribution<double> normal(0, 3);
    Storage part[2] = {{type, shape}, {type, shape}};
    Storage exact[2] = {{DType::kF32, shape}, {DType::kF32, shape}};
    std::vector<float> lse[2];
    for (int which = 0; which < 2; ++which)
      for (std::int64_t i = 0; i < 2 * 3 * 65; ++i) {
        const bool empty = which == 0 ? i % 5 == 0 : i % 7 == 0;
        lse[which].push_back(empty ? kEmpty : static_cast<float>(normal(random)));
        for (std::int64_t e = 0; e < 80; ++e) {
          const double x = empty ? std::nan("") : normal(random);
          part[which].set(i / 195, i / 65 % 3, i % 65, e, x);
          exact[which].set(i / 195, i / 65 % 3, i % 65, e,
                           part[which].get(i / 195, i / 65 % 3, i % 65, e));
        }
      }
    const Mirror into(part[0].view()), other(part[1].view());
    const DeviceArray<float> into_lse(lse[0]), other_lse(lse[1]);
    merge_cuda({into.out(), into_lse.data()}, {other.out(), other_lse.data()}, nullptr);
    ok(cudaDeviceSynchronize());
    into.copy_back();
    const std::vector<float> got = into_lse.get();
    merge({exact[0].out(), lse[0].data()}, {exact[1].out(), lse[1].data()});
    const double step = type == DType::kF32 ? 1e-6 : type == DType::kF16 ? 1e-3 : 8e-3;
    for (std::int64_t i = 0; i < 2 * 3 * 65; ++i) {
      const float want_lse = lse[0][static_cast<std::size_t>(i)];
      if (want_lse == kEmpty) {
        EXPECT_EQ(got[static_cast<std::size_t>(i)], kEmpty) << i;
        continue;
      }
      EXPECT_NEAR(got[static_cast<std::size_t>(i)], want_lse, 1e-5) << i;
      for (std::int64_t e = 0; e < 80; ++e) {
        const double want = exact[0].get(i / 195, i / 65 % 3, i % 65, e);
        EXPECT_NEAR(part[0].get(i / 195, i / 65 % 3, i % 65, e), want, step * (1 + std::abs(want)));
      }
    }
  }
}

TEST(CudaMerge, PartsMustBeAlike) {
  Storage a(DType::kF32, {1, 1, 2, 8}), b(DType::kBF16, {1, 1, 2, 8});
  float lse[2] = {};
  EXPECT_THROW(merge_cuda({a.out(), lse}, {b.out(), lse}, nullptr), Error);
  EXPECT_THROW(merge_cuda({a.out(), nullptr}, {a.out(), lse}, nullptr), Error);
}

TEST(CudaErrors, EachMistakeIsOneSentence) {
  PRESCORE_NEEDS_GPU();
  const auto expect_refused = [](const char* what, Case c, const auto& spoil) {
    Data data(c);
    DeviceCase d(data);
    Options o = method(Method::kRouted);
    spoil(o);
    try {
      d.run(o);
      ADD_FAILURE() << what << " was accepted";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
    }
  };
  const Case good = gpu_case(1, 2, 1, 40, 600, 64, 64);
  const auto nothing = [](Options&) {};
  Case c = good;
  c.q_type = c.kv_type = c.o_type = DType::kF32;
  expect_refused("dtypes", c, nothing);
  c = good, c.o_type = DType::kF32;
  expect_refused("o", c, nothing);
  expect_refused("head size", gpu_case(1, 2, 1, 40, 600, 60, 64), nothing);
  expect_refused("head size", gpu_case(1, 2, 1, 40, 600, 264, 64), nothing);
  c = good, c.order = Order::kPadded;
  expect_refused("aligned", c, nothing);
  expect_refused("sinks", good, [](Options& o) { o.index.sinks = -5; });
  expect_refused("sinks", good, [](Options& o) { o.index.sinks = 513; });
  expect_refused("iterations", good, [](Options& o) { o.index.iterations = 0; });
  expect_refused("packed sequences", good, [](Options& o) {
    o.plan.method = Method::kHyper;
    o.cuda.cu_seqlens_q = o.cuda.cu_seqlens_k = reinterpret_cast<const std::int32_t*>(&o);
    o.cuda.sequences = 1;
  });
  expect_refused("score", good, [](Options& o) { o.plan.method = Method::kTopK; });
  expect_refused("segment", good, [](Options& o) { o.index.segment = 256; });
  expect_refused("cluster", good, [](Options& o) { o.index.cluster = 4; });
  c = good, c.scale = NAN;
  expect_refused("scale", c, nothing);
  expect_refused("segment", good, [](Options& o) {
    o.plan.method = Method::kTopK, o.plan.score = Score::kKeyNorm, o.score.segment = 256;
  });
  expect_refused("tile", good, [](Options& o) { o.plan.tile = 256; });
  expect_refused("cu_seqlens", good, [](Options& o) {
    o.cuda.cu_seqlens_q = reinterpret_cast<const std::int32_t*>(&o);
  });
  expect_refused("workspace_bytes", good, [](Options& o) {
    o.cuda.workspace = reinterpret_cast<void*>(std::uintptr_t{256}), o.cuda.workspace_bytes = 1;
  });
}

TEST(CudaErrors, MemoryOfTheHostIsRefused) {
  PRESCORE_NEEDS_GPU();
  Data data(gpu_case(1, 2, 1, 40, 600, 64, 64));
  const DeviceCase d(data);
  alignas(256) static float host[4096];
  const auto refused = [&](const char* what, const auto& spoil) {
    Tensor q = d.q.view(), k = d.k.view(), v = d.v.view();
    State out = d.state();
    Options o = method(Method::kTopK);
    o.device = Device::kCuda, o.plan.score = Score::kKeyNorm;
    spoil(q, k, v, out, o);
    try {
      attention(q, k, v, out, o);
      ADD_FAILURE() << what << " was accepted";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(std::string("memory of ") + what), std::string::npos)
          << e.what();
    }
  };
  refused("q", [&](auto& q, auto&, auto&, auto&, auto&) { q = data.q.view(); });
  refused("k", [&](auto&, auto& k, auto&, auto&, auto&) { k = data.k.view(); });
  refused("v", [&](auto&, auto&, auto& v, auto&, auto&) { v = data.v.view(); });
  refused("o", [&](auto&, auto&, auto&, auto& out, auto&) { out.o = data.o.out(); });
  refused("lse", [&](auto&, auto&, auto&, auto& out, auto&) { out.lse = host; });
  refused("scores", [&](auto&, auto&, auto&, auto&, auto& o) { o.cuda.scores = host; });
  refused("cu_seqlens_q", [&](auto&, auto&, auto&, auto&, auto& o) {
    o.cuda.cu_seqlens_q = o.cuda.cu_seqlens_k = reinterpret_cast<const std::int32_t*>(host);
    o.cuda.sequences = 1;
  });
  refused("workspace", [&](auto&, auto&, auto&, auto&, auto& o) {
    o.cuda.workspace = host, o.cuda.workspace_bytes = std::int64_t{1} << 40;
  });
}

// Whichever device is the current one; it stays so.
TEST(CudaDevices, ACallRunsWhereItsArraysAre) {
  PRESCORE_NEEDS_GPU();
  if (gpus().size() < 2) GTEST_SKIP() << "one GPU";
  Data data(gpu_case(1, 2, 1, 40, 600, 64, 64));
  ok(cudaSetDevice(1));
  {
    DeviceCase d(data);
    cudaStream_t stream;
    ok(cudaStreamCreate(&stream));
    Options o = method(Method::kRouted);
    o.device = Device::kCuda, o.causal = data.shape.causal, o.scale = data.scale();
    o.plan.budget = 600, o.cuda.stream = stream;
    ok(cudaSetDevice(0));
    attention(d.q.view(), d.k.view(), d.v.view(), d.state(), o);
    int current = -1;
    ok(cudaGetDevice(&current));
    EXPECT_EQ(current, 0);
    ok(cudaStreamSynchronize(stream));
    ok(cudaSetDevice(1));
    d.o.copy_back(), d.lse.copy_back();
    ok(cudaStreamDestroy(stream));
  }
  ok(cudaSetDevice(0));
  expect_near_dense(data);
}

// Keys that only seem to be there (strides of zero), and an output that is larger than its memory:
// the call fails before it reads them, with the cause, and the next call works.
TEST(CudaErrors, WhatTheGpuRefusesIsAnErrorWithItsCause) {
  PRESCORE_NEEDS_GPU();
  const Case small = gpu_case(1, 2, 1, 40, 600, 64, 64);
  const auto expect_error = [&](std::int64_t heads, std::int64_t n_kv, const char* what) {
    Data data(small);
    DeviceCase d(data);
    const auto stretch = [&](Tensor t, std::int64_t n) {
      t.shape = {1, heads, n, 64}, t.stride = {0, 0, 0, 1};
      return t;
    };
    const Tensor q = stretch(d.q.view(), 1), k = stretch(d.k.view(), n_kv);
    const State out{{const_cast<void*>(d.o.view().data),
                     d.o.view().dtype,
                     {1, heads, 1, 64},
                     {64 * heads, 64, 64, 1}},
                    nullptr};
    Options options = method(Method::kRouted);
    options.device = Device::kCuda;
    try {
      attention(q, k, k, out, options);
      ADD_FAILURE() << what << ": no error";
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find(what), std::string::npos) << e.what();
    }
    DeviceCase(data).run(method(Method::kDense));
    expect_near_dense(data);
  };
  expect_error(64, std::int64_t{1} << 30, "allocating the workspace");
  expect_error(70000, 1024, "index_kernel");  // more heads than a grid has rows
}

}  // namespace
}  // namespace prescore::test
