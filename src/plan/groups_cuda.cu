// First half of routing, for all GPUs: what the routing queries think of every group of far keys. A
// block has 64 routing queries: those of one tile, or of four tiles with one head; of more than one
// sequence each has a block (z). Groups pass twice: once for each query's total, once for ranks by
// shares among it.
#include <algorithm>

#include "plan/groups.cuh"
#include "plan/route_kernels.cuh"

namespace prescore::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps, kBlock = 16 * kWarps;
constexpr int kColumns = 64, kAll = kColumns / 16;  // queries, blocks of 16 of them

template <int D>
struct Shared {
  static constexpr int total = StagedQueries<D>::bytes(kColumns);  // [warps][columns] m, l
  static constexpr int bytes = total + kWarps * kColumns * 8;
};

template <typename T, int D, int kMine>  // columns of a tile
class GroupScorer {
  using S = Shared<D>;
  static constexpr int kTiles = kColumns / kMine, kBlocks = kMine / 16;

 public:
  __device__ GroupScorer(const Problem& p, const PlanView& plan, const IndexView& index,
                         const Route& route, unsigned char* shared)
      : p_(p), plan_(plan), index_(index), route_(route), shared_(shared), queries_{shared},
        thread_(static_cast<int>(threadIdx.x)), lane_(thread_ % 32), warp_(thread_ / 32),
        first_(static_cast<int>(blockIdx.x) * kTiles), list_(static_cast<int>(blockIdx.y)),
        kv_(p.kv_head(plan.head(list_))) {}

  __device__ void run() {
    const int first = lead_of(plan_, first_, kTiles, static_cast<int>(blockIdx.z));
    if (first < 0) return;
    const TileInfo lead = tile(first);
    int most = 0;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      groups_[t] = same_sequence(tile(t), lead) ? far_groups(p_, tile(t), route_, index_) : 0;
      most = max(most, groups_[t]);
    }
    if (most == 0) return;
    nodes_ = index_.at(kv_, lead.segment) * index_.nodes;
    stage_queries();
    totals_.clear();
    pass<true>(most);
#pragma unroll
    for (int t = 0; t < kTiles; ++t)
      if (groups_[t] > 0) add_read(t);
    find_totals();
    pass<false>(most);
  }

 private:
  __device__ TileInfo tile(int t) const { return tile_or_none(plan_, first_ + t); }

  __device__ void stage_queries() {
    queries_.template stage<T>(kColumns, p_.d, [&](int i) {
      const TileInfo t = tile(i / kMine);
      const RoutingQueries routing(p_, plan_, t, list_, kMine);
      return i % kMine < routing.columns ? routing.query<T>(p_, plan_, t, list_, i % kMine)
                                         : nullptr;
    });
    __syncthreads();
  }

  // A warp has 16 of the kBlock groups of a step; the rows of a step are on their way while
  // the step before is judged.
  template <bool kTotals>
  __device__ void pass(int most) {
    const T* node_k = static_cast<const T*>(index_.node_k) + nodes_ * p_.d;
    const std::uint16_t* count = index_.count + nodes_;
    const int r = warp_ * 16 + lane_ / 4;
    Group<kBlock> next[2] = {{index_, r}, {index_, r + 8}};
    RowPair<D> rows;
    int count_of[2];
    const auto load = [&](int first) {
      const int a = first + r < most ? next[0].node : index_.clusters,
                b = first + r + 8 < most ? next[1].node : index_.clusters;
      rows.load(node_k + a * p_.d, node_k + b * p_.d, p_.d, lane_);
      count_of[0] = __ldg(count + a), count_of[1] = __ldg(count + b);
      for (auto& g : next) g.go_on(index_);
    };
    load(0);
    for (int first = 0; first < most; first += kBlock) {
      Products<kAll> c = {};
      add_products<T, D, kAll>(c, rows,
                               [&](int m, int k) { return queries_.fragment(m, k, lane_); });
      Shares keys;
      for (int n = 0; n < 2; ++n)
        for (int j = 0; j < 2; ++j)
          keys[n][j] = static_cast<float>(__shfl_sync(~0u, count_of[n], (lane_ % 4 * 2 + j) * 4));
      if (first + kBlock < most) load(first + kBlock);
      if constexpr (kTotals)
        total(c, keys, first + warp_ * 16);
      else
        write(c, keys, first + warp_ * 16);
    }
  }

  __device__ void total(Products<kAll>& c, const Shares& keys, int first) {
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      if (groups_[t] - first < 16)
#pragma unroll
        for (int m = t * kBlocks; m < (t + 1) * kBlocks; ++m)
          mask_rows(c[m], groups_[t] - first, p_.scale, lane_);
      totals_.template add<kBlocks>(c, t * kBlocks, t * kBlocks, keys, p_.scale);
    }
  }

  __device__ void add_read(int t) {
    const KeysRead read(p_, tile(t), route_.rule);
    add_keys_read<T, D, kBlocks>(
        totals_, t * kBlocks, p_, tile(t), kv_, read, warp_ * 16, kBlock, lane_,
        [&](int m, int k) { return queries_.fragment(t * kBlocks + m, k, lane_); });
  }

  // all_ <- the logarithms of the totals, over the rows of a lane's quad, then over the warps.
  __device__ void find_totals() {
    float2* part = reinterpret_cast<float2*>(shared_ + S::total);
#pragma unroll
    for (int m = 0; m < kAll; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float2 total = totals_.of_quad(m, r);
        if (lane_ % 4 == 0) part[warp_ * kColumns + 16 * m + 8 * r + lane_ / 4] = total;
      }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int queries =
          groups_[t] > 0 ? RoutingQueries(p_, plan_, tile(t), list_, kMine).columns : 0;
      const std::int64_t at = plan_.at(list_, first_ + t);
      if (t == my_tile()) {
        my_code_ = route_.code + at * route_.groups, my_groups_ = groups_[t];
        my_log_queries_ = log2f(static_cast<float>(queries));
      }
#pragma unroll
      for (int m = 0; m < kBlocks; ++m)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int i = 16 * m + 8 * r + lane_ / 4;
          float2 sum = part[t * kMine + i];
          for (int w = 1; w < kWarps; ++w) {
            const float2 more = part[w * kColumns + t * kMine + i];
            merge_totals(sum.x, sum.y, more.x, more.y);
          }
          const float total = log_total(sum, i < queries);
          all_[t * kBlocks + m][r] = total;
          if (warp_ > 0 || groups_[t] == 0) continue;
          if (lane_ % 4 == 0) route_.total[at * kMine + i] = total;
          if (i < queries && total == INFINITY)  // it has no say
            for (int c = lane_ % 4; c < D / 8; c += 4) queries_.set(t * kMine + i, c, uint4{});
        }
    }
    __syncthreads();
  }

  // Codes of the rows from `first` on: a lane has one row of one tile, or two.
  __device__ int my_tile() const { return kTiles == 1 ? 0 : lane_ / 8; }
  __device__ void write(const Products<kAll>& c, const Shares& keys, int first) {
    Shares share[kTiles] = {};
#pragma unroll
    for (int t = 0; t < kTiles; ++t) add_shares<kBlocks>(share[t], c, t * kBlocks, p_.scale, all_);
    if constexpr (kTiles == 1) {
      const float sum = sum_queries(share[0], lane_);
      const int high = lane_ / 4 % 2, odd = lane_ / 8 % 2;
      if (lane_ < 16) write_code(first + row_of_sum(lane_), sum, pick(keys, high, odd));
    } else {
      const float sum[2] = {sum_of_four(share, 0, lane_), sum_of_four(share, 1, lane_)};
      const int high = lane_ / 4 % 2, to = first + 8 * high + lane_ % 4 * 2;
      write_code(to, sum[0], pick(keys, high, 0));
      write_code(to + 1, sum[1], pick(keys, high, 1));
    }
  }
  static __device__ float pick(const Shares& x, int n, int j) {
    const float low = j == 0 ? x[0][0] : x[0][1], high = j == 0 ? x[1][0] : x[1][1];
    return n == 0 ? low : high;
  }
  __device__ void write_code(int group, float sum, float keys) const {
    if (group < my_groups_)
      my_code_[group] = Code::make(fast_log2(sum) - my_log_queries_, static_cast<int>(keys));
  }

  const Problem& p_;
  const PlanView& plan_;
  const IndexView& index_;
  const Route& route_;
  unsigned char* shared_;
  StagedQueries<D> queries_;
  int thread_, lane_, warp_, first_, list_, kv_;
  int groups_[kTiles] = {};
  std::int64_t nodes_ = 0;            // first of the sequence
  std::uint32_t* my_code_ = nullptr;  // of the tile whose codes the lane writes
  int my_groups_ = 0;
  float my_log_queries_ = 0;
  Totals<kAll> totals_;
  PerQuery<kAll> all_;  // their logarithms
};

template <typename T, int D, int kMine>
__global__ __launch_bounds__(kThreads) void groups_kernel(const Problem p, const PlanView plan,
                                                          const IndexView index,
                                                          const Route route) {
  extern __shared__ __align__(1024) unsigned char shared[];
  GroupScorer<T, D, kMine>(p, plan, index, route, shared).run();
}

}  // namespace

template <typename T, int D, int kMine>
void score_groups(const Problem& p, const PlanView& plan, const IndexView& index,
                  const Route& route, cudaStream_t stream) {
  allow_shared(groups_kernel<T, D, kMine>, Shared<D>::bytes, "plan");
  constexpr int kTiles = kColumns / kMine;
  const dim3 grid(static_cast<unsigned>((plan.tiles + kTiles - 1) / kTiles),
                  static_cast<unsigned>(plan.lists),
                  static_cast<unsigned>(std::min(kTiles, p.sequences)));
  groups_kernel<T, D, kMine><<<grid, kThreads, Shared<D>::bytes, stream>>>(p, plan, index, route);
  check_launch("plan", "groups_kernel");
}

PRESCORE_FOR_ALL_SIZES(score_groups)

}  // namespace prescore::cuda
