// The gather-flash kernel for Hopper. Blocks stay on their multiprocessor and take tile after tile:
// one warpgroup gathers rows, two others have 64 positions each, of one head or of two that read
// the same rows. Each product with K runs while the product with V before it is still under way.
#include "attend/attend_cuda.cuh"
#include "attend/rows.cuh"
#include "common/wgmma.cuh"

namespace prescore::cuda {
namespace {

constexpr int kConsumers = 2, kThreads = 128 * (1 + kConsumers);

/// Rows come in blocks, as many blocks at a time as the shared memory holds beside the queries. Of
/// two wide heads the sums alone fill half of the registers: then blocks are small.
template <int D, int kHeads>
struct Shape {
  static constexpr int kBlock = D * kHeads > 128 ? 64 : 128;
  static constexpr int rows = kBlock * D * 2, query = kTile * D * 2;
  static constexpr int kStages = std::min(4, (225 * 1024 - kHeads * query) / (2 * rows));
  static constexpr int q(int head) { return head * query; }
  static constexpr int k(int s) { return kHeads * query + s * rows; }
  static constexpr int v(int s) { return k(kStages) + s * rows; }
  static constexpr int barrier = v(kStages);
  static constexpr int bytes = barrier + 8 * (2 + 4 * kStages) + 1024;  // to align to 1,024
};

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

// Ready: rows have come; free: both consumers are done with them.
struct Barriers {
  std::uint32_t base;
  __device__ std::uint32_t q_ready() const { return base; }
  __device__ std::uint32_t q_free() const { return base + 8; }
  __device__ std::uint32_t k_ready(int s) const { return base + 16 + 32 * s; }
  __device__ std::uint32_t k_free(int s) const { return base + 24 + 32 * s; }
  __device__ std::uint32_t v_ready(int s) const { return base + 32 + 32 * s; }
  __device__ std::uint32_t v_free(int s) const { return base + 40 + 32 * s; }
};

// Which block of rows is next; runs on from tile to tile.
template <int kStages>
struct Pipe {
  int stage = 0, phase = 0;
  __device__ void next() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

// Work in the order that keeps one head's keys in the cache; heads that read the same follow each
// other, kHeads at a time.
template <int kHeads>
struct Work {
  const PlanView& plan;
  int parts, at;  // parts: of the heads of a list
  __device__ explicit Work(const PlanView& p)
      : plan(p), parts((p.share + kHeads - 1) / kHeads), at(static_cast<int>(blockIdx.x)) {}
  __device__ bool valid() const { return at < plan.tiles * plan.lists * parts; }
  __device__ void next() { at += static_cast<int>(gridDim.x); }
  __device__ int tile() const { return at / parts % plan.tiles; }
  __device__ int list() const { return at / parts / plan.tiles; }
  __device__ int head() const { return plan.head(list()) + at % parts * kHeads; }
  __device__ int heads() const { return min(kHeads, plan.share - at % parts * kHeads); }
};

template <typename T, int D, int kHeads>
__device__ void produce(const Problem& p, const PlanView& plan, const IndexView& index,
                        unsigned char* shared, const Barriers& barriers) {
  using S = Shape<D, kHeads>;
  constexpr int kBlock = S::kBlock;
  constexpr int kChunks = D / 8, kTogether = 32 / kChunks, kSteps = kBlock / 4 / kTogether;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const std::uint32_t base = smem_address(shared);
  const int chunk = lane % kChunks, column = 8 * chunk;
  // Step i copies the rows i * 4 * kTogether + warp * kTogether + (lane / kChunks); a lane looks up
  // the row whose pointers its warp will need in step lane / kTogether.
  const auto row_of = [&](int step, int which) { return (step * 4 + warp) * kTogether + which; };
  Pipe<S::kStages> pipe;
  int q_phase = 0;
  for (Work<kHeads> w(plan); w.valid(); w.next()) {
    const TileInfo tile = plan.tile[w.tile()];
    if (tile.rows <= 0) continue;
    const RowSource<T> source(p, plan, index, tile, w.list(), w.tile());
    const int total = source.total();
    barrier_wait(barriers.q_free(), q_phase ^ 1);
    q_phase ^= 1;
    for (int h = 0; h < w.heads(); ++h)
      for (int j = thread; j < kTile * kChunks; j += 128) {
        const int i = j / kChunks, c = j % kChunks;
        copy16(base + S::q(h) + swizzled(kTile, i, c),
               row<T>(p.q, tile.batch, w.head() + h, tile.q + min(i, tile.rows - 1)) +
                   (8 * c < p.d ? 8 * c : 0),
               i < tile.rows && 8 * c < p.d);
      }
    barrier_arrive_copied(barriers.q_ready());
    for (int first = 0; first < total; first += kBlock, pipe.next()) {
      const int mine = row_of(lane / kTogether, lane % kTogether);
      const typename RowSource<T>::Row r = source.find(first + mine);
      const auto k = reinterpret_cast<unsigned long long>(source.key(r));
      const auto v = reinterpret_cast<unsigned long long>(source.value(r));
      const auto copy = [&](unsigned long long from, int width, std::uint32_t to) {
#pragma unroll
        for (int step = 0; step < kSteps; ++step) {
          const int owner = step * kTogether + lane / kChunks;
          const auto* at = reinterpret_cast<const T*>(__shfl_sync(~0u, from, owner));
          const bool valid = __shfl_sync(~0u, r.valid ? 1 : 0, owner) != 0;
          copy16(to + swizzled(kBlock, row_of(step, lane / kChunks), chunk),
                 at + (column < width ? column : 0), valid && column < width);
        }
      };
      const int s = pipe.stage;
      barrier_wait(barriers.k_free(s), pipe.phase ^ 1);
      copy(k, p.d, base + S::k(s));
      barrier_arrive_copied(barriers.k_ready(s));
      barrier_wait(barriers.v_free(s), pipe.phase ^ 1);
      copy(v, p.d_v, base + S::v(s));
      barrier_arrive_copied(barriers.v_ready(s));
    }
  }
  wait<0>();
}

// Scores of one block become weights; the running maxima and sums follow. Returns, by row, what the
// sums so far are multiplied with.
template <typename T, int kTiles>
__device__ void soften(float (&s)[kTiles][4], float (&m)[2], float (&l)[2], float (&correction)[2],
                       float scale, bool plain, const RowSource<T>& source, int first,
                       const int (&limit)[2], int lane) {
  float best[2] = {m[0], m[1]};
  if (plain) {  // scale > 0
    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) top[j / 2] = fmaxf(top[j / 2], s[n][j]);
    best[0] = fmaxf(best[0], top[0] * scale), best[1] = fmaxf(best[1], top[1] * scale);
  } else {
    float bias[kTiles / 4];  // a lane looks up four rows
#pragma unroll
    for (int u = 0; u < kTiles / 4; ++u) bias[u] = source.bias_at(first + 32 * u + lane);
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int column = 8 * n + 2 * (lane % 4) + j, position = source.position(first + column);
        const float mine = __shfl_sync(~0u, bias[n / 4], column % 32);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float& x = s[n][2 * r + j];
          x = position < limit[r] ? fmaf(x, scale, mine) : -INFINITY;
          best[r] = fmaxf(best[r], x);
        }
      }
  }
  const float factor = plain ? scale : 1.0f;
#pragma unroll
  for (int r = 0; r < 2; ++r) {
    best[r] = quad_max(best[r]);
    const float origin = best[r] == -INFINITY ? 0.0f : best[r];
    correction[r] = exp2f(m[r] - origin);
    m[r] = best[r];
    best[r] = origin;
    l[r] *= correction[r];
  }
#pragma unroll
  for (int n = 0; n < kTiles; ++n)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      s[n][j] = exp2f(fmaf(s[n][j], factor, -best[j / 2]));
      l[j / 2] += s[n][j];
    }
}

template <typename T, int kTiles>
__device__ __forceinline__ void round_weights(const float (&s)[kTiles][4],
                                              std::uint32_t (&w)[kTiles / 2][4]) {
#pragma unroll
  for (int k = 0; k < kTiles / 2; ++k) {
    w[k][0] = pack<T>(s[2 * k][0], s[2 * k][1]);
    w[k][1] = pack<T>(s[2 * k][2], s[2 * k][3]);
    w[k][2] = pack<T>(s[2 * k + 1][0], s[2 * k + 1][1]);
    w[k][3] = pack<T>(s[2 * k + 1][2], s[2 * k + 1][3]);
  }
}

// A consumer: 64 positions of each head of its tiles.
template <typename T, int D, int kHeads>
class Consumer {
  using S = Shape<D, kHeads>;
  static constexpr int kBlock = S::kBlock;

 public:
  __device__ Consumer(const Problem& p, const PlanView& plan, const IndexView& index,
                      unsigned char* shared, const Barriers& barriers, int group)
      : p_(p), plan_(plan), index_(index), barriers_(barriers), base_(smem_address(shared)),
        lane_(static_cast<int>(threadIdx.x) % 32), group_(group),
        my_row_(group * 64 + static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane_ / 4) {}

  __device__ void run() {
    for (Work<kHeads> w(plan_); w.valid(); w.next()) {
      const TileInfo tile = plan_.tile[w.tile()];
      if (tile.rows <= 0) continue;
      if (w.heads() == kHeads)
        attend<kHeads>(w, tile);
      else
        attend<1>(w, tile);
    }
  }

 private:
  // kMine: heads that there are. Step (b, h) multiplies the queries of head h with the keys of
  // block b; meanwhile the step before multiplies its weights with values.
  template <int kMine>
  __device__ void attend(const Work<kHeads>& w, const TileInfo& tile) {
    const RowSource<T> source(p_, plan_, index_, tile, w.list(), w.tile());
    const int blocks = (source.total() + kBlock - 1) / kBlock;
    const int limit[2] = {tile.end(p_, my_row_), tile.end(p_, my_row_ + 8)};
    const int least = tile.end(p_, group_ * 64);
    float s[kBlock / 8][4], o[kMine][D / 8][4], m[kMine][2], l[kMine][2];
    std::uint32_t weight[kBlock / 16][4];
#pragma unroll
    for (int h = 0; h < kMine; ++h) {
      m[h][0] = m[h][1] = -INFINITY, l[h][0] = l[h][1] = 0;
#pragma unroll
      for (int n = 0; n < D / 8; ++n)
#pragma unroll
        for (int j = 0; j < 4; ++j) o[h][n][j] = 0;
    }
    ready(barriers_.q_ready(), q_phase_);
    q_phase_ ^= 1;
    Pipe<S::kStages> before = pipe_;  // of the step before
    for (int b = 0; b < blocks; ++b) {
      ready(barriers_.k_ready(pipe_.stage), pipe_.phase);
      const bool plain = source.plain(b * kBlock, kBlock, least) && p_.scale > 0;
#pragma unroll
      for (int h = 0; h < kMine; ++h) {
        float(&last)[D / 8][4] = o[h > 0 ? h - 1 : kMine - 1];
        pin(s);
        pin(last);
        products_begin();
        multiply_keys(s, h, pipe_.stage);
        products_commit();
        if (b > 0 || h > 0) {
          ready(barriers_.v_ready(before.stage), before.phase);
          add_values(last, weight, before.stage);
        }
        products_commit();
        products_wait<1>();
        pin(s);
        if (h == kMine - 1) release(barriers_.k_free(pipe_.stage));
        float correction[2];
        soften<T>(s, m[h], l[h], correction, p_.scale, plain, source, b * kBlock, limit, lane_);
        products_wait<0>();
        pin(last);
        if (h == 0 && b > 0) release(barriers_.v_free(before.stage));
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
#pragma unroll
          for (int j = 0; j < 4; ++j) o[h][n][j] *= correction[j / 2];
        round_weights<T>(s, weight);
        before = pipe_;
      }
      pipe_.next();
    }
    if (blocks > 0) {
      ready(barriers_.v_ready(before.stage), before.phase);
      pin(o[kMine - 1]);
      products_begin();
      add_values(o[kMine - 1], weight, before.stage);
      products_commit();
      products_wait<0>();
      pin(o[kMine - 1]);
      release(barriers_.v_free(before.stage));
    }
    release(barriers_.q_free());
#pragma unroll
    for (int h = 0; h < kMine; ++h)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const float sum = quad_sum(l[h][r]);
        const int i = my_row_ + 8 * r;
        if (i < tile.rows)
          store_row<T, D / 8>(p_, tile, w.head() + h, i, o[h], r, lane_, m[h][r], sum);
      }
  }

  __device__ void multiply_keys(float (&s)[kBlock / 8][4], int h, int stage) const {
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      const std::uint32_t panel = static_cast<std::uint32_t>(k / 4), inside = k % 4 * 32u;
      product<T>(s, describe(base_ + S::q(h) + panel * kTile * 128 + group_ * 64 * 128 + inside, 0),
                 describe(base_ + S::k(stage) + panel * kBlock * 128 + inside, 0), k > 0);
    }
  }
  __device__ void add_values(float (&o)[D / 8][4], const std::uint32_t (&weight)[kBlock / 16][4],
                             int stage) const {
#pragma unroll
    for (int k = 0; k < kBlock / 16; ++k)
      product_transposed<T>(o, weight[k],
                            describe(base_ + S::v(stage) + k * 16 * 128, kBlock * 128));
  }
  __device__ void release(std::uint32_t barrier) const {
    __syncwarp();  // every lane is done
    if (lane_ == 0) barrier_arrive(barrier);
  }
  __device__ void ready(std::uint32_t barrier, int phase) const {
    barrier_wait(barrier, phase);
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");  // copied rows, for the products
  }

  const Problem& p_;
  const PlanView& plan_;
  const IndexView& index_;
  const Barriers& barriers_;
  std::uint32_t base_;
  int lane_, group_, my_row_, q_phase_ = 0;
  Pipe<S::kStages> pipe_;
};

#endif

template <typename T, int D, int kHeads>
__global__ __launch_bounds__(kThreads, 1) void attend_sm90(const Problem p, const PlanView plan,
                                                           const IndexView index) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using S = Shape<D, kHeads>;
  extern __shared__ unsigned char unaligned[];
  unsigned char* shared = unaligned + (1024 - smem_address(unaligned) % 1024) % 1024;
  const Barriers barriers{smem_address(shared) + S::barrier};
  if (threadIdx.x == 0) {
    barrier_init(barriers.q_ready(), 128), barrier_init(barriers.q_free(), 4 * kConsumers);
    for (int s = 0; s < S::kStages; ++s) {
      barrier_init(barriers.k_ready(s), 128), barrier_init(barriers.k_free(s), 4 * kConsumers);
      barrier_init(barriers.v_ready(s), 128), barrier_init(barriers.v_free(s), 4 * kConsumers);
    }
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  }
  __syncthreads();
  const int group = static_cast<int>(threadIdx.x) / 128;
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 56;\n");
    produce<T, D, kHeads>(p, plan, index, shared, barriers);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;\n");
    Consumer<T, D, kHeads>(p, plan, index, shared, barriers, group - 1).run();
  }
#endif
}

template <typename T, int D, int kHeads>
void launch(const Problem& p, const PlanView& plan, const IndexView& index, cudaStream_t stream) {
  constexpr int kBytes = Shape<D, kHeads>::bytes;
  allow_shared(attend_sm90<T, D, kHeads>, kBytes, "attend");
  int device = 0, processors = 0;
  check_cuda(cudaGetDevice(&device), "attend", "the current device");
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "attend",
             "the number of multiprocessors");
  const int parts = (plan.share + kHeads - 1) / kHeads;
  const int blocks = min(processors, plan.tiles * plan.lists * parts);
  attend_sm90<T, D, kHeads>
      <<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(p, plan, index);
  check_launch("attend", "attend_sm90");
}

}  // namespace

template <typename T>
void attend_hopper(const Problem& p, const PlanView& plan, const IndexView& index,
                   cudaStream_t stream) {
  // PRESCORE_CUDA_PAIRS=1: two heads of a list share a gather. Not the default before it is
  // measured.
  const bool pairs = plan.share > 1 && switched_on("PRESCORE_CUDA_PAIRS");
  if (max(p.d, p.d_v) <= 64)
    pairs ? launch<T, 64, 2>(p, plan, index, stream) : launch<T, 64, 1>(p, plan, index, stream);
  else
    pairs ? launch<T, 128, 2>(p, plan, index, stream) : launch<T, 128, 1>(p, plan, index, stream);
}

template void attend_hopper<bf16>(const Problem&, const PlanView&, const IndexView&, cudaStream_t);
template void attend_hopper<f16>(const Problem&, const PlanView&, const IndexView&, cudaStream_t);

}  // namespace prescore::cuda
