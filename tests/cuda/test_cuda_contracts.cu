// The contracts of docs/design.md on the device: every method, with the kernels of this GPU and
// with those for all of them.
#include <algorithm>
#include <tuple>

#include "cuda/device.cuh"

namespace prescore::test {
namespace {

struct Variant {
  const char* name;
  Options options;
};

Variant variant(const char* name, Method m, bool strict = false, bool together = true) {
  Options o = method(m);
  o.plan.score = Score::kKeyNorm, o.plan.hyper.selected = 900;
  o.plan.routing = strict ? Routing::kStrict : Routing::kTile;
  o.plan.heads_together = together;
  return {name, o};
}
const std::vector<Variant>& variants() {
  static const std::vector<Variant> all{
      variant("dense", Method::kDense),
      variant("window", Method::kWindow),
      variant("topk", Method::kTopK),
      variant("routed", Method::kRouted),
      variant("routed_apart", Method::kRouted, false, false),
      variant("routed_strict", Method::kRouted, true),
      variant("hyper", Method::kHyper),
      variant("prescored_hyper", Method::kPrescoredHyper),
  };
  return all;
}

class CudaContracts : public testing::TestWithParam<std::tuple<const char*, std::size_t>> {
 protected:
  void SetUp() override {
    if (!have_gpu()) GTEST_SKIP() << "no GPU";
    kernels_.emplace(std::get<0>(GetParam()));
  }
  static Options options() { return variants()[std::get<1>(GetParam())].options; }
  static Method chosen() { return options().plan.method; }
  static bool strict() { return options().plan.routing == Routing::kStrict; }
  static bool hyper() { return chosen() == Method::kHyper || chosen() == Method::kPrescoredHyper; }

 private:
  std::optional<UseKernels> kernels_;
};
INSTANTIATE_TEST_SUITE_P(, CudaContracts,
                         testing::Combine(testing::Values("TUNED", "GENERIC"),
                                          testing::Range(std::size_t{0}, variants().size())),
                         [](const auto& i) {
                           return std::string(std::get<0>(i.param)) + "_" +
                                  variants()[std::get<1>(i.param)].name;
                         });

// Contract 3: with a budget of at least the number of keys every method is dense, bit for bit where
// tiles are the same.
TEST_P(CudaContracts, LargeBudgetsAreDense) {
  const Case c = gpu_case(2, 4, 2, 300, 2100, 64, 64);
  Data dense(c), sparse(c);
  DeviceCase(dense).run(method(Method::kDense));
  Options o = options();
  o.plan.budget = 2100;
  DeviceCase(sparse).run(o);
  expect_near_dense(sparse);
  if (strict()) return;
  EXPECT_TRUE(dense.o.same_bits(sparse.o));
  EXPECT_TRUE(dense.lse.same_bits(sparse.lse));
}

TEST_P(CudaContracts, TwoRunsAreEqual) {
  for (const DType type : {DType::kBF16, DType::kF16}) {
    Case c = gpu_case(2, 4, 2, 500, 3000, 128, 128);
    c.q_type = c.kv_type = c.o_type = type;
    Data first(c), second(c);
    const Report r = DeviceCase(first).run(options());
    DeviceCase(second).run(options());
    EXPECT_TRUE(first.o.same_bits(second.o));
    EXPECT_TRUE(first.lse.same_bits(second.lse));
    EXPECT_EQ(r.choice.method, chosen());
  }
}

// Contract 2: no choice knows later keys, however the prompt is cut: a prefix alone gives the same
// rows.
TEST_P(CudaContracts, ChunksChooseAlike) {
  const Case c = gpu_case(2, 2, 1, 2560, 2560, 64, 64);
  Data whole(c);
  DeviceCase(whole).run(options());
  for (const std::int64_t until : {1024, 1920}) {  // multiples of the tile
    Case part_case = c;
    part_case.n_q = 384, part_case.n_kv = until;
    Data part(part_case);
    copy_rows(part.q, whole.q, until - 384);
    copy_rows(part.k, whole.k, 0), copy_rows(part.v, whole.v, 0);
    DeviceCase(part).run(options());
    expect_rows(part.o, whole.o, until - 384);
    expect_rows(part.lse, whole.lse, until - 384);
  }
}

TEST_P(CudaContracts, NanStaysInItsHead) {
  const Case c = gpu_case(1, 4, 4, 300, 2000, 64, 64);
  Data clean(c), dirty(c);
  dirty.k.fill_row(0, 1, 700, NAN), dirty.v.fill_row(0, 2, 3, INFINITY);
  dirty.q.fill_row(0, 3, 5, NAN);
  DeviceCase(clean).run(options());
  DeviceCase(dirty).run(options());
  // Where queries do not choose together, one with NaN harms none but itself.
  const bool alone = strict() || (chosen() != Method::kRouted && !hyper());
  for (std::int64_t i = 0; i < 300; ++i) {
    EXPECT_TRUE(clean.o.same_row(dirty.o, 0, 0, i)) << i;
    if (alone && i != 5) {
      EXPECT_TRUE(clean.o.same_row(dirty.o, 0, 3, i)) << i;
    }
  }
}

// Sequences packed into one axis give what each gives alone.
TEST_P(CudaContracts, PackedSequencesAreThoseSequences) {
  if (hyper()) GTEST_SKIP() << "refused, see CudaErrors";
  const std::vector<std::int32_t> q_at{0, 100, 100, 740, 741}, k_at{0, 100, 300, 1700, 2600};
  const Case c = gpu_case(1, 4, 2, 741, 2600, 64, 64);
  Data packed(c);
  const DeviceArray<std::int32_t> cu_q(q_at), cu_k(k_at);
  Options o = options();
  o.cuda.cu_seqlens_q = cu_q.data(), o.cuda.cu_seqlens_k = cu_k.data(), o.cuda.sequences = 4;
  DeviceCase(packed).run(o);
  expect_sentinels(packed);
  for (std::size_t s = 0; s < 4; ++s) {
    Case alone_case = c;
    alone_case.n_q = q_at[s + 1] - q_at[s], alone_case.n_kv = k_at[s + 1] - k_at[s];
    if (alone_case.n_q == 0) continue;
    Data alone(alone_case);
    copy_rows(alone.q, packed.q, q_at[s]);
    copy_rows(alone.k, packed.k, k_at[s]), copy_rows(alone.v, packed.v, k_at[s]);
    DeviceCase(alone).run(options());
    expect_rows(alone.o, packed.o, q_at[s]);
    expect_rows(alone.lse, packed.lse, q_at[s]);
  }
}

// A graph of one call gives the same bits as the call, with a workspace and without.
TEST_P(CudaContracts, RunsInAGraph) {
  const Case c = gpu_case(1, 4, 2, 600, 2000, 128, 128);
  Data eager(c);
  DeviceCase(eager).run(options());
  for (const bool given : {true, false}) {
    Data graphed(c);
    DeviceCase d(graphed);
    Options o = options();
    o.device = Device::kCuda, o.scale = graphed.scale();
    cudaStream_t stream;
    ok(cudaStreamCreate(&stream));
    o.cuda.stream = stream;
    const std::int64_t bytes = workspace_bytes(d.q.view(), d.k.view(), d.v.view(), o, 1);
    const DeviceArray<char> memory(static_cast<std::size_t>(bytes));
    if (given) o.cuda.workspace = memory.data(), o.cuda.workspace_bytes = bytes;
    ok(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal));
    attention(d.q.view(), d.k.view(), d.v.view(), d.state(), o);
    cudaGraph_t graph;
    cudaGraphExec_t executable;
    ok(cudaStreamEndCapture(stream, &graph));
    ok(cudaGraphInstantiate(&executable, graph, 0));
    ok(cudaGraphLaunch(executable, stream));
    ok(cudaStreamSynchronize(stream));
    d.o.copy_back(), d.lse.copy_back();
    EXPECT_TRUE(eager.o.same_bits(graphed.o)) << given;
    EXPECT_TRUE(eager.lse.same_bits(graphed.lse)) << given;
    ok(cudaGraphExecDestroy(executable)), ok(cudaGraphDestroy(graph));
    ok(cudaStreamDestroy(stream));
  }
}

// More tiles than a wave has: the rows are those of a call with fewer.
TEST_P(CudaContracts, WavesOfTilesAreOneCall) {
  if (!strict() && chosen() != Method::kTopK) GTEST_SKIP() << "tiles of 128 queries";
  const Case c = gpu_case(1, 2, 1, 9000, 9000, 64, 64);
  Options o = options();
  o.plan.routing = Routing::kStrict;
  Data whole(c);
  DeviceCase(whole).run(o);
  Case part_case = c;
  part_case.n_q = 300;
  for (const std::int64_t until : {4600, 9000}) {
    part_case.n_kv = until;
    Data part(part_case);
    copy_rows(part.q, whole.q, until - 300);
    copy_rows(part.k, whole.k, 0), copy_rows(part.v, whole.v, 0);
    DeviceCase(part).run(o);
    expect_rows(part.o, whole.o, until - 300);
  }
}

// Twice as many tokens want little more than twice the memory, also where each query chooses for
// itself. Asking needs no GPU.
TEST(CudaMemory, WorkspacesGrowWithTheTokens) {
  const auto bytes = [](Options o, std::int64_t n) {
    Tensor t;
    t.data = reinterpret_cast<const void*>(std::uintptr_t{256}), t.dtype = DType::kBF16;
    t.shape = {1, 8, n, 128}, t.stride = {8 * n * 128, n * 128, 128, 1};
    o.device = Device::kCuda, o.plan.budget = 2048;
    return static_cast<double>(workspace_bytes(t, t, t, o, 1));
  };
  for (const Variant& s : variants())
    EXPECT_LT(bytes(s.options, 262144), 2.2 * bytes(s.options, 131072)) << s.name;
}

}  // namespace
}  // namespace prescore::test
