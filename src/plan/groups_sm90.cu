// First half of routing on Hopper: what the routing queries think of every group of far keys. A
// warp has 16 routing queries, a warpgroup multiplies its 64 with 64 groups at a time, and two
// warpgroups share the rows of groups: those of eight tiles of one head, or of two tiles; of more
// than one sequence each has a block (z). Groups pass twice: once for each query's total, once for
// ranks by shares among it.
#include <algorithm>

#include "common/wgmma.cuh"
#include "plan/groups.cuh"
#include "plan/route_kernels.cuh"

namespace prescore::cuda {
namespace {

constexpr int kWarpgroups = 2, kThreads = 128 * kWarpgroups;
constexpr int kColumns = 64 * kWarpgroups;  // queries of a block
constexpr int kRows = 64, kStages = 3;      // groups of a step, steps in shared memory

template <int D>
struct Shared {
  static constexpr int query = kColumns * D * 2, rows_of_step = kRows * D * 2;
  static constexpr int rows(int stage) { return query + stage * rows_of_step; }
  static constexpr int count(int stage) { return rows(kStages) + stage * kRows * 4; }
  static constexpr int part = count(kStages);                            // [warps][rows]
  static constexpr int bytes = part + kThreads / 32 * kRows * 4 + 1024;  // to align to 1,024
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

using Accumulators = float[kRows / 8][4];  // of 16 queries and the rows of a step

template <typename T, int D, int kMine>  // columns of a tile
class GroupScorer {
  using S = Shared<D>;
  static constexpr int kTiles = kColumns / kMine;

 public:
  __device__ GroupScorer(const Problem& p, const PlanView& plan, const IndexView& index,
                         const Route& route, unsigned char* shared)
      : p_(p), plan_(plan), index_(index), route_(route), shared_(shared),
        base_(smem_address(shared)), thread_(static_cast<int>(threadIdx.x)), lane_(thread_ % 32),
        warp_(thread_ / 32), first_(static_cast<int>(blockIdx.x) / plan.lists * kTiles),
        list_(static_cast<int>(blockIdx.x) % plan.lists), kv_(p.kv_head(plan.head(list_))),
        t_(first_ + warp_ * 16 / kMine), tile_(tile_or_none(plan, t_)), next_(index, 0),
        row_(thread_ / 4), chunk_(thread_ % 4 ^ row_ % 2 * 4),
        to_(base_ + swizzled(kRows, row_, chunk_)) {}

  __device__ void run() {
    const int first = lead_of(plan_, first_, kTiles, static_cast<int>(blockIdx.z));
    if (first < 0) return;
    const TileInfo lead = tile(first);
    const auto groups = [&](const TileInfo& t) {
      return same_sequence(t, lead) ? far_groups(p_, t, route_, index_) : 0;
    };
    for (int t = 0; t < kTiles; ++t) most_ = max(most_, groups(tile(t)));
    if (most_ == 0) return;
    groups_ = groups(tile_), steps_ = (most_ + kRows - 1) / kRows;
    const std::int64_t nodes = index_.at(kv_, lead.segment) * index_.nodes;
    node_k_ = static_cast<const T*>(index_.node_k) + nodes * p_.d, count_ = index_.count + nodes;

    if (p_.d < D) clear_rows();
    copy_queries(lead);
    begin_pass<true>();
    totals_.clear();
    pass<true>();
    __syncthreads();
    begin_pass<false>();  // its rows come while the totals are found
    if (groups_ > 0)
      add_keys_read<T, D, 1>(totals_, 0, p_, tile_, kv_, KeysRead(p_, tile_, route_.rule), 0, 16,
                             lane_, [&](int, int k) { return fragment(k); });
    find_totals();
    pass<false>();
  }

 private:
  __device__ TileInfo tile(int t) const { return tile_or_none(plan_, first_ + t); }

  __device__ void clear_rows() const {  // for the columns that no row has
    for (int i = thread_; i < kStages * S::rows_of_step / 16; i += kThreads)
      reinterpret_cast<uint4*>(shared_ + S::rows(0))[i] = uint4{};
    __syncthreads();
  }
  // With the rows of the first step.
  __device__ void copy_queries(const TileInfo& lead) {
    constexpr int kChunks = D / 8;
    for (int j = thread_; j < kColumns * kChunks; j += kThreads) {
      const int i = j / kChunks, c = j % kChunks;
      const TileInfo t = tile(i / kMine);
      const RoutingQueries routing(p_, plan_, t, list_, kMine);
      const bool there = same_sequence(t, lead) && i % kMine < routing.columns && 8 * c < p_.d;
      const T* from = there ? routing.query<T>(p_, plan_, t, list_, i % kMine) + 8 * c
                            : static_cast<const T*>(p_.q.data);
      copy16(base_ + swizzled(kColumns, i, c), from, there);
    }
  }
  // Columns 8 (4 (k / 2) + lane % 4), ... of this warp's queries, as add_products wants them.
  __device__ uint4 fragment(int k) const {
    const auto chunk = [&](int row) {
      return *reinterpret_cast<const uint4*>(
          shared_ + swizzled(kColumns, warp_ * 16 + row, k / 2 * 4 + lane_ % 4));
    };
    const uint4 x = chunk(lane_ / 4), y = chunk(lane_ / 4 + 8);
    return k % 2 == 0 ? uint4{x.x, y.x, x.y, y.y} : uint4{x.z, y.z, x.w, y.w};
  }

  // Four threads copy a row. Its number of keys, as the pass wants it, is stored a step later, when
  // it has come.
  template <bool kTotals>
  __device__ void begin_pass() {
    next_ = Group<kRows>(index_, row_);
    load<kTotals>(0, 0, 0), load<kTotals>(1, 1, 0);
  }
  template <bool kTotals>
  __device__ void load(int step, int stage, int before) {
    if (step > 0 && thread_ % 4 == 0) count(before)[row_] = keys_;
    if (step < steps_) {
      const int node = step * kRows + row_ < most_ ? next_.node : index_.clusters;
      const T* from = node_k_ + node * p_.d + 8 * chunk_;
      const std::uint32_t to = to_ + static_cast<std::uint32_t>(S::rows(stage));
#pragma unroll
      for (int i = 0; i < D / 32; ++i) {  // its chunks 0 to 3 and 4 to 7 of a panel
        const int more = i % 2 * (chunk_ < 4 ? 32 : -32) + i / 2 * 64;
        if (8 * chunk_ + more < p_.d)
          copy16((to ^ i % 2 * 64u) + i / 2 * kRows * 128u, from + more, true);
      }
      if (thread_ % 4 == 0) {
        const int keys = __ldg(count_ + node);
        keys_ = kTotals ? __float_as_int(static_cast<float>(keys)) : keys;
      }
      next_.go_on(index_);
    }
    commit();
  }
  __device__ int* count(int stage) const {
    return reinterpret_cast<int*>(shared_ + S::count(stage));
  }

  // Steps s + 1 and s + 2 are on their way while step s is judged.
  template <bool kTotals>
  __device__ void pass() {
    for (int step = 0, stage = 0; step < steps_; ++step) {
      wait<1>();
      asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");  // copied rows, for products
      __syncthreads();
      const int next = stage == kStages - 1 ? 0 : stage + 1;
      load<kTotals>(step + 2, next == kStages - 1 ? 0 : next + 1, next);
      Accumulators c;
      multiply_rows(c, S::rows(stage));
      if constexpr (kTotals)
        total(c, count(stage), step * kRows);
      else
        write(c, count(stage), step * kRows);
      stage = next;
    }
  }
  __device__ void multiply_rows(Accumulators& c, int rows) const {
    const std::uint64_t query =
        describe(base_ + static_cast<std::uint32_t>(warp_ / 4) * 64 * 128, 0);
    const std::uint64_t row = describe(base_ + static_cast<std::uint32_t>(rows), 0);
    pin(c);
    products_begin();
#pragma unroll
    for (int k = 0; k < D / 16; ++k)
      product<T>(c, moved(query, k / 4 * kColumns * 128 + k % 4 * 32),
                 moved(row, k / 4 * kRows * 128 + k % 4 * 32), k > 0);
    products_commit();
    products_wait<0>();
    pin(c);
  }

  __device__ void total(Accumulators& c, const int* keys, int first) {
    if (groups_ - first < kRows) mask_rows(c, groups_ - first, p_.scale, lane_);
    float2 of[kRows / 8];
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n)
      of[n] = *reinterpret_cast<const float2*>(keys + 8 * n + lane_ % 4 * 2);
    totals_.template add<1, kRows / 4>(
        0, p_.scale, [&](int, int i, int r) { return c[i / 2][2 * r + i % 2]; },
        [&](int i) { return i % 2 == 0 ? of[i / 2].x : of[i / 2].y; });
  }

  // all_ <- the logarithms of the totals, over the rows of a lane's quad.
  __device__ void find_totals() {
    const int queries = groups_ > 0 ? RoutingQueries(p_, plan_, tile_, list_, kMine).columns : 0;
    log_queries_ = log2f(static_cast<float>(queries));
    code_ = route_.code + plan_.at(list_, t_) * route_.groups;
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int column = warp_ * 16 + 8 * r + lane_ / 4, i = column % kMine;
      all_[0][r] = log_total(totals_.of_quad(0, r), i < queries);
      if (groups_ == 0) continue;
      if (lane_ % 4 == 0) route_.total[plan_.at(list_, t_) * kMine + i] = all_[0][r];
      if (i < queries && all_[0][r] == INFINITY)  // it has no say
        for (int c = lane_ % 4; c < D / 8; c += 4)
          *reinterpret_cast<uint4*>(shared_ + swizzled(kColumns, column, c)) = uint4{};
    }
  }

  // Codes of the rows from `first` on. Where a tile has four warps, each has a part of its sums.
  __device__ void write(const Accumulators& c, const int* keys, int first) {
    const auto share_of = [&](float x, int r) { return fast_exp2(fmaf(x, p_.scale, -all_[0][r])); };
    Shares share[kRows / 16];
#pragma unroll
    for (int n = 0; n < kRows / 8; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        share[n / 2][n % 2][j] = share_of(c[n][j], 0) + share_of(c[n][2 + j], 1);
    const float sum[2] = {sum_of_four(share, 0, lane_), sum_of_four(share, 1, lane_)};
    const int row = lane_ / 4 * 8 + lane_ % 4 * 2;
    if constexpr (kMine == kFewColumns) {
      for (int j = 0; j < 2; ++j) write_code(first + row + j, sum[j], keys[row + j]);
    } else {
      float* part = reinterpret_cast<float*>(shared_ + S::part) + warp_ / 4 * 4 * kRows;
      *reinterpret_cast<float2*>(part + warp_ % 4 * kRows + row) = {sum[0], sum[1]};
      asm volatile("bar.sync %0, 128;\n" ::"r"(1 + warp_ / 4) : "memory");
      if (const int i = thread_ % 128; i < kRows) {
        float all = part[i];
        for (int w = 1; w < 4; ++w) all += part[w * kRows + i];
        write_code(first + i, all, keys[i]);
      }
    }
  }
  __device__ void write_code(int group, float sum, int keys) const {
    if (group < groups_) code_[group] = Code::make(fast_log2(sum) - log_queries_, keys);
  }

  const Problem& p_;
  const PlanView& plan_;
  const IndexView& index_;
  const Route& route_;
  unsigned char* shared_;
  std::uint32_t base_;
  int thread_, lane_, warp_, first_, list_, kv_, t_;  // t_: this warp's tile
  TileInfo tile_;
  int groups_ = 0, most_ = 0, steps_ = 0;  // of this tile, of all, steps of a pass
  const T* node_k_ = nullptr;              // of the sequence
  const std::uint16_t* count_ = nullptr;
  Group<kRows> next_;  // to be copied by this thread, part of it
  int row_, chunk_;
  std::uint32_t to_;
  int keys_ = 0;
  float log_queries_ = 0;
  std::uint32_t* code_ = nullptr;  // of this tile
  Totals<1> totals_;
  PerQuery<1> all_;  // their logarithms
};

#endif

template <typename T, int D, int kMine>
__global__ __launch_bounds__(kThreads, 2) void groups_sm90(const Problem p, const PlanView plan,
                                                           const IndexView index,
                                                           const Route route) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char unaligned[];
  unsigned char* shared = unaligned + (1024 - smem_address(unaligned) % 1024) % 1024;
  GroupScorer<T, D, kMine>(p, plan, index, route, shared).run();
#else
  __trap();  // never launched by such a build
#endif
}

}  // namespace

template <typename T, int D, int kMine>
void score_groups_hopper(const Problem& p, const PlanView& plan, const IndexView& index,
                         const Route& route, cudaStream_t stream) {
  allow_shared(groups_sm90<T, D, kMine>, Shared<D>::bytes, "plan");
  constexpr int kTiles = kColumns / kMine;
  // Lists vary fastest: tiles come by their length, the longest first.
  const dim3 grid(static_cast<unsigned>((plan.tiles + kTiles - 1) / kTiles * plan.lists), 1,
                  static_cast<unsigned>(std::min(kTiles, p.sequences)));
  groups_sm90<T, D, kMine><<<grid, kThreads, Shared<D>::bytes, stream>>>(p, plan, index, route);
  check_launch("plan", "groups_sm90");
}

#define PRESCORE_FOR_ONE(T, D, kMine)                                             \
  template void score_groups_hopper<T, D, kMine>(const Problem&, const PlanView&, \
                                                 const IndexView&, const Route&, cudaStream_t);
PRESCORE_FOR_ONE(bf16, 64, kFewColumns)
PRESCORE_FOR_ONE(bf16, 128, kFewColumns)
PRESCORE_FOR_ONE(bf16, 128, kManyColumns)
PRESCORE_FOR_ONE(f16, 64, kFewColumns)
PRESCORE_FOR_ONE(f16, 128, kFewColumns)
PRESCORE_FOR_ONE(f16, 128, kManyColumns)

}  // namespace prescore::cuda
