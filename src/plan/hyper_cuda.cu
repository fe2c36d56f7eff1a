// What tiles and buckets read.
#include "plan/hyper_cuda.cuh"

#include <limits>

#include "common/check.h"
#include "common/random.h"

namespace prescore::cuda {
namespace {

__global__ void leaves_kernel(const Problem p, const PlanView plan, const Hyper hyper) {
  const int t = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (t >= plan.tiles) return;
  const TileInfo tile = plan.tile[t];
  Reads r{};
  if (tile.rows > 0) {
    r.end = tile.end(p, tile.rows - 1);
    const int begin = static_cast<int>(hyper.sizes.far_end(hyper.sizes.far_leaf(tile.end(p, 0))));
    const int sinks = static_cast<int>(min(hyper.sizes.sinks, static_cast<std::int64_t>(begin)));
    if (sinks < begin) r.window = begin, r.sinks = sinks;
  }
  for (int i = 0; i < plan.lists; ++i) plan.reads[plan.at(i, t)] = r;
}

// Numbers below a bound that were drawn, by open addressing.
struct Drawn {
  int* slot;
  unsigned mask;
  static constexpr int kEmpty = -1;

  __device__ bool insert(int x) const {  // false: it was there
    unsigned i = static_cast<unsigned>(x) * 0x9e3779b1u & mask;
    for (; slot[i] != kEmpty; i = (i + 1) & mask)
      if (slot[i] == x) return false;
    slot[i] = x;
    return true;
  }
};

// One warp a tile.
class BucketPlanner {
 public:
  __device__ BucketPlanner(const Problem& p, const PlanView& plan, const Hyper& hyper,
                           const Bucket& bucket, int head, std::int64_t entries, int* slots)
      : hyper_(hyper), bucket_(bucket), head_(head), lane_(static_cast<int>(threadIdx.x)),
        list_(plan.list + entries),
        weight_(plan.weight + entries), drawn_{slots,
                                               static_cast<unsigned>(slots_of(hyper.samples)) - 1} {
  }

  static __host__ __device__ int slots_of(int samples) {
    int slots = 32;
    while (slots < 2 * samples) slots *= 2;
    return slots;
  }

  /// Returns the number of keys.
  __device__ int run() {
    const HyperSizes& s = hyper_.sizes;
    const SpanSizes size = s.of_span(bucket_.step, HyperSizes::spans_before(bucket_.leaf));
    for (std::int64_t leaf = bucket_.leaf; leaf > 0; leaf = HyperSizes::before(leaf))
      read_span(leaf, size);
    return n_;
  }

 private:
  __device__ void read_span(std::int64_t leaf, const SpanSizes& size) {
    const std::int32_t* order = hyper_.order + head_ * hyper_.ordered + hyper_.offset(leaf);
    const std::int32_t* start =
        hyper_.start + (std::int64_t{head_} * hyper_.leaves + leaf - 1) * (hyper_.buckets() + 1);
    const int n = start[hyper_.buckets()];
    const int block = static_cast<int>(min(size.block, std::int64_t{n}));
    const int middle = (start[bucket_.place] + start[bucket_.place + 1]) / 2;
    const int begin = min(max(middle - block / 2, 0), n - block), rest = n - block;
    for (int i = lane_; i < block; i += 32) add(i, order[begin + i], 0.0f);
    n_ += block;
    if (size.samples == 0) return;
    const auto pick = [&](int i) { return order[i < begin ? i : i + block]; };
    if (size.samples >= rest) {
      for (int i = lane_; i < rest; i += 32) add(i, pick(i), 0.0f);
      n_ += rest;
      return;
    }
    const int samples = static_cast<int>(size.samples);
    sample(leaf, rest, samples, pick);
    n_ += samples;
  }

  // As sample() of plan/hyper.cpp: lanes draw, then look one after the other what was drawn before.
  template <typename Pick>
  __device__ void sample(std::int64_t leaf, int rest, int samples, const Pick& pick) {
    const std::int64_t tag =
        (leaf * hyper_.sizes.steps + bucket_.step) * hyper_.buckets() + bucket_.place;
    const std::uint64_t start = mix(mix(mix(hyper_.seed) + static_cast<std::uint64_t>(head_)) +
                                    static_cast<std::uint64_t>(tag));
    const float weight = log2f(static_cast<float>(rest) / static_cast<float>(samples));
    for (unsigned i = static_cast<unsigned>(lane_); i <= drawn_.mask; i += 32)
      drawn_.slot[i] = Drawn::kEmpty;
    for (int first = 0; first < samples; first += 32) {
      const int i = rest - samples + first + lane_;
      const double u = unit(mix(start + static_cast<std::uint64_t>(i)));
      int mine = min(i, static_cast<int>(u * static_cast<double>(i + 1)));
      const bool in = first + lane_ < samples;
      for (int l = 0; l < 32; ++l) {
        __syncwarp();
        if (l != lane_ || !in || drawn_.insert(mine)) continue;
        mine = i;
        drawn_.insert(mine);
      }
      if (in) add(first + lane_, pick(mine), weight);
    }
    __syncwarp();
  }

  __device__ void add(int i, std::int32_t key, float weight) {
    list_[n_ + i] = key, weight_[n_ + i] = weight;
  }

  const Hyper& hyper_;
  Bucket bucket_;
  int head_, lane_, n_ = 0;
  std::int32_t* list_;
  float* weight_;
  Drawn drawn_;
};

__global__ __launch_bounds__(32) void buckets_kernel(const Problem p, const PlanView plan,
                                                     const Hyper hyper, const Bucket* bucket) {
  extern __shared__ int slots[];
  const int t = static_cast<int>(blockIdx.x);
  const TileInfo tile = plan.tile[t];
  Reads r{};
  if (tile.rows > 0) {
    const int head = tile.batch * p.h_kv + p.kv_head(plan.head(0));
    r.keys = BucketPlanner(p, plan, hyper, bucket[t], head, plan.entries(0, t), slots).run();
  }
  if (threadIdx.x == 0) plan.reads[t] = r;
}

}  // namespace

Hyper size_hyper(const Problem& p, const PlanOptions& o) {
  constexpr std::int64_t kMost = std::numeric_limits<std::int32_t>::max();
  Hyper x;
  x.sizes = HyperSizes(o, p.causal, p.n_kv);
  const HyperSizes& s = x.sizes;
  check(o.hyper.projections <= kMostBits, "plan", "projections with device cuda",
        o.hyper.projections, "at most " + std::to_string(kMostBits));
  x.bits = static_cast<int>(o.hyper.projections), x.seed = o.seed;
  x.centred = o.hyper.centred, x.negated = p.scale < 0;
  x.leaves = static_cast<int>(s.far_leaf(p.n_kv));  // of the last query
  if (o.method == Method::kPrescoredHyper)
    x.selected = static_cast<int>(std::min(o.hyper.selected, kMost));
  if (x.leaves == 0) return x;

  const std::int64_t samples = std::min<std::int64_t>(s.of_span(0, 1).samples, p.n_kv);
  check(samples <= kMostSamples, "plan", "samples of a span with device cuda", samples,
        "at most " + std::to_string(kMostSamples));
  x.samples = static_cast<int>(samples);
  const std::int64_t group = p.h_q / p.h_kv, first = p.n_kv - p.n_q,
                     unit = s.from_budget ? s.size : s.leaf;
  std::int64_t longest = p.n_q;
  x.runs = 1;
  if (p.causal) {
    // The last one that begins at or before a position.
    const auto run_of = [&](std::int64_t position) {
      std::int64_t run = position / unit;
      while (run > 0 && x.begin(run) > position) --run;
      return run;
    };
    const std::int64_t from = run_of(std::max<std::int64_t>(first, 0));
    x.first_run = static_cast<int>(from);
    x.runs = static_cast<int>(run_of(std::max<std::int64_t>(p.n_kv - 1, 0)) - from + 1);
    longest = std::min<std::int64_t>(p.n_q, unit);  // run 0 of leaves has nothing far
  }
  const std::int64_t rows = longest * group, lanes = std::int64_t{p.sequences} * x.runs * rows;
  check(lanes <= kMost / 2, "plan", "queries of a key head with device cuda", lanes, "below 2^30");
  x.rows = static_cast<int>(rows);
  x.slots = std::min(x.rows, x.buckets()) + x.rows / kTile;
  std::int64_t keys = 0;
  for (std::int64_t leaf = 1; leaf <= x.leaves; ++leaf) keys += leaf & -leaf;
  x.ordered = keys * (p.causal ? s.leaf : p.n_kv);
  return x;
}

void lay_out_hyper(const Problem& p, Arena& arena, Hyper& x) {
  const std::int64_t sequences = p.sequences, heads = sequences * p.h_kv;
  x.direction = arena.take<float>(std::int64_t{x.bits} * p.d);
  x.product = arena.take<float>(heads * x.bits * p.n_kv);
  x.order = arena.take<std::int32_t>(heads * x.ordered);
  x.start = arena.take<std::int32_t>(heads * x.leaves * (x.buckets() + 1));
  x.place = arena.take<std::uint16_t>(sequences * p.h_q * p.n_q);
  x.lane = arena.take<Lane>(sequences * x.runs * x.rows);
  x.tile = arena.take<TileInfo>(sequences * x.runs * x.slots);
  x.bucket = arena.take<Bucket>(sequences * x.runs * x.slots);
}

void plan_leaves(const Problem& p, const PlanView& plan, const Hyper& hyper, cudaStream_t stream) {
  leaves_kernel<<<(plan.tiles + 127) / 128, 128, 0, stream>>>(p, plan, hyper);
  check_launch("plan", "leaves_kernel");
}

void plan_buckets(const Problem& p, const PlanView& plan, const Hyper& hyper, const Bucket* bucket,
                  cudaStream_t stream) {
  const int bytes = BucketPlanner::slots_of(hyper.samples) * 4;
  allow_shared(buckets_kernel, bytes, "plan");
  buckets_kernel<<<plan.tiles, 32, static_cast<std::size_t>(bytes), stream>>>(p, plan, hyper,
                                                                              bucket);
  check_launch("plan", "buckets_kernel");
}

}  // namespace prescore::cuda
