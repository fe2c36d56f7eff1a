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
  if (takes(o.plan, Method::kTopK) || o.plan.method == Method::kPrescoredHyper) check_scored(k, o);
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

// Heads with one budget are a class; lists of a class follow each other, those that take longest
// first.
void make_classes(const Options& o, Call& call) {
  const Problem& p = call.problem;
  PlanOptions plan = o.plan;
  settle(plan, call.choice.method, p.h_q, p.h_kv);
  if (plan.heads.empty()) plan.heads.resize(static_cast<std::size_t>(p.h_q));
  const ResolvedBudgets heads = resolve_heads(plan, p.h_q, p.h_kv);
  ResolvedBudgets kinds = heads;
  std::sort(kinds.begin(), kinds.end(), longer);
  kinds.erase(std::unique(kinds.begin(), kinds.end()), kinds.end());
  const bool mixed = !o.plan.heads.empty();
  const int group = p.h_q / p.h_kv;
  for (const ResolvedBudget& kind : kinds) {
    ListClass c;
    c.method = kind.method, c.alone = kind.alone;
    c.first = static_cast<int>(call.lists.size());
    const bool routed = kind.method == Method::kRouted;
    const bool exact = mixed || kind.method != Method::kWindow;
    c.rule = {std::min(kind.keys, kMost),
              exact ? std::min(std::max(o.plan.dense_until, call.choice.crossover), kMost) : 0,
              routed ? call.sinks : std::min(o.plan.sinks, kMost), std::min(o.plan.window, kMost)};
    const std::int64_t far = std::min<std::int64_t>(c.rule.budget, p.n_kv);
    if (kind.method == Method::kTopK) c.capacity = static_cast<int>(far);
    if (routed)
      c.capacity = static_cast<int>(far + (o.plan.standins != StandIns::kNone ? kMaxNodes : 0));
    for (int h = 0; h < p.h_q; ++h) {
      if (!(heads[static_cast<std::size_t>(h)] == kind)) continue;
      const bool joins = static_cast<int>(call.lists.size()) > c.first && !kind.alone &&
                         call.head_of.back() / group == h / group;
      if (!joins)
        call.lists.push_back({static_cast<std::int32_t>(call.head_of.size()), 0, c.capacity, 0});
      ++call.lists.back().heads;
      call.head_of.push_back(h);
    }
    c.lists = static_cast<int>(call.lists.size()) - c.first;
    call.classes.push_back(c);
  }
}

// Cuts the lists into waves of at most `most` that have entries, and tells where theirs begin among
// those of `tiles` tiles. Returns the entries of the largest wave.
std::int64_t make_waves(int tiles, std::int64_t most, Call& call) {
  std::int64_t largest = 0, entries = 0, listed = 0;
  for (std::size_t i = 0; i < call.lists.size(); ++i) {
    ListInfo& list = call.lists[i];
    listed += list.capacity > 0 ? 1 : 0;
    if (i == 0 || (list.capacity > 0 && listed > most)) {
      call.waves.push_back({static_cast<int>(i), 0, 0});
      entries = 0, listed = list.capacity > 0 ? 1 : 0;
    }
    list.begin = entries;
    entries += std::int64_t{tiles} * list.capacity;
    largest = std::max(largest, entries);
    ++call.waves.back().lists, call.waves.back().units += list.heads;
  }
  return largest;
}

// The index.
void lay_out_index(const Options& o, Arena& arena, Call& call, std::int64_t segments) {
  const Problem& p = call.problem;
  const IndexOptions& i = o.index;
  IndexView& x = call.index;
  x.segments = static_cast<int>(segments), x.segment = call.segment;
  x.clusters = static_cast<int>(kSegment / i.cluster),
  x.groups = static_cast<int>(kSegment / i.group);
  x.nodes = x.clusters + x.groups + 1;
  x.sinks = static_cast<int>(call.sinks), x.iterations = static_cast<int>(i.iterations);
  const std::int64_t all = segments * p.h_kv;
  x.node_k = arena.take<std::uint16_t>(all * x.nodes * p.d);
  x.node_v = arena.take<std::uint16_t>(all * x.nodes * p.d_v);
  x.count = arena.take<std::uint16_t>(all * x.nodes);
  x.begin = arena.take<std::uint16_t>(all * x.nodes);
  x.child = arena.take<std::uint16_t>(all * (x.groups + 1));
  x.member = arena.take<std::uint16_t>(all * kSegment);
}

// How each routed class routes, and scratch for the largest run of its lists in a wave.
void lay_out_routes(const Options& o, Arena& arena, Call& call) {
  const Problem& p = call.problem;
  const std::int64_t keys = std::int64_t{p.n_kv} / kSegment * kSegment;  // of one sequence
  std::int64_t most = 0;  // lists of a class in a wave
  int columns = kFewColumns;
  for (ListClass& c : call.classes) {
    if (c.method != Method::kRouted) continue;
    Route& r = c.route;
    r.rule = c.rule;
    r.open_groups = static_cast<int>(std::min(o.plan.open_groups, kMost));
    r.worth = o.plan.standins == StandIns::kNone   ? 1e30f
              : o.plan.standins == StandIns::kAuto ? o.plan.standin_share
                                                   : -1.0f;
    r.groups = static_cast<int>(keys / kSegment * call.index.groups);
    // Clusters of opened groups: twice as many as if all had their usual size.
    const std::int64_t far = std::min<std::int64_t>(c.rule.budget, p.n_kv);
    const std::int64_t opened = std::min(keys, std::max(o.plan.open_groups, 4 * far));
    r.clusters = static_cast<int>(
        std::clamp<std::int64_t>(std::min(2 * opened, keys) / o.index.cluster, 64, 12288));
    bool several = false;
    for (int i = c.first; i < c.first + c.lists; ++i)
      several |= call.lists[static_cast<std::size_t>(i)].heads > 1;
    r.columns = several ? kManyColumns : kFewColumns;
    columns = std::max(columns, r.columns);
    for (const Wave& w : call.waves)
      most = std::max<std::int64_t>(
          most, std::min(c.first + c.lists, w.first + w.lists) - std::max(c.first, w.first));
  }
  const std::int64_t pairs = call.plan.tiles * most;
  auto* code = arena.take<std::uint32_t>(pairs * (keys / kSegment * call.index.groups));
  auto* total = arena.take<float>(pairs * columns);
  for (ListClass& c : call.classes) c.route.code = code, c.route.total = total;
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
  const int capacity = static_cast<int>(std::min<std::int64_t>(read, p.n_kv));
  plan.tiles = static_cast<int>(
      std::min(tiles, std::max<std::int64_t>(128, kListed / std::max(1, capacity))));
  plan.lists = 1, plan.units = p.h_q / p.h_kv, plan.lane = x.lane;
  call.bucket_lists.clear();
  for (int i = 0; i < p.h_kv; ++i)
    call.bucket_lists.push_back({i * plan.units, plan.units, capacity, 0});
  plan.table = call.plan.table;  // the same heads
  plan.table.list = arena.take<ListInfo>(p.h_kv);
  const std::int64_t listed = std::int64_t{plan.tiles} * capacity;
  plan.reads = arena.take<Reads>(plan.tiles);
  plan.list = arena.take<std::int32_t>(listed);
  plan.weight = arena.take<float>(listed);
}

// One size for all heads: the smallest that a class wants.
int tile_of(const Options& o, const Call& call) {
  const bool causal = call.problem.causal;
  std::int64_t tile = kTile;
  for (const ListClass& c : call.classes) {
    if (c.method == Method::kDense) continue;
    PlanOptions plan = o.plan;
    plan.budget = c.rule.budget;
    tile = std::min(tile, c.method == Method::kRouted ? routed_tile_size(plan, c.rule.sinks, causal)
                                                      : tile_size(plan, c.rule.sinks, causal));
  }
  return static_cast<int>(tile);
}

}  // namespace

void lay_out(const Options& o, Arena& arena, Call& call) {
  Problem& p = call.problem;
  const Method method = call.choice.method;
  call.sinks = std::min<std::int64_t>(o.index.sinks, kSegment);
  call.classes.clear(), call.waves.clear(), call.lists.clear(), call.head_of.clear();
  if (is_hyper(method)) call.hyper = size_hyper(p, o.plan);
  make_classes(o, call);
  const auto any = [&](Method m) {
    return std::any_of(call.classes.begin(), call.classes.end(),
                       [m](const ListClass& c) { return c.method == m; });
  };
  const bool routed = any(Method::kRouted);
  p.tile = is_hyper(method) ? static_cast<int>(call.hyper.sizes.size) : tile_of(o, call);

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
  const std::int64_t listed = std::count_if(call.lists.begin(), call.lists.end(),
                                            [](const ListInfo& list) { return list.capacity > 0; });
  std::int64_t together = tiles, most = 0;  // tiles and lists of a wave
  if (listed > 0) {
    together = divide_up(tiles, divide_up(tiles, 2 * kWave));
    most = divide_up(listed, divide_up(together * listed, kWave));
  }
  plan.tiles = static_cast<int>(together);
  const std::int64_t entries = make_waves(plan.tiles, most, call);
  plan.table = take_table(arena, static_cast<int>(call.lists.size()), p.h_q);
  plan.lists = call.waves[0].lists, plan.units = call.waves[0].units;
  std::int64_t most_lists = 0;
  for (const Wave& w : call.waves) most_lists = std::max<std::int64_t>(most_lists, w.lists);
  const bool scored = any(Method::kTopK) || call.hyper.selected > 0;
  if (scored && call.scores == nullptr)
    call.own_scores = arena.take<float>(std::int64_t{p.batches()} * p.h_kv * p.n_kv);
  if (routed) {
    lay_out_index(o, arena, call, segments);
    lay_out_routes(o, arena, call);
  }
  if (is_hyper(method)) lay_out_buckets(o, arena, call);
  lay_out_certificate(p, arena, call.certificate);
  if (call.certificate.min_recall > 0) {
    if (together < tiles)
      fail("attention", "min_recall with device cuda", std::to_string(tiles) + " tiles",
           "at most " + std::to_string(2 * kWave) + ", whose plans exist at a time");
    plan.redone = call.certificate.redone;
  }
  plan.reads = arena.take<Reads>(together * most_lists);
  plan.list = arena.take<std::int32_t>(entries);
}

Call prepare(const Tensor& q, const Tensor& k, const Tensor& v, const Options& o) {
  check_call(q, k, v, o);
  check(q.shape[1] <= 65535, "attention", "query heads with device cuda", q.shape[1],
        "at most 65535");
  Call call;
  set_problem(q, k, v, o, call);
  call.choice = choose(q, k, o);
  call.certificate = draw_certificate(call.problem, o);
  PlanOptions plan = o.plan;
  settle(plan, call.choice.method, q.shape[1], k.shape[1]);
  if (!plan.heads.empty()) call.choice.reason += own_budgets(plan, q.shape[1], k.shape[1]);
  return call;
}

}  // namespace cuda
}  // namespace prescore
