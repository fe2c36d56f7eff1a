// The one call on the GPU: index, then plan and attend in waves of heads.
#include <algorithm>
#include <vector>

#include "attend/attend_cuda.cuh"
#include "common/call_cuda.cuh"
#include "common/cuda.h"
#include "index/index_cuda.cuh"
#include "score/score_cuda.cuh"

namespace prescore {

std::vector<Gpu> gpus() {
  std::vector<Gpu> found;
  int n = 0;
  if (cudaGetDeviceCount(&n) != cudaSuccess) {
    (void)cudaGetLastError();
    return found;
  }
  for (int i = 0; i < n; ++i) {
    cudaDeviceProp p;
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess) continue;
    found.push_back({p.name, p.major, p.minor, static_cast<std::int64_t>(p.totalGlobalMem),
                     p.multiProcessorCount});
  }
  return found;
}

namespace cuda {
namespace {

// Adds up what the plans of a wave read: queries, visible keys, keys, stand-ins.
__global__ void count_reads(const Problem p, const PlanView plan, unsigned long long* to) {
  const int i = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (i >= plan.tiles * plan.lists) return;
  const TileInfo tile = plan.tile[i % plan.tiles];
  const Reads r = plan.reads[i];
  unsigned long long visible = 0, keys = 0;
  for (int q = 0; q < tile.rows; ++q) {
    const int end = tile.end(p, q);
    visible += static_cast<unsigned long long>(end);
    keys += static_cast<unsigned long long>(max(0, min(end, r.end) - r.window) + r.sinks + r.keys);
  }
  const auto heads = static_cast<unsigned long long>(plan.share),
             rows = heads * static_cast<unsigned long long>(tile.rows);
  atomicAdd(to, rows), atomicAdd(to + 1, heads * visible), atomicAdd(to + 2, heads * keys);
  atomicAdd(to + 3, rows * static_cast<unsigned long long>(r.nodes));
}

// Times of stages by events, where wanted; each mark ends a stage.
class Stopwatch {
 public:
  Stopwatch(bool wanted, cudaStream_t stream) : wanted_(wanted), stream_(stream) { mark(nullptr); }
  ~Stopwatch() {
    for (const auto& m : marks_) cudaEventDestroy(m.event);
  }
  Stopwatch(const Stopwatch&) = delete;
  Stopwatch& operator=(const Stopwatch&) = delete;
  void mark(double* stage) {
    if (!wanted_) return;
    cudaEvent_t e;
    check_cuda(cudaEventCreate(&e), "attention", "an event");
    marks_.push_back({e, stage});
    check_cuda(cudaEventRecord(e, stream_), "attention", "an event");
  }
  void finish(double& total) {  // after the stream was waited for
    for (std::size_t i = 1; i < marks_.size(); ++i) {
      float ms = 0;
      check_cuda(cudaEventElapsedTime(&ms, marks_[i - 1].event, marks_[i].event), "attention",
                 "the time of a stage");
      total += ms * 1e-3;
      if (marks_[i].stage != nullptr) *marks_[i].stage += ms * 1e-3;
    }
  }

 private:
  struct Mark {
    cudaEvent_t event;
    double* stage;
  };
  bool wanted_;
  cudaStream_t stream_;
  std::vector<Mark> marks_;
};

template <typename T>
void run(const Call& call, cudaStream_t stream, bool count, Stopwatch& watch, Counters& c) {
  const Problem& p = call.problem;
  const bool routed = call.choice.method == Method::kRouted;
  make_tables(p, call.tile, call.plan.tiles, call.segment, call.index.segments, stream);
  if (routed) build_index<T>(p, call.index, stream);
  if (call.own_scores != nullptr) {
    score_keys<T>(p, call.score, call.own_scores, stream);
    if (call.sampled) perturb_scores(p, call.score.seed, call.own_scores, stream);
  }
  watch.mark(&c.index_s);
  PlanView plan = call.plan;
  const int lists = p.h_q / plan.share;
  for (int i = 0; i < lists; i += call.plan.lists) {
    plan.first_list = i, plan.lists = std::min(call.plan.lists, lists - i);
    if (routed)
      plan_routed<T>(p, plan, call.index, call.route, stream);
    else if (call.choice.method == Method::kTopK)
      plan_topk(p, plan, call.rule, call.scores != nullptr ? call.scores : call.own_scores, stream);
    else
      plan_ranges(p, plan, call.rule, call.choice.method == Method::kDense, stream);
    watch.mark(&c.plan_s);
    attend<T>(p, plan, call.index, stream);
    watch.mark(&c.attend_s);
    if (!count) continue;
    count_reads<<<(plan.tiles * plan.lists + 127) / 128, 128, 0, stream>>>(p, plan, call.counter);
    check_launch("attention", "count_reads");
    watch.mark(nullptr);
  }
}

}  // namespace

std::int64_t workspace_bytes(const Tensor& q, const Tensor& k, const Tensor& v, const Options& o) {
  Call call = prepare(q, k, v, o);
  Arena arena;
  lay_out(o, arena, call);
  return arena.used();
}

Report attention(const Tensor& q, const Tensor& k, const Tensor& v, const State& out,
                 const Options& o) {
  Call call = prepare(q, k, v, o);
  const Tensor to{out.o.data, out.o.dtype, out.o.shape, out.o.stride};
  check_tensor(to, "attention", "o");
  const std::array<std::int64_t, 4> wanted{q.shape[0], q.shape[1], q.shape[2], v.shape[3]};
  if (to.shape != wanted || to.dtype != q.dtype)
    fail("attention", "o", to_string(to.shape), to_string(wanted) + " in the dtype of q");
  check_rows(to, "o");
  call.problem.o = view(to), call.problem.lse = out.lse;

  const DeviceScope device(q.data, "attention", "q");
  const auto stream = static_cast<cudaStream_t>(o.cuda.stream);
  Arena sizing;
  lay_out(o, sizing, call);
  const StreamMemory memory(o.cuda.workspace, o.cuda.workspace_bytes, sizing.used(), stream);
  Arena arena(memory.data());
  lay_out(o, arena, call);

  Report report;
  report.choice = call.choice;
  report.isa = "cuda";
  if (o.cuda.count)
    check_cuda(cudaMemsetAsync(call.counter, 0, 4 * sizeof(unsigned long long), stream),
               "attention", "clearing counters");
  Stopwatch watch(o.cuda.count, stream);
  if (call.dtype == DType::kBF16)
    run<bf16>(call, stream, o.cuda.count, watch, report.counters);
  else
    run<f16>(call, stream, o.cuda.count, watch, report.counters);
  if (!o.cuda.count) return report;
  unsigned long long got[4];
  check_cuda(cudaMemcpyAsync(got, call.counter, sizeof got, cudaMemcpyDeviceToHost, stream),
             "attention", "reading counters");
  check_cuda(cudaStreamSynchronize(stream), "attention", "attention");
  Counters& c = report.counters;
  c.queries = static_cast<std::int64_t>(got[0]), c.visible = static_cast<std::int64_t>(got[1]);
  c.keys = static_cast<std::int64_t>(got[2]), c.standins = static_cast<std::int64_t>(got[3]);
  watch.finish(c.total_s);
  return report;
}

}  // namespace cuda
}  // namespace prescore
