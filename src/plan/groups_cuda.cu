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
constexpr float kLogEvery = 3.0f;

template <int D>
struct Shared {
  static constexpr int stage(int s) { return kColumns * D * 2 + s * kBlock * D * 2; }
  static constexpr int count = stage(2);                // [2][block] keys of the groups
  static constexpr int total = count + 2 * kBlock * 4;  // [warps][columns] m, l
  static constexpr int bytes = total + kWarps * kColumns * 8;
};

template <typename T, int D, int kMine>  // columns of a tile
class GroupScorer {
  using S = Shared<D>;
  static constexpr int kTiles = kColumns / kMine, kN = kMine / 8;

 public:
  __device__ GroupScorer(const Problem& p, const PlanView& plan, const IndexView& index,
                         const Route& route, unsigned char* shared)
      : p_(p), plan_(plan), index_(index), route_(route), shared_(shared),
        base_(smem_address(shared)), thread_(static_cast<int>(threadIdx.x)), lane_(thread_ % 32),
        warp_(thread_ / 32), first_(static_cast<int>(blockIdx.x) * kTiles),
        list_(static_cast<int>(blockIdx.y)), kv_(p.kv_head(plan.head(list_))) {}

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
      segment_ = tile(lead).segment;
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
      copy16(base_ + swizzled(kColumns, i, c),
             valid ? routing.query<T>(p_, plan_, t, list_, i % kMine) + 8 * c
                   : static_cast<const T*>(p_.q.data),
             valid);
    }
    commit();
  }

  __device__ float* count(int stage) const {
    return reinterpret_cast<float*>(shared_ + S::count) + stage * kBlock;
  }
  // Returns the number of keys of the thread's row, which is kept until the block's turn has come:
  // nobody waits for it now.
  __device__ int load_block(int first, int stage, int most) {
    const int i = thread_ / 2, j = first + i;
    const bool valid = j < most;
    const int seg = valid ? j / index_.groups : 0;
    const std::int64_t node = index_.at(kv_, segment_ + seg) * index_.nodes + index_.clusters +
                              (valid ? j - seg * index_.groups : 0);
    const T* from = static_cast<const T*>(index_.node_k) + node * p_.d;
    const std::uint32_t to = base_ + S::stage(stage);
#pragma unroll
    for (int c = thread_ % 2; c < D / 8; c += 2)
      copy16(to + swizzled(kBlock, i, c), from + (8 * c < p_.d ? 8 * c : 0), valid && 8 * c < p_.d);
    return valid ? index_.count[node] : 0;
  }

  template <bool kTotals>
  __device__ void pass(int most) {
    int keys_of_mine = load_block(0, 0, most);
    commit();
    for (int first = 0, b = 0; first < most; first += kBlock, ++b) {
      if (thread_ % 2 == 0) count(b % 2)[thread_ / 2] = static_cast<float>(keys_of_mine);
      if (first + kBlock < most) keys_of_mine = load_block(first + kBlock, (b + 1) % 2, most);
      commit();
      wait<1>();
      __syncthreads();
      Products<kAll> c = {};
#pragma unroll
      for (int k = 0; k < D / 16; ++k) {
        std::uint32_t a[4];
        load_a(a, base_ + S::stage(b % 2), kBlock, warp_ * 16, k, lane_);
        add_products<T, kAll>(c, a, base_, kColumns, 0, k, lane_);
      }
      const int r = warp_ * 16 + lane_ / 4;
      const float keys[2] = {count(b % 2)[r], count(b % 2)[r + 8]};
#pragma unroll
      for (int t = 0; t < kTiles; ++t) {
        const int left = groups_[t] - (first + r);  // groups of the tile from this row on
        if constexpr (kTotals)
          add_totals<kAll>(c, t * kN, left > 0 ? fast_log2(keys[0]) : -INFINITY,
                           left > 8 ? fast_log2(keys[1]) : -INFINITY, t);
        else
          write(c, t, keys, first + r);
      }
      __syncthreads();
    }
  }

  // Columns [8 from, 8 (from + kN)) of the products join the totals of tile t.
  template <int kHave>
  __device__ void add_totals(const Products<kHave>& c, int from, float w0, float w1, int t) {
#pragma unroll
    for (int n = 0; n < kN; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        float &m = m_[t * kN + n][j], &l = l_[t * kN + n][j];
        const float x = fmaf(c[from + n][j], p_.scale, w0),
                    y = fmaf(c[from + n][2 + j], p_.scale, w1);
        const float best = fmaxf(m, fmaxf(x, y));
        l = l * fast_exp2(m - best) + fast_exp2(x - best) + fast_exp2(y - best);
        m = best;
      }
  }

  // Keys that are read anyway: all sinks, a sample of the window that the tile's first query sees.
  __device__ void add_read(int t) {
    const TileInfo tile = this->tile(t);
    const Layout x = layout_of(p_, tile, route_.rule);
    const int window = static_cast<int>(x.window), sinks = static_cast<int>(x.sinks);
    const int end = min(tile.end(p_, 0), static_cast<int>(x.end));
    const int samples = window < end ? (end - window + kEvery - 1) / kEvery : 0;
    for (int at = warp_ * 16; at < sinks + samples; at += kBlock) {
      Products<kN> c = {};
      const T* from[2];
      float w[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int i = at + lane_ / 4 + 8 * r;
        w[r] = i < sinks ? 0.0f : i < sinks + samples ? kLogEvery : -INFINITY;
        const int key = i < sinks ? i : i < sinks + samples ? window + (i - sinks) * kEvery : 0;
        from[r] = row<T>(p_.k, tile.batch, kv_, tile.k + key);
      }
#pragma unroll
      for (int k = 0; k < D / 16; ++k) {
        const int column = 16 * k + 2 * (lane_ % 4);
        const auto pair = [&](int r, int at_column) {
          return at_column < p_.d ? *reinterpret_cast<const std::uint32_t*>(from[r] + at_column)
                                  : 0u;
        };
        const std::uint32_t a[4] = {pair(0, column), pair(1, column), pair(0, column + 8),
                                    pair(1, column + 8)};
        add_products<T, kN>(c, a, base_, kColumns, t * kMine, k, lane_);
      }
      add_totals<kN>(c, 0, w[0], w[1], t);
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
      log_columns_[t] = log2f(static_cast<float>(columns));
      float* to = route_.total + plan_.at(list_, first_ + t) * kMine;
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
          all_[t * kN + n][j] = i < columns && total == total ? total : INFINITY;
          if (warp_ == 0 && lane_ < 4 && groups_[t] > 0) to[i] = all_[t * kN + n][j];
        }
    }
  }
  static __device__ void merge(float& m, float& l, float m2, float l2) {
    const float best = fmaxf(m, m2);
    l = l * fast_exp2(m - best) + l2 * fast_exp2(m2 - best);
    m = best;
  }

  __device__ void write(const Products<kAll>& c, int t, const float (&keys)[2], int first) {
    float rank[2];
    judge<kN>(c, t * kN, p_.scale, all_, rank);
    if (lane_ % 4 != 0 || groups_[t] == 0) return;
    std::uint32_t* to = route_.code + plan_.at(list_, first_ + t) * route_.groups;
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (first + 8 * r < groups_[t])
        to[first + 8 * r] = Code::make(rank[r] - log_columns_[t], static_cast<int>(keys[r]));
  }

  const Problem& p_;
  const PlanView& plan_;
  const IndexView& index_;
  const Route& route_;
  unsigned char* shared_;
  std::uint32_t base_;
  int thread_, lane_, warp_, first_, list_, kv_;
  int groups_[kTiles] = {}, segment_ = 0;
  float log_columns_[kTiles];
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
