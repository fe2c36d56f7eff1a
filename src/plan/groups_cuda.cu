// First half of routing: what the routing queries think of every group of far keys. A block has 64
// routing queries: those of one tile, or of four tiles with one head. Groups pass twice: once for
// each query's total, once for ranks by shares among it.
#include "plan/route.cuh"
#include "plan/route_kernels.cuh"

namespace prescore::cuda {
namespace {

constexpr int kWarps = 4, kThreads = 32 * kWarps, kBlock = 16 * kWarps;
constexpr int kColumns = 64, kAll = kColumns / 8;  // columns, blocks of 8 of them
constexpr int kEvery = 8;  // of the window's keys in the estimate of all attention

// Sums in the running total are counted from a maximum that follows when it is this far below.
constexpr float kRoom = 32;

template <int D>
struct Shared {
  static constexpr int total = StagedQueries<D>::bytes(kColumns);  // [warps][columns] m, l
  static constexpr int bytes = total + kWarps * kColumns * 8;
};

template <typename T, int D, int kMine>  // columns of a tile
class GroupScorer {
  using S = Shared<D>;
  static constexpr int kTiles = kColumns / kMine, kN = kMine / 8;

 public:
  __device__ GroupScorer(const Problem& p, const PlanView& plan, const IndexView& index,
                         const Route& route, unsigned char* shared)
      : p_(p), plan_(plan), index_(index), route_(route), shared_(shared), queries_{shared},
        thread_(static_cast<int>(threadIdx.x)), lane_(thread_ % 32), warp_(thread_ / 32),
        first_(static_cast<int>(blockIdx.x) * kTiles), list_(static_cast<int>(blockIdx.y)),
        kv_(p.kv_head(plan.head(list_))) {}

  __device__ void run() {
    // Tiles of one sequence at a time; nearly always all of them.
    for (int lead = 0; lead < kTiles; ++lead) {
      if (lead > 0 && same(tile(lead), tile(lead - 1))) continue;
      int most = 0;
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        groups_[t] = same(tile(t), tile(lead)) ? far_groups(tile(t)) : 0;
        most = max(most, groups_[t]);
      }
      if (most == 0) continue;
      nodes_ = index_.at(kv_, tile(lead).segment) * index_.nodes;
      stage_queries();
#pragma unroll
      for (int n = 0; n < kAll; ++n)
        for (int j = 0; j < 2; ++j) m_[n][j] = -1e30f, l_[n][j] = 0;
      pass<true>(most);
#pragma unroll
      for (int t = 0; t < kTiles; ++t)
        if (groups_[t] > 0) add_read(t);
      find_totals();
      pass<false>(most);
    }
  }

 private:
  __device__ TileInfo tile(int t) const {
    return first_ + t < plan_.tiles ? plan_.tile[first_ + t] : TileInfo{};
  }
  static __device__ bool same(const TileInfo& a, const TileInfo& b) {
    return a.batch == b.batch && a.k == b.k && a.segment == b.segment;
  }
  __device__ int far_groups(const TileInfo& tile) const {
    if (tile.rows <= 0) return 0;
    const Layout x = layout_of(p_, tile, route_.rule);
    return x.all() ? 0 : static_cast<int>(x.local) / kSegment * index_.groups;
  }

  __device__ void stage_queries() {
    __syncthreads();
    for (int j = thread_; j < kColumns * (D / 8); j += kThreads) {
      const int i = j / (D / 8), c = j % (D / 8);
      const TileInfo t = tile(i / kMine);
      const RoutingQueries routing(p_, plan_, t, kMine);
      const bool valid = i % kMine < routing.columns && 8 * c < p_.d;
      queries_.chunk(i, c) = valid ? *reinterpret_cast<const uint4*>(
                                         routing.query<T>(p_, plan_, t, list_, i % kMine) + 8 * c)
                                   : uint4{};
    }
    __syncthreads();
  }

  // A group of the sequence: its node, counted from the first of the sequence, and its number in
  // its segment.
  struct Group {
    int node, number;
  };
  __device__ Group group(int j) const {
    const int segment = j / index_.groups, number = j - segment * index_.groups;
    return {segment * index_.nodes + index_.clusters + number, number};
  }
  __device__ void go_on(Group& g) const {  // by kBlock groups
    const int segments = kBlock / index_.groups, groups = kBlock - segments * index_.groups;
    g.node += segments * index_.nodes + groups, g.number += groups;
    if (g.number >= index_.groups)
      g.number -= index_.groups, g.node += index_.nodes - index_.groups;
  }

  // A warp has 16 of the kBlock groups of a step; the rows of a step are on their way while
  // the step before is judged.
  template <bool kTotals>
  __device__ void pass(int most) {
    const T* node_k = static_cast<const T*>(index_.node_k) + nodes_ * p_.d;
    const std::uint16_t* count = index_.count + nodes_;
    const int r = warp_ * 16 + lane_ / 4;
    Group next[2] = {group(r), group(r + 8)};
    RowPair<D> rows;
    float keys[2];
    const auto load = [&](int first) {
      const int a = first + r < most ? next[0].node : index_.clusters,
                b = first + r + 8 < most ? next[1].node : index_.clusters;
      rows.load(node_k + a * p_.d, node_k + b * p_.d, p_.d, lane_);
      keys[0] = __ldg(count + a), keys[1] = __ldg(count + b);
      go_on(next[0]), go_on(next[1]);
    };
    load(0);
    for (int first = 0; first < most; first += kBlock) {
      Products<kAll> c = {};
      add_products<T, D, kAll>(c, rows,
                               [&](int n, int b) { return queries_.part(8 * n, b, lane_); });
      const float mine[2] = {keys[0], keys[1]};
      if (first + kBlock < most) load(first + kBlock);
      if constexpr (kTotals)
        total(c, mine, first);
      else
        write(c, mine, first + r);
    }
  }

  __device__ void total(Products<kAll>& c, const float (&keys)[2], int first) {
    const float never = p_.scale < 0 ? INFINITY : -INFINITY;
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int left = groups_[t] - (first + warp_ * 16);  // groups of the tile from here on
      if (left < 16)
#pragma unroll
        for (int n = t * kN; n < (t + 1) * kN; ++n)
          for (int j = 0; j < 4; ++j)
            if (lane_ / 4 + j / 2 * 8 >= left) c[n][j] = never;
      add_totals<kAll>(c, t * kN, keys, t);
    }
  }

  // Columns [8 from, 8 (from + kN)) of the products, each of so many keys, join the totals of
  // tile t.
  template <int kHave>
  __device__ void add_totals(const Products<kHave>& c, int from, const float (&keys)[2], int t) {
    float x[kN][4];
    const auto find = [&] {  // how far each is above the column's maximum, the furthest of all
      float most = -INFINITY;
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          x[n][j] = fmaf(c[from + n][j], p_.scale, -m_[t * kN + n][j % 2]);
          most = fmaxf(most, x[n][j]);
        }
      return most;
    };
    if (find() > kRoom) {
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          float& m = m_[t * kN + n][j];
          const float best =
              fmaxf(m, fmaxf(c[from + n][j] * p_.scale, c[from + n][2 + j] * p_.scale));
          l_[t * kN + n][j] *= fast_exp2(m - best);
          m = best;
        }
      find();
    }
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        l_[t * kN + n][j % 2] = fmaf(keys[j / 2], fast_exp2(x[n][j]), l_[t * kN + n][j % 2]);
  }

  // Keys that are read anyway: all sinks, a sample of the window that the tile's first query sees.
  __device__ void add_read(int t) {
    const TileInfo tile = this->tile(t);
    const Layout x = layout_of(p_, tile, route_.rule);
    const int window = static_cast<int>(x.window), sinks = static_cast<int>(x.sinks);
    const int end = min(tile.end(p_, 0), static_cast<int>(x.end));
    const int samples = window < end ? (end - window + kEvery - 1) / kEvery : 0;
    for (int at = warp_ * 16; at < sinks + samples; at += kBlock) {
      const T* from[2];
      float weight[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int i = at + lane_ / 4 + 8 * r;
        weight[r] = i < sinks ? 1.0f : i < sinks + samples ? float{kEvery} : 0.0f;
        const int key = i < sinks ? i : i < sinks + samples ? window + (i - sinks) * kEvery : 0;
        from[r] = row<T>(p_.k, tile.batch, kv_, tile.k + key);
      }
      RowPair<D> rows;
      rows.load(from[0], from[1], p_.d, lane_);
      Products<kN> c = {};
      add_products<T, D, kN>(
          c, rows, [&](int n, int b) { return queries_.part(t * kMine + 8 * n, b, lane_); });
#pragma unroll
      for (int n = 0; n < kN; ++n)
        for (int j = 0; j < 4; ++j)
          if (weight[j / 2] == 0) c[n][j] = p_.scale < 0 ? INFINITY : -INFINITY;
      add_totals<kN>(c, 0, weight, t);
    }
  }

  // all_ <- the logarithms of the totals, over the rows of a lane's columns, then over the warps.
  __device__ void find_totals() {
    float2* part = reinterpret_cast<float2*>(shared_ + S::total);
#pragma unroll
    for (int n = 0; n < kAll; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        for (int step = 4; step < 32; step *= 2) {
          const float m = __shfl_xor_sync(~0u, m_[n][j], step),
                      l = __shfl_xor_sync(~0u, l_[n][j], step);
          merge(m_[n][j], l_[n][j], m, l);
        }
        if (lane_ < 4) part[warp_ * kColumns + 8 * n + 2 * lane_ + j] = {m_[n][j], l_[n][j]};
      }
    __syncthreads();
#pragma unroll
    for (int t = 0; t < kTiles; ++t) {
      const int columns = groups_[t] > 0 ? RoutingQueries(p_, plan_, tile(t), kMine).columns : 0;
      const std::int64_t at = plan_.at(list_, first_ + t);
      if (kTiles == 1 || lane_ % 4 == t) {
        my_code_ = route_.code + at * route_.groups, my_groups_ = groups_[t];
        my_log_columns_ = log2f(static_cast<float>(columns));
      }
#pragma unroll
      for (int n = 0; n < kN; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int i = 8 * n + 2 * (lane_ % 4) + j;
          float2 sum = part[t * kMine + i];
          for (int w = 1; w < kWarps; ++w) {
            const float2 more = part[w * kColumns + t * kMine + i];
            merge(sum.x, sum.y, more.x, more.y);
          }
          const float total = sum.x + log2f(sum.y);
          const bool counts = i < columns && fabsf(total) < INFINITY;
          all_[t * kN + n][j] = counts ? total : INFINITY;
          if (warp_ > 0 || lane_ >= 4 || groups_[t] == 0) continue;
          route_.total[at * kMine + i] = counts ? total : INFINITY;
          if (i < columns && !counts)  // a query with NaN has no say
            for (int chunk = 0; chunk < D / 8; ++chunk)
              queries_.chunk(t * kMine + i, chunk) = uint4{};
        }
    }
    __syncthreads();
  }
  static __device__ void merge(float& m, float& l, float m2, float l2) {
    const float best = fmaxf(m, m2);
    l = l * fast_exp2(m - best) + l2 * fast_exp2(m2 - best);
    m = best;
  }

  // Codes of the rows `first` and first + 8: each lane of a quad has a tile.
  __device__ void write(const Products<kAll>& c, const float (&keys)[2], int first) {
    float2 part[kTiles];
#pragma unroll
    for (int t = 0; t < kTiles; ++t) part[t] = add_shares<kN>(c, t * kN, p_.scale, all_);
    float2 sum = part[0];
    if constexpr (kTiles == 1)
      sum = {quad_sum(sum.x), quad_sum(sum.y)};
    else
      sum = scatter(part);
    if (kTiles == 1 && lane_ % 4 != 0) return;
    if (first < my_groups_)
      my_code_[first] = Code::make(fast_log2(sum.x) - my_log_columns_, static_cast<int>(keys[0]));
    if (first + 8 < my_groups_)
      my_code_[first + 8] =
          Code::make(fast_log2(sum.y) - my_log_columns_, static_cast<int>(keys[1]));
  }
  // The sum over the quad of part[lane % 4].
  __device__ float2 scatter(const float2 (&part)[4]) const {
    const bool high = (lane_ & 2) != 0, odd = (lane_ & 1) != 0;
    const auto exchange = [](float keep, float give, int step) {
      return keep + __shfl_xor_sync(~0u, give, step);
    };
    float2 half[2];
#pragma unroll
    for (int t = 0; t < 2; ++t) {
      const float2 &keep = high ? part[t + 2] : part[t], &give = high ? part[t] : part[t + 2];
      half[t] = {exchange(keep.x, give.x, 2), exchange(keep.y, give.y, 2)};
    }
    const float2 &keep = odd ? half[1] : half[0], &give = odd ? half[0] : half[1];
    return {exchange(keep.x, give.x, 1), exchange(keep.y, give.y, 1)};
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
  float my_log_columns_ = 0;
  PerColumn<kAll> m_, l_, all_;  // running maxima and totals; logarithms of totals
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
                  static_cast<unsigned>(plan.lists));
  groups_kernel<T, D, kMine><<<grid, kThreads, Shared<D>::bytes, stream>>>(p, plan, index, route);
  check_launch("plan", "groups_kernel");
}

PRESCORE_FOR_ALL_SIZES(score_groups)

}  // namespace prescore::cuda
