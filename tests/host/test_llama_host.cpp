// Whole models through the callback host: counts, and what happens when the cache changes behind
// us.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/layer_set.h"
#include "llama/llama_host.h"
#include "llama/rotation.h"
#include "tiny_model.h"

namespace prescore::test {
namespace {

using host::LlamaHost;

constexpr int kContext = 2560;
constexpr int kLayers = TinyModel::kLayers;

/// Tokens without meaning: what is asserted is exact, not language.
std::vector<llama_token> some_tokens(int n, unsigned seed) {
  std::vector<llama_token> tokens;
  for (unsigned i = 0; i < static_cast<unsigned>(n); ++i)
    tokens.push_back(
        static_cast<llama_token>((i * 7919u + i * i * 31u + seed * 104729u) % TinyModel::kVocab));
  return tokens;
}

Options routed() {
  Options o;
  o.plan.method = Method::kRouted;
  o.plan.budget = 384;
  return o;
}

Options dense() {
  Options o;
  o.plan.method = Method::kDense;
  o.compute = Compute::kF32;
  return o;
}

class Reader {
 public:
  Reader(llama_model* model, const Options& options,
         LlamaHost::Mode mode = LlamaHost::Mode::kPrescore)
      : host(options), vocab_(llama_vocab_n_tokens(llama_model_get_vocab(model))) {
    host.set_mode(mode);
    llama_context_params params = llama_context_default_params();
    params.n_ctx = params.n_batch = params.n_ubatch = kContext;
    params.n_threads = params.n_threads_batch = 2;
    params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
    host.attach(params);
    context_.reset(llama_init_from_model(model, params));
  }

  /// Reads tokens where the cache ends; returns the logits of the last.
  std::vector<float> read(std::vector<llama_token> tokens) {
    const auto n = static_cast<std::int32_t>(tokens.size());
    EXPECT_EQ(llama_decode(context_.get(), llama_batch_get_one(tokens.data(), n)), 0);
    EXPECT_EQ(host.stats().error, "");
    const float* logits = llama_get_logits_ith(context_.get(), -1);
    return {logits, logits + vocab_};
  }
  llama_memory_t memory() { return llama_get_memory(context_.get()); }

  LlamaHost host;

 private:
  int vocab_;
  std::unique_ptr<llama_context, decltype(&llama_free)> context_{nullptr, llama_free};
};

/// Distance of two rows of logits, relative to the second.
double relative(const std::vector<float>& a, const std::vector<float>& b) {
  double difference = 0, size = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    difference += std::pow(static_cast<double>(a[i]) - static_cast<double>(b[i]), 2);
    size += std::pow(static_cast<double>(b[i]), 2);
  }
  return std::sqrt(difference / size);
}

llama_model* tiny() {
  static const Llama model = make_model({});
  return model.get();
}

TEST(LlamaHost, TakesEveryLayerOverAlsoInReusedGraphs) {
  Reader reader(tiny(), routed());
  reader.read(some_tokens(1600, 1));
  const host::Stats& s = reader.host.stats();
  EXPECT_EQ(s.taken, kLayers);
  EXPECT_EQ(s.left_count(), 0);
  EXPECT_EQ(s.methods.at("routed"), kLayers);
  EXPECT_GT(s.seconds, 0);
  EXPECT_LT(s.counters.keys, s.counters.visible / 2);
  // Decode steps reuse their graph: its nodes are rewritten once and computed each time.
  for (int i = 0; i < 3; ++i) reader.read({static_cast<llama_token>(i)});
  EXPECT_EQ(s.taken, 4 * kLayers);
  EXPECT_EQ(s.few, 3 * kLayers);
}

TEST(LlamaHost, ComputesLayersOutsideTheSetDenselyAndCountsThem) {
  Reader reader(tiny(), routed());
  reader.host.runner().set_layers(host::parse_layers("layers", "odd", kLayers));
  reader.read(some_tokens(1600, 1));
  const host::Stats& s = reader.host.stats();
  EXPECT_EQ(s.taken, kLayers);
  EXPECT_EQ(s.kept, kLayers / 2);
  EXPECT_EQ(s.methods, (std::map<std::string, std::int64_t>{{"routed", kLayers / 2}}));
  EXPECT_LT(s.replaced.keys, s.replaced.visible / 2);
  EXPECT_EQ(s.counters.keys - s.replaced.keys, s.counters.visible - s.replaced.visible);

  // With no layer in the set every method is dense.
  Options exact = routed();
  exact.compute = Compute::kF32;
  Reader none(tiny(), exact), whole(tiny(), dense());
  none.host.runner().set_layers(host::parse_layers("layers", "first:0", kLayers));
  EXPECT_EQ(none.read(some_tokens(1600, 1)), whole.read(some_tokens(1600, 1)));
  EXPECT_EQ(none.host.stats().kept, kLayers);
  EXPECT_EQ(none.host.runner().index_bytes(), 0);
}

/// Of the tiny model: heads of layer 0 for prompts, of layer 1 for decoding.
std::shared_ptr<host::HeadProfile> tiny_profile() {
  host::ModelIdentity shape{"tiny", "llama", kLayers, 4, 2, 64, "0123456789abcdef"};
  auto p = std::make_shared<host::HeadProfile>(host::plain_profile(shape));
  p->prompt[0] = "d.mw", p->decode[1] = "..d.";
  p->many = 600, p->window = 100;
  return p;
}

TEST(LlamaHost, GivesHeadsTheBudgetsOfTheirLayer) {
  Reader reader(tiny(), routed());
  reader.host.set_profile(tiny_profile());
  std::map<std::string, std::vector<HeadBudget>> seen;
  reader.host.runner().on_plan(
      [&](const std::string& cache, const PlanOptions& plan) { seen[cache] = plan.heads; });
  using Budgets = std::vector<HeadBudget>;
  reader.read(some_tokens(600, 1));
  EXPECT_EQ(seen["cache_k_l0"],
            (Budgets{{Method::kDense, 0}, {}, {Method::kRouted, 600}, {Method::kWindow, 100}}));
  EXPECT_EQ(seen["cache_k_l1"], Budgets{});
  const host::Stats& s = reader.host.stats();
  EXPECT_EQ(s.profiled, 1);
  EXPECT_EQ(s.unprofiled, 0);
  reader.read({1});  // a decode step of tile routing is dense in every head
  EXPECT_EQ(seen["cache_k_l0"], Budgets{});
  EXPECT_EQ(s.profiled, 1);

  Options strict = routed();
  strict.plan.routing = Routing::kStrict;
  reader.host.runner().set_options(strict);
  for (const int n : {1, 40}) {
    reader.read(some_tokens(n, 2));
    EXPECT_EQ(seen["cache_k_l0"], Budgets{});
    EXPECT_EQ(seen["cache_k_l1"], (Budgets{{}, {}, {Method::kDense, 0}, {}}));
  }
  EXPECT_EQ(s.profiled, 3);

  // Budgets by head that the caller gave stay, and hyper has none.
  strict.plan.heads.assign(4, {Method::kAuto, 300});
  reader.host.runner().set_options(strict);
  reader.read(some_tokens(40, 3));
  EXPECT_EQ(seen["cache_k_l1"], strict.plan.heads);
  Options hyper;
  hyper.plan.method = Method::kHyper;
  reader.host.runner().set_options(hyper);
  reader.read(some_tokens(40, 3));
  EXPECT_EQ(seen["cache_k_l0"], Budgets{});
  EXPECT_EQ(s.profiled, 3);
}

TEST(LlamaHost, DenseHeadsReadEverything) {
  Options exact = routed();
  exact.compute = Compute::kF32;
  const auto tokens = some_tokens(1600, 1);
  Reader whole(tiny(), dense()), ours(tiny(), exact), none(tiny(), exact);
  auto p = tiny_profile();
  p->prompt = {"dddd", "dddd"};
  ours.host.set_profile(p);
  EXPECT_LT(relative(ours.read(tokens), whole.read(tokens)), 1e-4);
  const Counters& all = ours.host.stats().counters;
  EXPECT_EQ(all.keys, all.visible);

  // One head of eight: an eighth of the difference, and what its group reads beside it.
  none.read(tokens);
  Reader one(tiny(), exact);
  p->prompt = {"...d", "...."};
  one.host.set_profile(p);
  one.read(tokens);
  const Counters &with = one.host.stats().counters, &without = none.host.stats().counters;
  const auto expected = static_cast<double>(all.visible - without.keys) / 8;
  EXPECT_NEAR(static_cast<double>(with.keys - without.keys), expected, 0.1 * expected);
}

TEST(LlamaHost, LeavesLayersThatAProfileDoesNotKnowAndSaysSo) {
  Reader reader(tiny(), routed());
  auto p = tiny_profile();
  p->model.heads = 8;
  reader.host.set_profile(p);
  reader.read(some_tokens(600, 1));
  EXPECT_EQ(reader.host.stats().profiled, 0);
  EXPECT_EQ(reader.host.stats().unprofiled, kLayers);
  EXPECT_EQ(reader.host.stats().unprofiled_why, "4 heads on 2 of 64");
}

// Auto leaves nothing out of models that nobody has measured; routed does as it is told.
TEST(LlamaHost, AutoWithoutAProfileIsDense) {
  Options o = routed();
  o.plan.method = Method::kAuto, o.plan.budget = 256;
  o.plan.dense_until = 1;
  for (const bool known : {false, true}) {
    Reader reader(tiny(), o);
    if (known) reader.host.set_profile(tiny_profile());
    reader.read(some_tokens(2500, 3));
    const host::Stats& s = reader.host.stats();
    if (known) {
      EXPECT_GT(s.profiled, 0);
    } else {
      EXPECT_EQ(s.methods.at("dense"), kLayers);
      EXPECT_EQ(s.counters.keys, s.counters.visible);
      EXPECT_EQ(s.why, "dense: auto has no head profile of this model");
    }
  }
}

TEST(LlamaHost, ShowsWhatEachLayerIsAskedFor) {
  Reader reader(tiny(), routed());
  std::vector<std::string> caches;
  reader.host.runner().on_inputs([&](const std::string& cache, const Tensor& q, const Tensor& k,
                                     const Tensor& v, const Visibility& visibility, float scale) {
    caches.push_back(cache);
    EXPECT_EQ(q.shape[2], 600);
    EXPECT_EQ(k.shape, v.shape);
    EXPECT_EQ(visibility.n_kv, 600);
    EXPECT_TRUE(visibility.causal);
    EXPECT_GT(scale, 0);
  });
  reader.read(some_tokens(600, 1));
  EXPECT_EQ(caches, (std::vector<std::string>{"cache_k_l0", "cache_k_l1"}));
}

TEST(LlamaHost, DenseEqualsStockWithinRounding) {
  Reader ours(tiny(), dense()), stock(tiny(), dense(), LlamaHost::Mode::kOff);
  for (const int n : {700, 100, 1}) {  // a prompt, a chunk, a decode step
    const auto tokens = some_tokens(n, static_cast<unsigned>(n));
    EXPECT_LT(relative(ours.read(tokens), stock.read(tokens)), 2e-3) << n << " tokens";
  }
  EXPECT_EQ(ours.host.stats().taken, 3 * kLayers);
  EXPECT_EQ(stock.host.stats().taken, 0);
}

TEST(LlamaHost, LeavesSoftcapToStockAndCountsIt) {
  const Llama model = make_model({"gemma2", 50});
  Reader ours(model.get(), dense()), stock(model.get(), dense(), LlamaHost::Mode::kOff);
  const auto tokens = some_tokens(300, 1);
  EXPECT_EQ(ours.read(tokens), stock.read(tokens));
  EXPECT_EQ(ours.host.stats().taken, 0);
  EXPECT_EQ(ours.host.stats().left.at("softcap"), kLayers);
}

TEST(LlamaHost, ComputesSlidingWindowsDenselyByTheMask) {
  const Llama model = make_model({"gemma2", 0});
  Options options = routed();
  options.compute = Compute::kF32;
  Reader ours(model.get(), options);
  ours.read(some_tokens(1200, 1));
  EXPECT_EQ(ours.host.stats().taken, 2);
  EXPECT_EQ(ours.host.stats().masked, 1);
  EXPECT_EQ(ours.host.stats().methods.at("routed"), 1);

  Reader exact(model.get(), dense()), stock(model.get(), dense(), LlamaHost::Mode::kOff);
  const auto tokens = some_tokens(1200, 2);
  EXPECT_LT(relative(exact.read(tokens), stock.read(tokens)), 2e-3);
}

/// Reads a prompt, changes the cache, reads on: the index that was kept must give the very bits
/// that one built from scratch gives. Returns the operations that were routed after the change.
template <typename Change>
std::int64_t kept_equals_fresh(const Change& change, int more) {
  std::vector<float> results[2];
  std::int64_t routed_after = 0;
  for (const bool fresh : {false, true}) {
    Reader reader(tiny(), routed());
    reader.read(some_tokens(1600, 1));
    EXPECT_GT(reader.host.runner().index_bytes(), 0);
    change(reader);
    if (fresh) reader.host.runner().forget();
    reader.host.reset_stats();
    results[fresh] = reader.read(some_tokens(more, 2));
    const auto& methods = reader.host.stats().methods;
    routed_after = methods.contains("routed") ? methods.at("routed") : 0;
    EXPECT_EQ(reader.host.stats().taken, kLayers);
  }
  EXPECT_EQ(results[0], results[1]);
  return routed_after;
}

TEST(LlamaHostCache, NothingChangedKeepsTheIndex) {
  EXPECT_EQ(kept_equals_fresh([](Reader&) {}, 500), kLayers);
}

TEST(LlamaHostCache, RemovedAndRewrittenTokensLeaveNoStaleIndex) {
  const auto remove = [](Reader& r) { llama_memory_seq_rm(r.memory(), 0, 700, -1); };
  EXPECT_EQ(kept_equals_fresh(remove, 900), kLayers);
  EXPECT_EQ(kept_equals_fresh(remove, 100), kLayers);  // fewer than before
}

TEST(LlamaHostCache, RemovedTokensEqualAContextThatNeverHadThem) {
  Reader used(tiny(), routed()), never(tiny(), routed());
  const std::vector<llama_token> prompt = some_tokens(1600, 1);
  // Between two tiles: within one, what was removed had its say in what the others read.
  const int cut = static_cast<int>(6 * routed().plan.tile);
  used.read(prompt);
  llama_memory_seq_rm(used.memory(), 0, cut, -1);
  never.read({prompt.begin(), prompt.begin() + cut});
  const auto more = some_tokens(900, 2);
  EXPECT_LT(relative(used.read(more), never.read(more)), 1e-3);
}

TEST(LlamaHostCache, RotatedKeysLeaveNoStaleIndex) {
  // All positions move by 64, so every key is rotated in place while the mask still looks causal.
  EXPECT_EQ(
      kept_equals_fresh([](Reader& r) { llama_memory_seq_add(r.memory(), 0, 0, -1, 64); }, 64),
      kLayers);
}

TEST(LlamaHostCache, AContextShiftIsComputedDenselyByTheMask) {
  // The cells of the removed tokens stay empty: no plain causal mask any more.
  EXPECT_EQ(kept_equals_fresh(
                [](Reader& r) {
                  llama_memory_seq_rm(r.memory(), 0, 16, 600);
                  llama_memory_seq_add(r.memory(), 0, 600, -1, 16 - 600);
                },
                64),
            0);
}

TEST(LlamaHostCache, AClearedCacheLeavesNoStaleIndex) {
  EXPECT_EQ(kept_equals_fresh([](Reader& r) { llama_memory_clear(r.memory(), false); }, 1200),
            kLayers);
}

TEST(LlamaHostCache, ChunksGiveAnIndexOfTheSameSize) {
  Reader whole(tiny(), routed()), parts(tiny(), routed());
  const std::vector<llama_token> tokens = some_tokens(1600, 1);
  whole.read(tokens);
  for (auto at = tokens.begin(); at != tokens.end(); at += 400) parts.read({at, at + 400});
  EXPECT_GT(whole.host.runner().index_bytes(), 0);
  EXPECT_EQ(whole.host.runner().index_bytes(), parts.host.runner().index_bytes());
}

TEST(LlamaHost, ObservesStockWithoutTouchingIt) {
  Reader off(tiny(), {}, LlamaHost::Mode::kOff), observe(tiny(), {}, LlamaHost::Mode::kObserve);
  const std::vector<llama_token> tokens = some_tokens(600, 3);
  EXPECT_EQ(off.read(tokens), observe.read(tokens));
  EXPECT_FALSE(observe.host.stock_stats().exact);  // the first evaluation learns the names
  observe.host.reset_stats();
  EXPECT_EQ(off.read(tokens), observe.read(tokens));
  EXPECT_TRUE(observe.host.stock_stats().exact);
  EXPECT_EQ(observe.host.stock_stats().operations, kLayers);
  EXPECT_GT(observe.host.stock_stats().seconds, 0);
}

TEST(LlamaHost, RunsTheDefaultModel) {
  if (!std::filesystem::exists(PRESCORE_TEST_MODEL))
    GTEST_SKIP() << "no model at " << PRESCORE_TEST_MODEL;
  const Llama model = load(PRESCORE_TEST_MODEL);
  ASSERT_NE(model, nullptr);
  const auto tokens = some_tokens(600, 3);
  Reader ours(model.get(), dense()), stock(model.get(), dense(), LlamaHost::Mode::kOff);
  // Its weights are quantised: any rounding before them becomes a step.
  EXPECT_LT(relative(ours.read(tokens), stock.read(tokens)), 0.05);
  EXPECT_EQ(ours.host.stats().taken, llama_model_n_layer(model.get()));
}

// In the first layer keys of one token differ by their rotation only.
TEST(LlamaHost, RotationOfTheModelIsUndone) {
  for (const char* architecture : {"llama", "gemma2"}) {
    TinyModel tiny;
    tiny.architecture = architecture;
    const Llama model = make_model(tiny);
    ASSERT_NE(model, nullptr);
    const Rotation rotation = host::rotation_of(model.get());
    EXPECT_EQ(rotation.dims, 64);
    EXPECT_EQ(rotation.interleaved, tiny.architecture == "llama");
    Reader reader(model.get(), dense());
    int seen = 0;
    reader.host.runner().on_inputs([&](const std::string& cache, const Tensor&, const Tensor& k,
                                       const Tensor&, const Visibility&, float) {
      if (host::layer_of_cache(cache) != 0) return;
      ++seen;
      const auto spread = [&](const Rotation& r) {
        ScoreOptions o;
        o.score = Score::kKeyDiff, o.rotation = r;
        std::vector<float> scores(static_cast<std::size_t>(k.shape[1] * 300));
        score_keys(k, 300, o, scores.data(), *make_serial_executor());
        const auto [least, most] = std::minmax_element(scores.begin(), scores.begin() + 300);
        return double{*most} - double{*least};
      };
      EXPECT_LT(spread(rotation), 1e-4);
      EXPECT_GT(spread({}), 1e-2);
    });
    reader.read(std::vector<llama_token>(300, 7));
    EXPECT_EQ(seen, tiny.architecture == "llama" ? 1 : 0);  // gemma2: capped, not ours
  }
}

}  // namespace
}  // namespace prescore::test
