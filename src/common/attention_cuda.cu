// The one call on the GPU: index, then plan and attend in waves.
#include <algorithm>
#include <vector>

#include "attend/attend_cuda.cuh"
#include "attend/certificate.h"
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
    if (cudaGetDeviceProperties(&p, i) != cudaSuccess || p.major < 8) continue;
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
  if (plan.lane != nullptr) {  // these queries were counted
    atomicAdd(to + 2,
              static_cast<unsigned long long>(tile.rows) * static_cast<unsigned long long>(r.keys));
    return;
  }
  const int list = i / plan.tiles;
  unsigned long long visible = 0, keys = 0, redone = 0;
  for (int q = 0; q < tile.rows; ++q) {
    const int end = tile.end(p, q);
    visible += static_cast<unsigned long long>(end);
    keys += static_cast<unsigned long long>(max(0, min(end, r.end) - r.window) + r.sinks + r.keys);
  }
  for (int j = 0; plan.redone != nullptr && j < plan.heads(list); ++j)
    redone += plan.redone[plan.head(list, j)];
  const auto heads = static_cast<unsigned long long>(plan.heads(list)),
             rows = heads * static_cast<unsigned long long>(tile.rows);
  atomicAdd(to, rows), atomicAdd(to + 1, heads * visible);
  atomicAdd(to + 2, (heads - redone) * keys + redone * visible);
  atomicAdd(to + 3, (heads - redone) * static_cast<unsigned long long>(tile.rows) *
                        static_cast<unsigned long long>(r.nodes));
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

// The stages of a call, each marked on the watch.
template <typename T>
class Run {
 public:
  Run(const Call& call, cudaStream_t stream, bool count, Stopwatch& watch, Counters& counters)
      : call_(call), p_(call.problem), stream_(stream), count_(count), watch_(watch),
        counters_(counters) {}

  void all() {
    const bool hyper = call_.hyper.leaves > 0;
    make_tables(p_, call_.tile, call_.tiles, call_.segment, call_.index.segments, stream_);
    put_lists(call_.plan.table, call_.lists, call_.head_of, stream_);
    if (hyper) put_lists(call_.lanes.table, call_.bucket_lists, {}, stream_);
    if (call_.index.segments > 0) build_index<T>(p_, call_.index, stream_);
    if (call_.own_scores != nullptr) score();
    if (hyper) hash_hyper<T>(p_, call_.hyper, stream_);
    watch_.mark(&counters_.index_s);
    if (call_.certificate.wanted()) attend_samples<T>(p_, call_.certificate, stream_);
    watch_.mark(&counters_.certify_s);
    for (int i = 0; i < call_.tiles; i += call_.plan.tiles) attend_tiles(i);
    if (hyper)
      for (int i = 0; i < p_.h_kv; ++i) add_buckets(i);
    if (call_.certificate.wanted()) measure_errors<T>(p_, call_.certificate, stream_);
    watch_.mark(&counters_.certify_s);
  }

 private:
  // A run of tiles, in waves of lists, each planned class by class and attended at once.
  void attend_tiles(int first) {
    PlanView plan = call_.plan;
    plan.tile = call_.tile + first, plan.tiles = std::min(plan.tiles, call_.tiles - first);
    for (const Wave& wave : call_.waves) {
      plan.first_list = wave.first, plan.lists = wave.lists, plan.units = wave.units;
      for (const ListClass& c : call_.classes) {
        PlanView part = plan;
        part.first_list = std::max(c.first, wave.first);
        part.lists = std::min(c.first + c.lists, wave.first + wave.lists) - part.first_list;
        if (part.lists <= 0) continue;
        part.reads += plan.at(part.first_list - wave.first, 0);
        make_plans(part, c);
      }
      if (call_.certificate.wanted()) {
        measure_reads<T>(p_, plan, call_.index, call_.certificate, first, stream_);
        watch_.mark(&counters_.certify_s);
      }
      execute(plan);
    }
  }

  void score() {
    score_keys<T>(p_, call_.score, call_.own_scores, stream_);
    if (call_.sampled) perturb_scores(p_, call_.score.seed, call_.own_scores, stream_);
  }

  void make_plans(const PlanView& plan, const ListClass& c) {
    switch (c.method) {
      case Method::kRouted: plan_routed<T>(p_, plan, call_.index, c.route, stream_); break;
      case Method::kTopK: plan_topk(p_, plan, c.rule, call_.key_scores(), stream_); break;
      case Method::kHyper:
      case Method::kPrescoredHyper: plan_leaves(p_, plan, call_.hyper, stream_); break;
      default: plan_ranges(p_, plan, c.rule, c.method == Method::kDense, stream_);
    }
    watch_.mark(&counters_.plan_s);
  }

  void execute(const PlanView& plan) {
    attend<T>(p_, plan, call_.index, stream_);
    watch_.mark(&counters_.attend_s);
    if (!count_) return;
    count_reads<<<(plan.tiles * plan.lists + 127) / 128, 128, 0, stream_>>>(p_, plan,
                                                                            call_.counter);
    check_launch("attention", "count_reads");
    watch_.mark(nullptr);
  }

  // What the buckets of a key head's queries read joins what is there, a wave of tiles at a time.
  void add_buckets(int list) {
    const Hyper& x = call_.hyper;
    sort_lanes(p_, x, list, stream_);
    PlanView plan = call_.lanes;
    plan.first_list = list;
    const int tiles = p_.sequences * x.runs * x.slots;
    for (int first = 0; first < tiles; first += call_.lanes.tiles) {
      plan.tile = x.tile + first, plan.tiles = std::min(call_.lanes.tiles, tiles - first);
      plan_buckets(p_, plan, x, x.bucket + first, stream_);
      watch_.mark(&counters_.plan_s);
      execute(plan);
    }
  }

  const Call& call_;
  const Problem& p_;
  cudaStream_t stream_;
  bool count_;
  Stopwatch& watch_;
  Counters& counters_;
};

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
  check_apart(out.o, "attention", "o");
  check_rows(to, "o");
  call.problem.o = view(to), call.problem.lse = out.lse;

  const DeviceScope device(q.data, "attention", "q");
  device.check_here(k.data, "k"), device.check_here(v.data, "v");
  device.check_here(to.data, "o"), device.check_here(out.lse, "lse");
  device.check_here(o.cuda.scores, "scores");
  device.check_here(o.cuda.cu_seqlens_q, "cu_seqlens_q");
  device.check_here(o.cuda.cu_seqlens_k, "cu_seqlens_k");
  const auto stream = static_cast<cudaStream_t>(o.cuda.stream);
  Arena sizing;
  lay_out(o, sizing, call);
  const StreamMemory memory(o.cuda.workspace, o.cuda.workspace_bytes, sizing.used(), stream);
  device.check_here(o.cuda.workspace, "workspace");
  Arena arena(memory.data());
  lay_out(o, arena, call);
  call.hyper.scores = call.key_scores();
  if (call.own_lse != nullptr) call.problem.lse = call.own_lse;

  Report report;
  report.choice = call.choice;
  report.isa = "cuda";
  if (o.cuda.count)
    check_cuda(cudaMemsetAsync(call.counter, 0, 4 * sizeof(unsigned long long), stream),
               "attention", "clearing counters");
  Stopwatch watch(o.cuda.count, stream);
  if (call.dtype == DType::kBF16)
    Run<bf16>(call, stream, o.cuda.count, watch, report.counters).all();
  else
    Run<f16>(call, stream, o.cuda.count, watch, report.counters).all();
  if (!o.cuda.count) return report;
  unsigned long long got[4];
  check_cuda(cudaMemcpyAsync(got, call.counter, sizeof got, cudaMemcpyDeviceToHost, stream),
             "attention", "reading counters");
  check_cuda(cudaStreamSynchronize(stream), "attention", "attention");
  Counters& c = report.counters;
  c.queries = static_cast<std::int64_t>(got[0]), c.visible = static_cast<std::int64_t>(got[1]);
  c.keys = static_cast<std::int64_t>(got[2]), c.standins = static_cast<std::int64_t>(got[3]);
  watch.finish(c.total_s);
  if (call.certificate.wanted()) {
    report.heads = fetch_certificate(call.problem, call.certificate, stream);
    report.choice.reason += redone_reason(report.heads);
  }
  return report;
}

}  // namespace cuda
}  // namespace prescore
