// First half of routing: what the routing queries of each tile think of every group of its far
// keys. One block serves eight tiles of a head, which see nearly the same groups; two warps have
// two tiles and half of the rows each. Groups pass twice: once for each query's total, once for
// ranks and shares among it.
#include "plan/route.cuh"
#include "plan/route_kernels.cuh"

namespace prescore::cuda {
namespace {

constexpr int kTiles = 8, kMine = 2, kThreads = 256, kBlock = 64;  // kMine: tiles of a warp
constexpr int kEvery = 8;  // of the window's keys in the estimate of all attention
constexpr float kLogEvery = 3.0f;

template <int D>
struct Shared {
  static constexpr int stage(int s) { return s * kBlock * D * 2; }
  static constexpr int count = 2 * kBlock * D * 2;      // [2][block] log2 of the keys
  static constexpr int total = count + 2 * kBlock * 4;  // [tiles / 2][2 warps][32][2] m, l
  static constexpr int bytes = total + 2 * kTiles * kRouting * 8;
};

template <typename T, int D>
class GroupScorer {
  using S = Shared<D>;

 public:
  __device__ GroupScorer(const Problem& p, const PlanView& plan, const IndexView& index,
                         const Route& route, unsigned char* shared)
      : p_(p), plan_(plan), index_(index), route_(route), shared_(shared),
        base_(smem_address(shared)), thread_(static_cast<int>(threadIdx.x)), lane_(thread_ % 32),
        warp_(thread_ / 32), slot_(warp_ / 2 * kMine), half_(warp_ % 2),
        h_local_(static_cast<int>(blockIdx.y)), head_(plan.first_head + h_local_),
        kv_(p.kv_head(head_)) {}

  __device__ void run() {
    const int first = static_cast<int>(blockIdx.x) * kTiles;
    TileInfo tile[kTiles];
    int groups[kTiles];
    for (int s = 0; s < kTiles; ++s) {
      tile[s] = first + s < plan_.tiles ? plan_.tile[first + s] : TileInfo{};
      groups[s] = 0;
      if (tile[s].rows <= 0) continue;
      const Layout x = layout_of(p_, tile[s], route_.rule);
      if (!x.all()) groups[s] = static_cast<int>(x.local) / kSegment * index_.groups;
    }
    // Tiles of one sequence at a time; nearly always all of them.
    for (int s = 0; s < kTiles; ++s) {
      if (s > 0 && same(tile[s], tile[s - 1])) continue;
      int most = 0;
      for (int o = s; o < kTiles; ++o)
        if (same(tile[o], tile[s])) most = max(most, groups[o]);
      if (most > 0) score(tile, groups, s, most, first);
    }
  }

 private:
  static __device__ bool same(const TileInfo& a, const TileInfo& b) {
    return a.batch == b.batch && a.k == b.k && a.segment == b.segment;
  }

  __device__ void score(const TileInfo (&tiles)[kTiles], const int (&groups)[kTiles], int lead,
                        int most, int first) {
    t_ = first + slot_;
    far_groups_ = 0;
#pragma unroll
    for (int t = 0; t < kMine; ++t) {
      tile_[t] = tiles[slot_ + t];
      groups_[t] = same(tile_[t], tiles[lead]) ? groups[slot_ + t] : 0;
      far_groups_ = max(far_groups_, groups_[t]);
    }
    stage_queries();
    segment_ = tiles[lead].segment;
#pragma unroll
    for (int n = 0; n < kMine * kColumns; ++n)
      for (int j = 0; j < 2; ++j) m_[n][j] = -1e30f, l_[n][j] = 0;
    pass<true>(most);
    find_totals();
    pass<false>(most);
  }

  // The routing queries of all tiles, through shared memory into registers.
  __device__ void stage_queries() {
    __syncthreads();
    for (int j = thread_; j < kTiles * kRouting * (D / 8); j += kThreads) {
      const int i = j / (D / 8), c = j % (D / 8), s = i / kRouting;
      const int t = static_cast<int>(blockIdx.x) * kTiles + s;
      const TileInfo tile = t < plan_.tiles ? plan_.tile[t] : TileInfo{};
      const int r = tile.rows > 0 ? routing_row(tile.rows, p_.tile, i % kRouting) : -1;
      copy16(base_ + swizzled(kTiles * kRouting, i, c),
             row<T>(p_.q, tile.batch, head_, tile.q + max(r, 0)) + (8 * c < p_.d ? 8 * c : 0),
             r >= 0 && 8 * c < p_.d);
    }
    commit();
    wait<0>();
    __syncthreads();
    load_queries<kMine, D>(q_, base_, kTiles * kRouting, slot_ * kRouting, lane_);
    __syncthreads();
  }

  __device__ void load_block(int first, int stage, int most) {
    const int i = thread_ / 4, j = first + i;
    const bool valid = j < most;
    const int seg = valid ? j / index_.groups : 0;
    const std::int64_t node = index_.at(kv_, segment_ + seg) * index_.nodes + index_.clusters +
                              (valid ? j - seg * index_.groups : 0);
    const T* from = static_cast<const T*>(index_.node_k) + node * p_.d;
    const std::uint32_t to = base_ + S::stage(stage);
#pragma unroll
    for (int c = thread_ % 4; c < D / 8; c += 4)
      copy16(to + swizzled(kBlock, i, c), from + (8 * c < p_.d ? 8 * c : 0), valid && 8 * c < p_.d);
    if (thread_ % 4 == 0)
      log_count(stage)[i] =
          valid ? log2f(static_cast<float>(index_.count[node])) : -INFINITY;  // empty: -inf too
  }
  __device__ float* log_count(int stage) const {
    return reinterpret_cast<float*>(shared_ + S::count) + stage * kBlock;
  }

  template <bool kTotals>
  __device__ void pass(int most) {
    load_block(0, 0, most);
    commit();
    for (int first = 0, b = 0; first < most; first += kBlock, ++b) {
      if (first + kBlock < most) {
        load_block(first + kBlock, (b + 1) % 2, most);
        commit();
        wait<1>();
      } else {
        wait<0>();
      }
      __syncthreads();
      if (first < far_groups_)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          const int at = half_ * 32 + i * 16;
          Products<kMine> c = {};
#pragma unroll
          for (int k = 0; k < D / 16; ++k) {
            std::uint32_t a[4];
            load_a(a, base_ + S::stage(b % 2), kBlock, at, k, lane_);
            add_products<T, kMine>(c, a, q_[k]);
          }
          const int r = at + lane_ / 4;
          const float w[2] = {log_count(b % 2)[r], log_count(b % 2)[r + 8]};
#pragma unroll
          for (int t = 0; t < kMine; ++t) {
            const float mine[2] = {first + r < groups_[t] ? w[0] : -INFINITY,
                                   first + r + 8 < groups_[t] ? w[1] : -INFINITY};
            if constexpr (kTotals)
              add_totals(c, t, mine);
            else
              write(c, t, mine, first + r);
          }
        }
      __syncthreads();
    }
  }

  __device__ void add_totals(const Products<kMine>& c, int t, const float (&w)[2]) {
#pragma unroll
    for (int n = t * kColumns; n < (t + 1) * kColumns; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float x = fmaf(c[n][j], p_.scale, w[0]), y = fmaf(c[n][2 + j], p_.scale, w[1]);
        const float m = fmaxf(m_[n][j], fmaxf(x, y));
        l_[n][j] = l_[n][j] * rough_exp2(m_[n][j] - m) + (x == -INFINITY ? 0 : rough_exp2(x - m)) +
                   (y == -INFINITY ? 0 : rough_exp2(y - m));
        m_[n][j] = m;
      }
  }

  // far_, all_: the logarithms of the totals, complete in every lane of both warps of a tile.
  __device__ void find_totals() {
    combine(far_);
#pragma unroll
    for (int t = 0; t < kMine; ++t)
      if (groups_[t] > 0) add_read(t);
    combine(all_);
    if (half_ != 0 || lane_ >= 4) return;
#pragma unroll
    for (int t = 0; t < kMine; ++t) {
      if (groups_[t] == 0) continue;
      float2* to = route_.total + plan_.at(h_local_, t_ + t) * kRouting;
#pragma unroll
      for (int n = 0; n < kColumns; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j)
          to[8 * n + 2 * lane_ + j] =
              make_float2(far_[t * kColumns + n][j], all_[t * kColumns + n][j]);
    }
  }

  // Keys that are read anyway: all sinks, a sample of the window that the tile's first query sees.
  __device__ void add_read(int t) {
    const TileInfo& tile = tile_[t];
    const Layout x = layout_of(p_, tile, route_.rule);
    const int window = static_cast<int>(x.window), sinks = static_cast<int>(x.sinks);
    const int end = min(tile.end(p_, 0), static_cast<int>(x.end));
    const int samples = window < end ? (end - window + kEvery - 1) / kEvery : 0;
    for (int at = half_ * 16; at < sinks + samples; at += 32) {
      Products<kMine> c = {};
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
        add_products<T, kMine>(c, a, q_[k]);
      }
      add_totals(c, t, w);
    }
  }

  // Over the rows of a lane's columns, then over both warps. m_ and l_ go on from the common total
  // in one of the lanes.
  __device__ void combine(PerColumn<kMine>& out) {
    float2* both = reinterpret_cast<float2*>(shared_ + S::total) + slot_ * 2 * kRouting;
    constexpr int kAll = kMine * kRouting;
    __syncthreads();
#pragma unroll
    for (int n = 0; n < kMine * kColumns; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        for (int step = 4; step < 32; step *= 2) {
          const float m = __shfl_xor_sync(~0u, m_[n][j], step),
                      l = __shfl_xor_sync(~0u, l_[n][j], step);
          merge(m_[n][j], l_[n][j], m, l);
        }
        if (lane_ < 4) both[half_ * kAll + 8 * n + 2 * lane_ + j] = make_float2(m_[n][j], l_[n][j]);
      }
    __syncthreads();
    const int queries[kMine] = {routing_rows(tile_[0].rows, p_.tile),
                                routing_rows(tile_[1].rows, p_.tile)};
#pragma unroll
    for (int n = 0; n < kMine * kColumns; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int i = 8 * n + 2 * (lane_ % 4) + j;
        const float2 a = both[i], b = both[kAll + i];
        float m = a.x, l = a.y;
        merge(m, l, b.x, b.y);
        out[n][j] = i % kRouting < queries[i / kRouting] ? m + log2f(l) : INFINITY;
        m_[n][j] = half_ == 0 && lane_ < 4 ? m : -1e30f;
        l_[n][j] = half_ == 0 && lane_ < 4 ? l : 0.0f;
      }
  }
  static __device__ void merge(float& m, float& l, float m2, float l2) {
    const float best = fmaxf(m, m2);
    l = l * exp2f(m - best) + l2 * exp2f(m2 - best);
    m = best;
  }

  __device__ void write(const Products<kMine>& c, int t, const float (&w)[2], int first) {
    float rank[2], share[2];
    judge<kMine>(c, t, p_.scale, w, far_, all_, rank, share);
    if (lane_ % 4 != 0) return;
    std::uint32_t* to = route_.rank + plan_.at(h_local_, t_ + t) * route_.groups;
    const float each = 1.0f / static_cast<float>(routing_rows(tile_[t].rows, p_.tile));
#pragma unroll
    for (int r = 0; r < 2; ++r)
      if (first + 8 * r < groups_[t])
        to[first + 8 * r] = Code::make(rank[r], share[r] * each, w[r] > -INFINITY);
  }

  const Problem& p_;
  const PlanView& plan_;
  const IndexView& index_;
  const Route& route_;
  unsigned char* shared_;
  std::uint32_t base_;
  int thread_, lane_, warp_, slot_, half_, h_local_, head_, kv_;
  TileInfo tile_[kMine];  // the first has number t_
  int groups_[kMine] = {}, far_groups_ = 0, t_ = 0, segment_ = 0;
  Queries<kMine, D> q_;
  PerColumn<kMine> m_, l_, far_, all_;  // running maxima and totals; logarithms of totals
};

template <typename T, int D>
__global__ __launch_bounds__(kThreads) void groups_kernel(const Problem p, const PlanView plan,
                                                          const IndexView index,
                                                          const Route route) {
  extern __shared__ __align__(1024) unsigned char shared[];
  GroupScorer<T, D>(p, plan, index, route, shared).run();
}

}  // namespace

template <typename T, int D>
void score_groups(const Problem& p, const PlanView& plan, const IndexView& index,
                  const Route& route, cudaStream_t stream) {
  allow_shared(groups_kernel<T, D>, Shared<D>::bytes, "plan");
  const dim3 grid(static_cast<unsigned>((plan.tiles + kTiles - 1) / kTiles),
                  static_cast<unsigned>(plan.heads));
  groups_kernel<T, D><<<grid, kThreads, Shared<D>::bytes, stream>>>(p, plan, index, route);
  check_launch("plan", "groups_kernel");
}

PRESCORE_FOR_ALL_SIZES(score_groups)

}  // namespace prescore::cuda
