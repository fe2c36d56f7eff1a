// The C ABI: the same results as C++, every mistake a status, structs of older callers.
#include <gtest/gtest.h>

#include <cstring>
#include <functional>
#include <limits>
#include <string>
#include <thread>

#include "prescore/c_api.h"
#include "support/cases.h"

extern "C" int prescore_test_from_c(void);

namespace prescore::test {
namespace {

prescore_tensor c_tensor(const Tensor& t) {
  prescore_tensor c{t.data, static_cast<std::int32_t>(t.dtype), {}, {}};
  std::copy_n(t.shape.begin(), 4, c.shape);
  std::copy_n(t.stride.begin(), 4, c.stride);
  return c;
}
prescore_output c_output(const State& s) {
  prescore_output c{s.o.data, static_cast<std::int32_t>(s.o.dtype), {}, {}, s.lse};
  std::copy_n(s.o.shape.begin(), 4, c.shape);
  std::copy_n(s.o.stride.begin(), 4, c.stride);
  return c;
}

struct CCall {
  explicit CCall(Data& data)
      : q(c_tensor(data.q.view())), k(c_tensor(data.k.view())), v(c_tensor(data.v.view())),
        out(c_output(data.state())), options(prescore_options_default()) {
    options.threads = 1;
  }
  prescore_status run(prescore_report* report = nullptr) {
    return prescore_attention(&q, &k, &v, &out, &options, report);
  }
  prescore_tensor q, k, v;
  prescore_output out;
  prescore_options options;
};

Case small() {
  Case c;
  c.b = 2, c.h_q = 4, c.h_kv = 2, c.n_q = 80, c.n_kv = 700, c.d = 24, c.d_v = 16;
  c.kv_type = DType::kF16, c.order = Order::kTokens;
  return c;
}

TEST(CApi, WorksFromC) { EXPECT_EQ(prescore_test_from_c(), 0) << "line of test_c_api.c"; }

TEST(CApi, SameBitsAsCpp) {
  for (const Method method : {Method::kDense, Method::kWindow, Method::kTopK, Method::kRouted}) {
    Data cpp(small()), c(small());
    Options o;
    o.plan = small_plan(method, 200);
    o.plan.standins = StandIns::kAuto, o.plan.standin_share = 0.002f;
    o.plan.seed = 5, o.plan.score = Score::kKMeans;
    o.index = small_index();
    o.threads = 1;
    const Report want = attention(cpp.q.view(), cpp.k.view(), cpp.v.view(), cpp.state(), o);
    CCall call(c);
    prescore_index_options index = prescore_index_options_default();
    index.segment = 64, index.cluster = 4, index.group = 16, index.sinks = 4;
    call.options.index = &index;
    call.options.method = static_cast<std::int32_t>(method);
    call.options.budget = 200, call.options.sinks = 4, call.options.window = 24;
    call.options.tile = 32, call.options.standin_share = 0.002f;
    call.options.seed = 5, call.options.score = PRESCORE_SCORE_KMEANS;
    prescore_report report;
    prescore_report_init(&report, sizeof report);
    ASSERT_EQ(call.run(&report), PRESCORE_OK) << prescore_last_error();
    EXPECT_TRUE(cpp.o.same_bits(c.o));
    EXPECT_TRUE(cpp.lse.same_bits(c.lse));
    EXPECT_EQ(report.keys, want.counters.keys);
    EXPECT_EQ(report.standins, want.counters.standins);
    EXPECT_EQ(report.method, static_cast<std::int32_t>(method));
    EXPECT_EQ(report.isa, want.isa);
    expect_sentinels(c);
  }
}

TEST(CApi, DefaultsAreThoseOfCpp) {
  const prescore_options c = prescore_options_default();
  const PlanOptions p;
  EXPECT_EQ(c.budget, p.budget);
  EXPECT_EQ(c.sinks, p.sinks);
  EXPECT_EQ(c.window, p.window);
  EXPECT_EQ(c.tile, p.tile);
  EXPECT_EQ(c.route_stride, p.route_stride);
  EXPECT_EQ(c.standin_share, p.standin_share);
  EXPECT_EQ(c.method, PRESCORE_METHOD_AUTO);
  EXPECT_EQ(c.standins, static_cast<std::int32_t>(p.standins));
  const prescore_index_options i = prescore_index_options_default();
  EXPECT_EQ(i.segment, IndexOptions{}.segment);
  EXPECT_EQ(i.cluster, IndexOptions{}.cluster);
}

// Every member of the score and hyper options changes the result, and changes it as in C++.
TEST(CApi, ScoreAndHyperOptionsReachTheCore) {
  struct Change {
    const char* name;
    Method method;
    Score score;
    std::function<void(Options&)> cpp;
    std::function<void(prescore_options&, prescore_score_options&, prescore_hyper_options&)> c;
  };
  using O = Options;
  using P = prescore_options;
  using S = prescore_score_options;
  using H = prescore_hyper_options;
  const Method topk = Method::kTopK, hyper = Method::kPrescoredHyper;
  const Change changes[] = {
      {"clusters", topk, Score::kKMeans, [](O& o) { o.score.clusters = 3; },
       [](P&, S& s, H&) { s.clusters = 3; }},
      {"relative", topk, Score::kKMeans,
       [](O& o) { o.score.cluster_score = ClusterScore::kRelative; },
       [](P&, S& s, H&) { s.cluster_score = PRESCORE_CLUSTER_RELATIVE; }},
      {"iterations", topk, Score::kKMedian, [](O& o) { o.score.iterations = 1; },
       [](P&, S& s, H&) { s.iterations = 1; }},
      {"sigma", topk, Score::kGaussianNorm, [](O& o) { o.score.sigma = 1e-3; },
       [](P&, S& s, H&) { s.sigma = 1e-3; }},
      {"kernel", topk, Score::kKernelKMeans, [](O& o) { o.score.kernel = KernelKMeans::kDistance; },
       [](P&, S& s, H&) { s.kernel = PRESCORE_KERNEL_DISTANCE; }},
      {"features", topk, Score::kKernelKMeans, [](O& o) { o.score.features = 8; },
       [](P&, S& s, H&) { s.features = 8; }},
      {"centred", topk, Score::kKeyNorm, [](O& o) { o.score.centred = true; },
       [](P&, S& s, H&) { s.centred = 1; }},
      {"rotation", topk, Score::kKeyDiff,
       [](O& o) {
         o.score.rotation = {24, 500, true, 2};
       },
       [](P&, S& s, H&) {
         s.rotation_dims = 24, s.rotation_base = 500, s.rotation_interleaved = 1,
         s.rotation_position_scale = 2;
       }},
      {"degree", topk, Score::kUniversal, [](O& o) { o.score.degree = 8; },
       [](P&, S& s, H&) { s.degree = 8; }},
      {"ridge", topk, Score::kLeverage, [](O& o) { o.score.ridge = 100; },
       [](P&, S& s, H&) { s.ridge = 100; }},
      {"sketched", topk, Score::kLeverage,
       [](O& o) { o.score.leverage = Leverage::kSketched, o.score.sketch_rows = 32; },
       [](P&, S& s, H&) { s.leverage = PRESCORE_LEVERAGE_SKETCHED, s.sketch_rows = 32; }},
      {"segment and growth", topk, Score::kLeverage,
       [](O& o) { o.score.segment = 128, o.score.growth = 1; },
       [](P&, S& s, H&) { s.segment = 128, s.growth = 1; }},
      {"values", topk, Score::kOracle, [](O& o) { o.score.value_weighted = true; },
       [](P&, S& s, H&) { s.value_weighted = 1; }},
      {"distance", topk, Score::kOracle, [](O& o) { o.score.distance = 660; },
       [](P&, S& s, H&) { s.distance = 660; }},
      {"threshold", topk, Score::kKeyNorm,
       [](O& o) { o.plan.selection = Selection::kThreshold, o.plan.least_score = 1e6f; },
       [](P& p, S&, H&) { p.selection = PRESCORE_SELECTION_THRESHOLD, p.least_score = 1e6f; }},
      {"share", topk, Score::kKeyNorm,
       [](O& o) { o.plan.selection = Selection::kShare, o.plan.share = .05f; },
       [](P& p, S&, H&) { p.selection = PRESCORE_SELECTION_SHARE, p.share = .05f; }},
      {"sample", topk, Score::kKeyNorm,
       [](O& o) { o.plan.selection = Selection::kSample, o.plan.sample_weights = true; },
       [](P& p, S&, H&) { p.selection = PRESCORE_SELECTION_SAMPLE, p.sample_weights = 1; }},
      {"heads together", Method::kRouted, Score::kKMeans,
       [](O& o) { o.plan.heads_together = false; }, [](P& p, S&, H&) { p.heads_together = 0; }},
      {"budgets by head", Method::kRouted, Score::kKMeans,
       [](O& o) {
         o.plan.heads = {{Method::kDense, 0}, {}, {Method::kWindow, 90}, {}};
       },
       [](P& p, S&, H&) {
         static const prescore_head_budget heads[] = {
             {PRESCORE_METHOD_DENSE, 0}, {}, {PRESCORE_METHOD_WINDOW, 90}, {}};
         p.heads = heads, p.head_count = 4;
       }},
      {"adaptive", topk, Score::kOracle, [](O& o) { o.plan.adaptive = 1; },
       [](P& p, S&, H&) { p.adaptive = 1; }},
      {"projections", hyper, Score::kLeverage, [](O& o) { o.plan.hyper.projections = 2; },
       [](P&, S&, H& h) { h.projections = 2; }},
      {"block", hyper, Score::kLeverage, [](O& o) { o.plan.hyper.block = 32; },
       [](P&, S&, H& h) { h.block = 32; }},
      {"samples", hyper, Score::kLeverage, [](O& o) { o.plan.hyper.samples = 0; },
       [](P&, S&, H& h) { h.samples = 0; }},
      {"leaf", hyper, Score::kLeverage, [](O& o) { o.plan.hyper.leaf = 128; },
       [](P&, S&, H& h) { h.leaf = 128; }},
      {"not centred", hyper, Score::kLeverage, [](O& o) { o.plan.hyper.centred = false; },
       [](P&, S&, H& h) { h.centred = 0; }},
      {"selected", hyper, Score::kLeverage, [](O& o) { o.plan.hyper.selected = 100; },
       [](P&, S&, H& h) { h.selected = 100; }},
  };
  for (const Change& change : changes) {
    SCOPED_TRACE(change.name);
    Data plain(small()), cpp(small()), c(small());
    Options o;
    o.plan = small_plan(change.method, 200);
    o.plan.score = change.score, o.threads = 1, o.score.segment = 64;
    o.plan.hyper = {7, 16, 16, 64, true, 300};
    attention(plain.q.view(), plain.k.view(), plain.v.view(), plain.state(), o);
    change.cpp(o);
    attention(cpp.q.view(), cpp.k.view(), cpp.v.view(), cpp.state(), o);
    CCall call(c);
    prescore_score_options scoring = prescore_score_options_default();
    prescore_hyper_options sizes = prescore_hyper_options_default();
    sizes.block = 16, sizes.samples = 16, sizes.leaf = 64, sizes.selected = 300;
    scoring.segment = 64;
    call.options.scoring = &scoring, call.options.hyper = &sizes;
    call.options.method = static_cast<std::int32_t>(change.method);
    call.options.score = static_cast<std::int32_t>(change.score);
    call.options.budget = 200, call.options.sinks = 4, call.options.window = 24;
    call.options.tile = 32, call.options.seed = o.plan.seed;
    change.c(call.options, scoring, sizes);
    ASSERT_EQ(call.run(), PRESCORE_OK) << prescore_last_error();
    EXPECT_TRUE(cpp.o.same_bits(c.o));
    EXPECT_FALSE(plain.o.same_bits(c.o));
  }
}

TEST(CApi, Certificate) {
  Data data(small());
  CCall call(data);
  call.options.method = PRESCORE_METHOD_ROUTED, call.options.budget = 200;
  call.options.sinks = 4, call.options.window = 24, call.options.tile = 32;
  call.options.certify_samples = 8;
  prescore_report report;
  prescore_report_init(&report, sizeof report);
  prescore_head_certificate heads[4] = {};
  report.heads = heads, report.head_count = 4;
  ASSERT_EQ(call.run(&report), PRESCORE_OK) << prescore_last_error();
  for (const prescore_head_certificate& h : heads) {
    EXPECT_EQ(h.queries, 2 * 2 * 8);
    EXPECT_GT(h.mass, 0);
    EXPECT_LT(h.mass, 1);
    EXPECT_EQ(h.redone, 0);
  }
  EXPECT_EQ(report.heads, heads);
}

TEST(CApi, PositionsAndAnIndexThatLives) {
  Data want(small()), got(small());
  std::vector<std::int32_t> positions;
  for (std::int32_t i = 0; i < 80; ++i) positions.push_back(500 + i);
  Options o;
  o.plan = small_plan(Method::kRouted, 200);
  Visibility see = want.visibility();
  see.positions = positions;
  KeyIndex index(o.index);
  attention(want.q.view(), want.k.view(), want.v.view(), see, &index, want.state(), o,
            *make_serial_executor());
  CCall call(got);
  call.options.method = PRESCORE_METHOD_ROUTED, call.options.budget = 200;
  call.options.sinks = 4, call.options.window = 24, call.options.tile = 32;
  prescore_index* c_index = nullptr;
  ASSERT_EQ(prescore_index_create(nullptr, &c_index), PRESCORE_OK);
  ASSERT_EQ(prescore_attention_indexed(&call.q, &call.k, &call.v, positions.data(), c_index,
                                       &call.out, &call.options, nullptr),
            PRESCORE_OK)
      << prescore_last_error();
  EXPECT_TRUE(want.o.same_bits(got.o));
  EXPECT_EQ(prescore_index_size(c_index), 512);
  EXPECT_GT(prescore_index_bytes(c_index), 0);
  std::int64_t kept = -1;
  EXPECT_EQ(prescore_index_validate(c_index, &call.k, &kept), PRESCORE_OK);
  EXPECT_EQ(kept, 512);
  EXPECT_EQ(prescore_index_truncate(c_index, 100), PRESCORE_OK);
  EXPECT_EQ(prescore_index_size(c_index), 0);
  prescore_index_free(c_index);
}

TEST(CApi, MergeScoresAndWorkspace) {
  Data a(small()), b(small());
  CCall first(a), second(b);
  first.k.shape[2] = first.v.shape[2] = 300, first.options.causal = 0;
  second.options.causal = 0;
  const auto shift = [](prescore_tensor& t) {
    t.data = static_cast<const char*>(t.data) + 300 * t.stride[2] * 2, t.shape[2] = 400;
  };
  shift(second.k), shift(second.v);
  first.options.method = second.options.method = PRESCORE_METHOD_DENSE;
  ASSERT_EQ(first.run(), PRESCORE_OK) << prescore_last_error();
  ASSERT_EQ(second.run(), PRESCORE_OK) << prescore_last_error();
  ASSERT_EQ(prescore_merge(&first.out, &second.out), PRESCORE_OK) << prescore_last_error();
  a.shape.causal = false;
  expect_near_dense(a);

  prescore_options o = prescore_options_default();
  o.score = PRESCORE_SCORE_KEY_NORM, o.threads = 1;
  std::vector<float> c(4 * 700), cpp(4 * 700);
  CCall call(a);
  ASSERT_EQ(prescore_score_keys(&call.k, 700, &o, c.data()), PRESCORE_OK);
  score_keys(a.k.view(), 700, {.score = Score::kKeyNorm}, cpp.data(), *make_serial_executor());
  EXPECT_EQ(c, cpp);

  std::int64_t bytes = 0;
  ASSERT_EQ(prescore_workspace_bytes(&call.q, &call.k, &call.v, &call.options, &bytes),
            PRESCORE_OK);
  EXPECT_GT(bytes, 0);
}

// A caller compiled against a header with fewer members: they keep their defaults, and nothing
// behind the caller's struct is touched.
TEST(CApi, OlderCallers) {
  struct Old {
    prescore_options options;
    unsigned char guard[64];
  } old;
  std::memset(static_cast<void*>(&old), 0x5a, sizeof old);
  const std::size_t size = offsetof(prescore_options, sinks);
  prescore_options_init(&old.options, size);
  EXPECT_EQ(old.options.struct_size, size);
  const auto* bytes = reinterpret_cast<const unsigned char*>(&old);
  for (std::size_t i = size; i < sizeof old; ++i) ASSERT_EQ(bytes[i], 0x5a) << i;
  Data data(small());
  CCall call(data);
  old.options.threads = 1;
  call.options = old.options;
  EXPECT_EQ(call.run(), PRESCORE_OK) << prescore_last_error();

  struct {
    prescore_report report;
    unsigned char guard[64];
  } report;
  std::memset(static_cast<void*>(&report), 0x5a, sizeof report);
  const std::size_t report_size = offsetof(prescore_report, index_s);
  prescore_report_init(&report.report, report_size);
  EXPECT_EQ(call.run(&report.report), PRESCORE_OK);
  EXPECT_EQ(report.report.queries, 2 * 4 * 80);
  bytes = reinterpret_cast<const unsigned char*>(&report);
  for (std::size_t i = report_size; i < sizeof report; ++i) ASSERT_EQ(bytes[i], 0x5a) << i;
}

TEST(CApi, EveryMistakeIsAStatusWithASentence) {
  Data data(small());
  const auto expect_invalid = [&](const char* what, const auto& spoil) {
    CCall call(data);
    spoil(call);
    EXPECT_EQ(call.run(), PRESCORE_INVALID_ARGUMENT) << what;
    const std::string text = prescore_last_error();
    EXPECT_NE(text.find(", got "), std::string::npos) << what << ": " << text;
    EXPECT_NE(text.find(", want "), std::string::npos) << what << ": " << text;
  };
  expect_invalid("dtype", [](CCall& c) { c.q.dtype = 17; });
  expect_invalid("dtype", [](CCall& c) { c.k.dtype = -1; });
  expect_invalid("method", [](CCall& c) { c.options.method = 99; });
  expect_invalid("routing", [](CCall& c) { c.options.routing = -1; });
  expect_invalid("stand-ins", [](CCall& c) { c.options.standins = 3; });
  expect_invalid("score", [](CCall& c) { c.options.score = 13; });
  expect_invalid("compute", [](CCall& c) { c.options.compute = 3; });
  expect_invalid("causal", [](CCall& c) { c.options.causal = 2; });
  expect_invalid("threads", [](CCall& c) { c.options.threads = -1; });
  expect_invalid("threads", [](CCall& c) { c.options.threads = 1 << 30; });
  expect_invalid("struct_size", [](CCall& c) { c.options.struct_size = 0; });
  expect_invalid("struct_size", [](CCall& c) { c.options.struct_size = 1 << 20; });
  expect_invalid("half a pointer", [](CCall& c) {
    c.options.index = reinterpret_cast<const prescore_index_options*>(std::uintptr_t{1} << 31);
    c.options.struct_size = offsetof(prescore_options, index) + 4;
  });
  expect_invalid("shape", [](CCall& c) { c.q.shape[2] = 0; });
  expect_invalid("data", [](CCall& c) { c.v.data = nullptr; });
  expect_invalid("out", [](CCall& c) { c.out.data = nullptr; });
  expect_invalid("budget", [](CCall& c) { c.options.budget = -1; });
  expect_invalid("selection", [](CCall& c) { c.options.selection = 4; });
  expect_invalid("sample weights", [](CCall& c) { c.options.sample_weights = 2; });
  expect_invalid("share", [](CCall& c) { c.options.share = 2; });
  prescore_score_options scoring = prescore_score_options_default();
  scoring.clusters = -1;
  expect_invalid("clusters", [&](CCall& c) {
    c.options.method = PRESCORE_METHOD_TOPK, c.options.scoring = &scoring;
  });
  scoring.struct_size = 1;
  expect_invalid("size of scoring", [&](CCall& c) { c.options.scoring = &scoring; });
  prescore_hyper_options hyper = prescore_hyper_options_default();
  hyper.projections = 17;
  expect_invalid("projections", [&](CCall& c) {
    c.options.method = PRESCORE_METHOD_HYPER, c.options.hyper = &hyper;
  });

  CCall call(data);
  EXPECT_EQ(prescore_attention(&call.q, nullptr, &call.v, &call.out, nullptr, nullptr),
            PRESCORE_INVALID_ARGUMENT);
  EXPECT_EQ(prescore_attention(&call.q, &call.k, &call.v, nullptr, nullptr, nullptr),
            PRESCORE_INVALID_ARGUMENT);
  prescore_report report{};  // without struct_size
  EXPECT_EQ(call.run(&report), PRESCORE_INVALID_ARGUMENT);
  EXPECT_EQ(prescore_merge(nullptr, &call.out), PRESCORE_INVALID_ARGUMENT);
  EXPECT_EQ(prescore_score_keys(nullptr, 1, nullptr, nullptr), PRESCORE_INVALID_ARGUMENT);
  EXPECT_EQ(prescore_score_keys(&call.k, 1, nullptr, nullptr), PRESCORE_INVALID_ARGUMENT);
  EXPECT_EQ(prescore_workspace_bytes(&call.q, &call.k, &call.v, nullptr, nullptr),
            PRESCORE_INVALID_ARGUMENT);
  EXPECT_EQ(prescore_index_create(nullptr, nullptr), PRESCORE_INVALID_ARGUMENT);
  EXPECT_EQ(prescore_index_extend(nullptr, &call.k, &call.v, 1), PRESCORE_INVALID_ARGUMENT);
  EXPECT_EQ(prescore_index_truncate(nullptr, 0), PRESCORE_INVALID_ARGUMENT);
  EXPECT_EQ(prescore_index_validate(nullptr, &call.k, nullptr), PRESCORE_INVALID_ARGUMENT);
  EXPECT_EQ(prescore_index_size(nullptr), 0);
  EXPECT_EQ(prescore_index_bytes(nullptr), 0);
  EXPECT_EQ(prescore_isa_name(9, 0), nullptr);
  EXPECT_EQ(prescore_isa_name(0, 9), nullptr);
  EXPECT_STREQ(prescore_status_name(PRESCORE_OK), "ok");
  prescore_index_options bad = prescore_index_options_default();
  bad.segment = -5;
  prescore_index* index = nullptr;
  EXPECT_EQ(prescore_index_create(&bad, &index), PRESCORE_INVALID_ARGUMENT);
  EXPECT_EQ(index, nullptr);
  bad = prescore_index_options_default();
  bad.packed = 7;
  EXPECT_EQ(prescore_index_create(&bad, &index), PRESCORE_INVALID_ARGUMENT);
}

// Without a GPU, or in a build without CUDA, asking for one is a status and a sentence.
TEST(CApi, NoGpuIsAStatus) {
  if (!gpus().empty()) GTEST_SKIP() << "there is a GPU";
  Case c = small();
  c.q_type = c.kv_type = c.o_type = DType::kF16;
  c.order = Order::kDense;
  Data data(c);
  CCall call(data);
  const prescore_cuda_options cuda = prescore_cuda_options_default();
  call.options.cuda = &cuda;
  call.options.method = PRESCORE_METHOD_DENSE;
  EXPECT_NE(call.run(), PRESCORE_OK);
  EXPECT_NE(std::string(prescore_last_error()).find("want"), std::string::npos)
      << prescore_last_error();
  prescore_cuda_options bad = cuda;
  bad.struct_size = 3;
  call.options.cuda = &bad;
  EXPECT_EQ(call.run(), PRESCORE_INVALID_ARGUMENT);
}

TEST(CApiThread, LastErrorBelongsToItsThread) {
  prescore_index_truncate(nullptr, 0);
  const std::string mine = prescore_last_error();
  EXPECT_FALSE(mine.empty());
  std::thread([] {
    EXPECT_STREQ(prescore_last_error(), "");
    prescore_index_create(nullptr, nullptr);
    EXPECT_STRNE(prescore_last_error(), "");
  }).join();
  EXPECT_EQ(prescore_last_error(), mine);
}

}  // namespace
}  // namespace prescore::test
