// Single operations: prescore in the place of ggml's own kernel, against it and a float64 oracle.
#include <gtest/gtest.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include <array>
#include <cstdlib>
#include <ostream>

#include "common/isa.h"
#include "flash_case.h"

namespace prescore::test {
namespace {

using host::LlamaHost;

Options dense(Compute compute) {
  Options o;
  o.plan.method = Method::kDense;
  o.compute = compute;
  return o;
}

struct Named {
  const char* name;
  FlashCase c;
};
void PrintTo(const Named& n, std::ostream* out) { *out << n.name; }

FlashCase with(void (*change)(FlashCase&)) {
  FlashCase c;
  change(c);
  return c;
}

class FlashOps : public testing::TestWithParam<Named> {};

TEST_P(FlashOps, DenseEqualsStockWithinRounding) {
  FlashTensors tensors(GetParam().c);
  const Backend cpu = cpu_backend(2);
  const Scheduler sched = scheduler({cpu.get()});
  const std::vector<double> exact = tensors.oracle();
  const double stock = distance(tensors.compute(sched.get()), exact);
  ASSERT_LT(stock, 2e-2) << "the oracle disagrees with ggml";

  // Same dtype: at most twice the error of ggml's own kernel, and a floor of f32 rounding. With
  // bf16 products the floor is bf16's: 2^-8 of values up to about 4.
  for (const auto& [compute, floor] : {std::pair{Compute::kF32, 2e-5}, {Compute::kAuto, 1.6e-2}}) {
    LlamaHost host(dense(compute));
    const Scheduler ours = scheduler({cpu.get()});
    host.attach(ours.get());
    const std::vector<float> result = tensors.compute(ours.get());
    EXPECT_EQ(host.stats().taken, 1);
    EXPECT_EQ(host.stats().error, "");
    EXPECT_EQ(host.stats().masked, GetParam().c.mask == Mask::kCausal ? 0 : 1);
    EXPECT_LE(distance(result, exact), 2 * stock + floor)
        << "compute " << static_cast<int>(compute);
  }
}

INSTANTIATE_TEST_SUITE_P(
    Shapes, FlashOps,
    testing::Values(
        Named{"causal", {}}, Named{"padded", with([](FlashCase& c) { c.used = 200; })},
        Named{"whole_prompt", with([](FlashCase& c) { c.n_q = c.used = c.n_kv = 256; })},
        Named{"one_query", with([](FlashCase& c) { c.n_q = 1, c.used = 77; })},
        Named{"sliding", with([](FlashCase& c) { c.mask = Mask::kSliding, c.used = 230; })},
        Named{"two_sequences", with([](FlashCase& c) { c.mask = Mask::kTwoSequences; })},
        Named{"no_mask", with([](FlashCase& c) { c.mask = Mask::kNone; })},
        Named{"one_head", with([](FlashCase& c) { c.h_q = c.h_kv = 1; })},
        Named{"group_of_seven", with([](FlashCase& c) { c.h_q = 14, c.h_kv = 2; })},
        Named{"d_80", with([](FlashCase& c) { c.d = c.d_v = 80; })},
        Named{"d_128", with([](FlashCase& c) { c.d = c.d_v = 128; })},
        Named{"d_256", with([](FlashCase& c) { c.d = c.d_v = 256; })},
        Named{"d_v_differs", with([](FlashCase& c) { c.d = 96, c.d_v = 64; })},
        Named{"bf16", with([](FlashCase& c) { c.type = GGML_TYPE_BF16; })},
        Named{"f32", with([](FlashCase& c) { c.type = GGML_TYPE_F32; })},
        Named{"streams", with([](FlashCase& c) { c.streams = 3, c.used = 190; })}),
    [](const auto& i) { return std::string(i.param.name); });

struct Left {
  const char* reason;
  FlashCase c;
};
void PrintTo(const Left& l, std::ostream* out) { *out << l.reason; }

class LeftToStock : public testing::TestWithParam<Left> {};

TEST_P(LeftToStock, IsCountedAndComputedByGgml) {
  FlashTensors tensors(GetParam().c);
  const Backend cpu = cpu_backend(2);
  const Scheduler stock = scheduler({cpu.get()}), ours = scheduler({cpu.get()});
  LlamaHost host(dense(Compute::kAuto));
  host.attach(ours.get());
  const std::vector<float> result = tensors.compute(ours.get());
  EXPECT_EQ(host.stats().taken, 0);
  ASSERT_EQ(host.stats().left.size(), 1u);
  EXPECT_EQ(host.stats().left.begin()->first, GetParam().reason);
  EXPECT_EQ(result, tensors.compute(stock.get()));
}

INSTANTIATE_TEST_SUITE_P(
    Reasons, LeftToStock,
    testing::Values(Left{"softcap", with([](FlashCase& c) { c.softcap = 30; })},
                    Left{"ALiBi", with([](FlashCase& c) { c.max_bias = 8; })},
                    Left{"KV type q8_0", with([](FlashCase& c) { c.type = GGML_TYPE_Q8_0; })},
                    Left{"head size 576",
                         with([](FlashCase& c) { c.d = 576, c.d_v = 512, c.n_q = 2; })}),
    [](const auto& i) { return "reason_" + std::to_string(i.index); });

TEST(FlashOpsHost, KeepsAnIndexAndGivesTheSameBitsForAnyThreads) {
  FlashCase c;
  c.n_q = 512, c.n_kv = c.used = 2048;
  FlashTensors tensors(c);
  Options options;
  options.plan.method = Method::kRouted;
  options.plan.budget = 512;
  std::vector<float> first;
  for (const int threads : {1, 2, 7}) {
    const Backend cpu = cpu_backend(threads);
    const Scheduler sched = scheduler({cpu.get()});
    LlamaHost host(options);
    host.attach(sched.get());
    const std::vector<float> fresh = tensors.compute(sched.get());
    const std::vector<float> again = tensors.compute(sched.get());  // index found and validated
    EXPECT_EQ(host.stats().error, "");
    EXPECT_EQ(host.stats().methods.at("routed"), 2);
    EXPECT_GT(host.runner().index_bytes(), 0);
    EXPECT_LT(host.stats().counters.keys, host.stats().counters.visible / 2);
    EXPECT_EQ(fresh, again);
    if (first.empty()) first = fresh;
    EXPECT_EQ(fresh, first) << threads << " threads";
  }
}

TEST(FlashOpsHost, AnErrorInsideNeverLeavesAndTheResultIsStillExact) {
  FlashCase c;
  c.n_q = 256, c.n_kv = c.used = 1024;
  FlashTensors tensors(c);
  const Backend cpu = cpu_backend(2);
  const Scheduler sched = scheduler({cpu.get()});
  Options options;
  options.plan.method = Method::kRouted;
  options.plan.budget = -1;  // refused by the library, inside the operation
  LlamaHost host(options);
  host.attach(sched.get());
  const std::vector<float> result = tensors.compute(sched.get());
  EXPECT_NE(host.stats().error.find("budget"), std::string::npos) << host.stats().error;
  EXPECT_EQ(host.stats().taken, 1);
  EXPECT_LT(distance(result, tensors.oracle()), 2e-2);
}

TEST(FlashOpsHost, AReusedGraphKeepsItsRewrittenNodeAndModesGiveItBack) {
  FlashTensors tensors({});
  const Backend cpu = cpu_backend(2);
  const Scheduler stock = scheduler({cpu.get()}), sched = scheduler({cpu.get()});
  const std::vector<float> expected = tensors.compute(stock.get());
  LlamaHost host(dense(Compute::kAuto));
  host.attach(sched.get());
  const std::vector<float> ours = tensors.compute(sched.get());
  EXPECT_EQ(host.stats().taken, 1);
  EXPECT_EQ(tensors.compute(sched.get(), [] {}), ours);
  EXPECT_EQ(host.stats().taken, 3);

  EXPECT_EQ(tensors.compute(sched.get(), [&] { host.set_mode(LlamaHost::Mode::kObserve); }),
            expected);
  EXPECT_EQ(host.stats().taken, 4);
  EXPECT_EQ(host.stock_stats().operations, 1);
  EXPECT_GT(host.stock_stats().seconds, 0);
  EXPECT_EQ(tensors.compute(sched.get(), [&] { host.set_mode(LlamaHost::Mode::kPrescore); }), ours);
  EXPECT_EQ(host.stats().taken, 5);
}

#if defined(__x86_64__) && defined(PRESCORE_HAVE_AMX)
using TileConfig = std::array<std::uint8_t, 64>;

__attribute__((target("amx-tile"))) void load_tiles(const TileConfig& c) {
  _tile_loadconfig(c.data());
}
__attribute__((target("amx-tile"))) TileConfig stored_tiles() {
  TileConfig c{};
  _tile_storeconfig(c.data());
  return c;
}

TEST(FlashOpsHost, LeavesTheHostsTileConfigurationAlone) {
  if (!amx_usable()) GTEST_SKIP() << "no AMX here";
  alignas(64) TileConfig config{};
  config[0] = 1;    // palette
  config[16] = 32;  // bytes a row of tile 0, low byte
  config[48] = 8;   // rows of tile 0
  load_tiles(config);
  FlashTensors tensors({});
  const Backend cpu = cpu_backend(1);  // on this thread
  const Scheduler sched = scheduler({cpu.get()});
  LlamaHost host(dense(Compute::kAuto));
  host.attach(sched.get());
  tensors.compute(sched.get());
  EXPECT_EQ(host.stats().taken, 1);
  EXPECT_EQ(stored_tiles(), config);
  load_tiles({});
}
#endif

}  // namespace
}  // namespace prescore::test
