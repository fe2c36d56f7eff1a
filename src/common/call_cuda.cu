#include "common/call_cuda.cuh"

#include <algorithm>
#include <bit>
#include <cmath>
#include <string>

#include "common/launch.cuh"
#include "index/index_cuda.cuh"
#include "plan/planners.h"
#include "score/score_cuda.cuh"

namespace prescore {

void check_qkv(const Tensor&, const Tensor&, const Tensor&);

namespace cuda {

namespace {

// Plans that exist at a time: enough (tile, list) pairs to fill a large GPU many times. One list of
// a long sequence's tiles may be twice as many: cut in two they would fill it less.
constexpr std::int64_t kWave = 4096;
// Entries of their lists where tiles are many and small.
constexpr std::int64_t kListed = std::int64_t{1} << 24;
// Rounded up, at least 1.
std::int64_t divide_up(std::int64_t n, std::int64_t by) {
  return std::max<std::int64_t>(1, (n + by - 1) / by);
}
// More keys than this count as this many, so that sums of two fit an int.
constexpr std::int64_t kMost = std::int64_t{1} << 30;

}  // namespace

bool on_hopper(const char* stage) {
#ifdef PRESCORE_SM90A
  if (generic_wanted()) return false;
  int device = 0, major = 0;
  check_cuda(cudaGetDevice(&device), stage, "the current device");
  check_cuda(cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device), stage,
             "the compute capability");
  return major == 9;
#else
  (void)stage;
  return false;
#endif
}

View view(const Tensor& t) { return {t.data, t.stride[0], t.stride[1], t.stride[2]}; }

void check_rows(const Tensor& t, const char* what) {
  const auto d = t.shape[3];
  check(d % 8 == 0 && d <= 256, "attention", std::string(what) + " head size with device cuda", d,
        "a multiple of 8 up to 256");
  bool aligned = reinterpret_cast<std::uintptr_t>(t.data) % 16 == 0;
  for (std::size_t i = 0; i < 3; ++i)
    aligned = aligned && (t.shape[i] == 1 || t.stride[i] % 8 == 0);
  if (!aligned)
    fail("attention", std::string(what) + " rows with device cuda", "some not aligned to 16 bytes",
         "pointer and strides that are multiples of 16 bytes");
}

namespace {

void check_lengths(const Tensor& q, const Options& o) {
  const CudaOptions& c = o.cuda;
  if ((c.cu_seqlens_q == nullptr) != (c.cu_seqlens_k == nullptr))
    fail("attention", "cu_seqlens", "one of them", "both or none");
  if (c.cu_seqlens_q == nullptr) return;
  check(c.sequences >= 1, "attention", "sequences", c.sequences, "at least 1 with cu_seqlens");
  check(q.shape[0] == 1, "attention", "batch of q with cu_seqlens", q.shape[0], "1");
}

// Of packed sequences only the device knows the lengths.
std::string reason_of(const Tensor& q, const Tensor& k, const Options& o) {
  if (o.cuda.cu_seqlens_q != nullptr) return "as asked";
  Visibility v;
  v.n_q = q.shape[2], v.n_kv = k.shape[2], v.causal = o.causal;
  return asked_reason(v, o.plan);
}

Choice choose(const Tensor& q, const Tensor& k, const Options& o) {
  const PlanOptions& plan = o.plan;
  if (plan.method != Method::kAuto) return {plan.method, reason_of(q, k, o), 0};
  const std::int64_t crossover = std::max<std::int64_t>(3 * plan.budget, 8192);
  if (q.shape[2] < 32 || k.shape[2] <= crossover)
    return {Method::kDense, "dense: few queries, or keys within the crossover", crossover};
  return {Method::kRouted, "routed: more keys than the crossover", crossover};
}

void check_scored(const Tensor& k, const Options& o) {
  const bool sampled = o.plan.selection == Selection::kSample;
  if (o.cuda.scores == nullptr)
    check_score(score_options(o), o.causal, o.cuda.cu_seqlens_q != nullptr, k.shape[2], k.shape[3]);
  if ((o.plan.selection != Selection::kTopK && !sampled) || o.plan.adaptive != 0)
    fail("plan", "selection with device cuda", "threshold, share or adaptive budgets",
         "the best, or a sample, and adaptive 0");
  if (sampled && (o.plan.sample_weights || o.cuda.scores != nullptr))
    fail("plan", "a sample with device cuda", "weights, or scores of your own",
         "neither: add the noise to your scores");
}

bool is_hyper(Method m) { return m == Method::kHyper || m == Method::kPrescoredHyper; }

void check_hyper(const Options& o) {
  if (o.cuda.cu_seqlens_q != nullptr)
    fail("plan", "hyper with device cuda", "packed sequences", "one sequence a batch entry");
  const PublishedFlaws& f = o.plan.flaws;
  if (f.zeroed || f.repeats || f.padding)
    fail("plan", "published flaws with device cuda", "one", "none");
}

void check_call(const Tensor& q, const Tensor& k, const Tensor& v, const Options& o) {
  check_qkv(q, k, v);
  check_plan_options(o.plan);
  if (!std::isfinite(o.scale))
    fail("attention", "scale", std::to_string(o.scale), "a finite number");
  if (q.dtype == DType::kF32 || q.dtype != k.dtype || o.compute == Compute::kF32)
    fail("attention", "dtypes or compute with device cuda", "f32, or unlike ones",
         "q, k and v all f16 or all bf16");
  check_rows(q, "q"), check_rows(k, "k"), check_rows(v, "v");
  check_lengths(q, o);
  const IndexOptions& i = o.index;
  check_index_options(i);
  check(i.segment == kSegment, "index", "segment with device cuda", i.segment, "512");
  check(kSegment / i.cluster <= kMaxClusters, "index", "cluster with device cuda", i.cluster,
        "8 to 512");
  check(kSegment / i.group <= kMaxGroups, "index", "group with device cuda", i.group,
        "32 to 512, and no less than a cluster");
  if (i.packed) fail("index", "packed with device cuda", "true", "false");
  if (o.plan.method == Method::kTopK || o.plan.method == Method::kPrescoredHyper)
    check_scored(k, o);
  if (is_hyper(o.plan.method)) check_hyper(o);
  check(o.plan.tile <= kTile, "plan", "tile with device cuda", o.plan.tile, "at most 128");
}

void set_problem(const Tensor& q, const Tensor& k, const Tensor& v, const Options& o, Call& call) {
  Problem& p = call.problem;
  p.q = view(q), p.k = view(k), p.v = view(v);
  p.cu_q = o.cuda.cu_seqlens_q, p.cu_k = o.cuda.cu_seqlens_k;
  p.sequences = static_cast<int>(p.cu_q != nullptr ? o.cuda.sequences : q.shape[0]);
  p.h_q = static_cast<int>(q.shape[1]), p.h_kv = static_cast<int>(k.shape[1]);
  p.n_q = static_cast<int>(q.shape[2]), p.n_kv = static_cast<int>(k.shape[2]);
  p.d = static_cast<int>(q.shape[3]), p.d_v = static_cast<int>(v.shape[3]);
  p.causal = o.causal;
  p.scale = (o.scale != 0 ? o.scale : 1.0f / std::sqrt(static_cast<float>(p.d))) * kLog2E;
  call.dtype = k.dtype;
  call.scores = o.cuda.scores, call.score = score_options(o);
  call.sampled = o.plan.selection == Selection::kSample;
}

// The index and the scratch of routing.
void lay_out_routed(const Options& o, Arena& arena, Call& call, std::int64_t segments,
                    std::int64_t far) {
  Problem& p = call.problem;
  PlanView& plan = call.plan;
  const IndexOptions& i = o.index;
  const bool stand = o.plan.standins != StandIns::kNone;
  plan.capacity = static_cast<int>(far + (stand ? kMaxNodes : 0));
  IndexView& x = call.index;
  x.segments = static_cast<int>(segments), x.segment = call.segment;
  x.clusters = static_cast<int>(kSegment / i.cluster),
  x.groups = static_cast<int>(kSegment / i.group);
  x.nodes = x.clusters + x.groups + 1;
  x.sinks = static_cast<int>(call.rule.sinks), x.iterations = static_cast<int>(i.iterations);
  const std::int64_t all = segments * p.h_kv;
  x.node_k = arena.take<std::uint16_t>(all * x.nodes * p.d);
  x.node_v = arena.take<std::uint16_t>(all * x.nodes * p.d_v);
  x.count = arena.take<std::uint16_t>(all * x.nodes);
  x.begin = arena.take<std::uint16_t>(all * x.nodes);
  x.child = arena.take<std::uint16_t>(all * (x.groups + 1));
  x.member = arena.take<std::uint16_t>(all * kSegment);

  Route& r = call.route;
  r.rule = call.rule;
  const std::int64_t keys = std::int64_t{p.n_kv} / kSegment * kSegment;  // of one sequence
  r.open_groups = static_cast<int>(std::min(o.plan.open_groups, kMost));
  r.worth = o.plan.standins == StandIns::kNone   ? 1e30f
            : o.plan.standins == StandIns::kAuto ? o.plan.standin_share
                                                 : -1.0f;
  r.groups = static_cast<int>(keys / kSegment * x.groups);
  // Clusters of opened groups: twice as many as if all had their usual size.
  const std::int64_t opened = std::min(keys, std::max(o.plan.open_groups, 4 * far));
  r.clusters =
      static_cast<int>(std::clamp<std::int64_t>(std::min(2 * opened, keys) / i.cluster, 64, 12288));
  r.columns = plan.share == 1 ? kFewColumns : kManyColumns;
  const std::int64_t pairs = std::int64_t{plan.tiles} * plan.lists;
  r.code = arena.take<std::uint32_t>(pairs * r.groups);
  r.total = arena.take<float>(pairs * r.columns);
}

// What hyper hashes and sorts, and a wave of buckets' plans.
void lay_out_buckets(const Options& o, Arena& arena, Call& call) {
  const Problem& p = call.problem;
  Hyper& x = call.hyper;
  if (x.leaves == 0) return;
  lay_out_hyper(p, arena, x);
  if (p.lse == nullptr) call.own_lse = arena.take<float>(std::int64_t{p.sequences} * p.h_q * p.n_q);
  const HyperOptions& h = o.plan.hyper;
  const std::int64_t spans = std::bit_width(static_cast<std::uint64_t>(x.leaves));
  const std::int64_t read = x.sizes.from_budget ? o.plan.budget : spans * (h.block + h.samples);
  const std::int64_t tiles = std::int64_t{p.sequences} * x.runs * x.slots;
  PlanView& plan = call.lanes;
  plan.capacity = static_cast<int>(std::min<std::int64_t>(read, p.n_kv));
  plan.tiles = static_cast<int>(
      std::min(tiles, std::max<std::int64_t>(128, kListed / std::max(1, plan.capacity))));
  plan.lists = 1, plan.share = p.h_q / p.h_kv, plan.lane = x.lane;
  const std::int64_t listed = std::int64_t{plan.tiles} * plan.capacity;
  plan.reads = arena.take<Reads>(plan.tiles);
  plan.list = arena.take<std::int32_t>(listed);
  plan.weight = arena.take<float>(listed);
}

}  // namespace

void lay_out(const Options& o, Arena& arena, Call& call) {
  Problem& p = call.problem;
  const Method method = call.choice.method;
  const bool routed = method == Method::kRouted;
  const std::int64_t sinks = std::min<std::int64_t>(o.index.sinks, kSegment);
  call.rule = {std::min(o.plan.budget, kMost),
               std::min(std::max(o.plan.dense_until, call.choice.crossover), kMost),
               routed ? sinks : std::min(o.plan.sinks, kMost), std::min(o.plan.window, kMost)};
  if (is_hyper(method)) call.hyper = size_hyper(p, o.plan);
  p.tile = static_cast<int>(method == Method::kDense ? kTile
                            : is_hyper(method)       ? call.hyper.sizes.size
                            : routed ? routed_tile_size(o.plan, call.rule.sinks, p.causal)
                                     : tile_size(o.plan, call.rule.sinks, p.causal));

  const bool packed = p.cu_q != nullptr;
  const std::int64_t per_sequence = (std::int64_t{p.n_q} + p.tile - 1) / p.tile + 1;
  const std::int64_t tiles =
      packed ? p.n_q / p.tile + 2 * std::int64_t{p.sequences} : per_sequence * p.sequences;
  const std::int64_t segments =
      routed ? std::int64_t{p.n_kv} / kSegment * (packed ? 1 : p.sequences) : 0;
  PlanView& plan = call.plan;
  call.tiles = static_cast<int>(tiles);
  call.tile = arena.take<TileInfo>(tiles);
  call.segment = arena.take<SegmentInfo>(segments);
  call.counter = arena.take<unsigned long long>(4);
  plan.tile = call.tile;
  // Plans that do not look at queries are those of all heads.
  plan.share = !routed || o.plan.heads_together ? p.h_q / p.h_kv : 1;
  const int lists = p.h_q / plan.share;
  plan.lists = lists;
  const bool listed = routed || method == Method::kTopK;
  const std::int64_t far = std::min<std::int64_t>(call.rule.budget, p.n_kv);
  std::int64_t together = tiles;  // of a wave
  if (listed) {
    together = divide_up(tiles, divide_up(tiles, 2 * kWave));
    plan.lists = static_cast<int>(divide_up(lists, divide_up(together * lists, kWave)));
    plan.capacity = static_cast<int>(far);
  }
  plan.tiles = static_cast<int>(together);
  const bool scored = method == Method::kTopK || call.hyper.selected > 0;
  if (scored && call.scores == nullptr)
    call.own_scores = arena.take<float>(std::int64_t{p.batches()} * p.h_kv * p.n_kv);
  if (routed) lay_out_routed(o, arena, call, segments, far);
  if (is_hyper(method)) lay_out_buckets(o, arena, call);
  const std::int64_t pairs = together * plan.lists;
  plan.reads = arena.take<Reads>(pairs);
  plan.list = arena.take<std::int32_t>(pairs * plan.capacity);
}

Call prepare(const Tensor& q, const Tensor& k, const Tensor& v, const Options& o) {
  check_call(q, k, v, o);
  Call call;
  set_problem(q, k, v, o, call);
  call.choice = choose(q, k, o);
  return call;
}

}  // namespace cuda
}  // namespace prescore
