// The gather-flash kernel for Hopper. Blocks stay on their multiprocessor and take tile after tile:
// one warpgroup gathers rows, two others have 64 queries each. Their products with K of one block
// run while those with V of the block before are still under way.
#include "attend/attend_cuda.cuh"
#include "attend/rows.cuh"
#include "common/wgmma.cuh"

namespace prescore::cuda {
namespace {

constexpr int kBlock = 128, kStages = 2, kConsumers = 2, kThreads = 128 * (1 + kConsumers);

template <int D>
struct Shared {
  static constexpr int rows = kBlock * D * 2;  // Q lies at 0
  static constexpr int k(int s) { return kTile * D * 2 + s * rows; }
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
struct Pipe {
  int stage = 0, phase = 0;
  __device__ void next() {
    if (++stage == kStages) stage = 0, phase ^= 1;
  }
};

// Work in the order that keeps one head's keys in the cache; heads that read the same follow each
// other.
struct Work {
  const PlanView& plan;
  int at;
  __device__ explicit Work(const PlanView& p) : plan(p), at(static_cast<int>(blockIdx.x)) {}
  __device__ bool valid() const { return at < plan.tiles * plan.lists * plan.share; }
  __device__ void next() { at += static_cast<int>(gridDim.x); }
  __device__ int tile() const { return at / plan.share % plan.tiles; }
  __device__ int list() const { return at / plan.share / plan.tiles; }
  __device__ int head() const { return plan.head(list()) + at % plan.share; }
};

template <typename T, int D>
__device__ void produce(const Problem& p, const PlanView& plan, const IndexView& index,
                        unsigned char* shared, const Barriers& barriers) {
  using S = Shared<D>;
  constexpr int kChunks = D / 8, kTogether = 32 / kChunks, kSteps = kBlock / 4 / kTogether;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const std::uint32_t base = smem_address(shared);
  const int chunk = lane % kChunks, column = 8 * chunk;
  // Step i copies the rows i * 4 * kTogether + warp * kTogether + (lane / kChunks); a lane looks up
  // the row whose pointers its warp will need in step lane / kTogether.
  const auto row_of = [&](int step, int which) { return (step * 4 + warp) * kTogether + which; };
  Pipe pipe;
  int q_phase = 0;
  for (Work w(plan); w.valid(); w.next()) {
    const TileInfo tile = plan.tile[w.tile()];
    if (tile.rows <= 0) continue;
    const RowSource<T> source(p, plan, index, tile, w.list(), w.tile());
    const int total = source.total();
    barrier_wait(barriers.q_free(), q_phase ^ 1);
    q_phase ^= 1;
    for (int j = thread; j < kTile * kChunks; j += 128) {
      const int i = j / kChunks, c = j % kChunks;
      copy16(base + swizzled(kTile, i, c),
             row<T>(p.q, tile.batch, w.head(), tile.q + min(i, tile.rows - 1)) +
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
template <typename T>
__device__ void soften(float (&s)[kBlock / 8][4], float (&m)[2], float (&l)[2],
                       float (&correction)[2], float scale, bool plain, const RowSource<T>& source,
                       int first, const int (&limit)[2], int lane) {
  float best[2] = {m[0], m[1]};
  if (plain) {  // scale > 0
    float top[2] = {-INFINITY, -INFINITY};
#pragma unroll
    for (int n = 0; n < kBlock / 8; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) top[j / 2] = fmaxf(top[j / 2], s[n][j]);
    best[0] = fmaxf(best[0], top[0] * scale), best[1] = fmaxf(best[1], top[1] * scale);
  } else {
    float bias[kBlock / 32];  // a lane looks up four rows
#pragma unroll
    for (int u = 0; u < kBlock / 32; ++u) bias[u] = source.bias_at(first + 32 * u + lane);
#pragma unroll
    for (int n = 0; n < kBlock / 8; ++n)
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
  for (int n = 0; n < kBlock / 8; ++n)
#pragma unroll
    for (int j = 0; j < 4; ++j) {
      s[n][j] = exp2f(fmaf(s[n][j], factor, -best[j / 2]));
      l[j / 2] += s[n][j];
    }
}

template <typename T>
__device__ __forceinline__ void round_weights(const float (&s)[kBlock / 8][4],
                                              std::uint32_t (&w)[kBlock / 16][4]) {
#pragma unroll
  for (int k = 0; k < kBlock / 16; ++k) {
    w[k][0] = pack<T>(s[2 * k][0], s[2 * k][1]);
    w[k][1] = pack<T>(s[2 * k][2], s[2 * k][3]);
    w[k][2] = pack<T>(s[2 * k + 1][0], s[2 * k + 1][1]);
    w[k][3] = pack<T>(s[2 * k + 1][2], s[2 * k + 1][3]);
  }
}

template <typename T, int D>
__device__ void consume(const Problem& p, const PlanView& plan, const IndexView& index,
                        unsigned char* shared, const Barriers& barriers, int group) {
  using S = Shared<D>;
  const int lane = static_cast<int>(threadIdx.x) % 32,
            warp = static_cast<int>(threadIdx.x) / 32 % 4;
  const int my_row = group * 64 + warp * 16 + lane / 4;
  const std::uint32_t base = smem_address(shared);
  float s[kBlock / 8][4], o[D / 8][4];
  std::uint32_t weight[kBlock / 16][4];

  const auto multiply_keys = [&](int stage) {
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      const std::uint32_t panel = static_cast<std::uint32_t>(k / 4), inside = k % 4 * 32u;
      product<T>(s, describe(base + panel * kTile * 128 + group * 64 * 128 + inside, 0),
                 describe(base + S::k(stage) + panel * kBlock * 128 + inside, 0), k > 0);
    }
  };
  const auto add_values = [&](int stage) {
#pragma unroll
    for (int k = 0; k < kBlock / 16; ++k)
      product_transposed<T>(o, weight[k],
                            describe(base + S::v(stage) + k * 16 * 128, kBlock * 128));
  };
  const auto release = [&](std::uint32_t barrier) {
    __syncwarp();  // every lane is done
    if (lane == 0) barrier_arrive(barrier);
  };
  const auto ready = [&](std::uint32_t barrier, int phase) {
    barrier_wait(barrier, phase);
    asm volatile("fence.proxy.async.shared::cta;\n" ::: "memory");  // copied rows, for the products
  };

  Pipe pipe;
  int q_phase = 0;
  for (Work w(plan); w.valid(); w.next()) {
    const TileInfo tile = plan.tile[w.tile()];
    if (tile.rows <= 0) continue;
    const RowSource<T> source(p, plan, index, tile, w.list(), w.tile());
    const int total = source.total(), blocks = (total + kBlock - 1) / kBlock;
    const int limit[2] = {tile.end(p, my_row), tile.end(p, my_row + 8)};
    const int least = tile.end(p, group * 64);
    float m[2] = {-INFINITY, -INFINITY}, l[2] = {0, 0}, correction[2];
#pragma unroll
    for (int n = 0; n < D / 8; ++n)
#pragma unroll
      for (int j = 0; j < 4; ++j) o[n][j] = 0;
    const auto soften_block = [&](int b) {
      soften<T>(s, m, l, correction, p.scale,
                source.plain(b * kBlock, kBlock, least) && p.scale > 0, source, b * kBlock, limit,
                lane);
    };
    ready(barriers.q_ready(), q_phase);
    q_phase ^= 1;
    if (blocks > 0) {
      ready(barriers.k_ready(pipe.stage), pipe.phase);
      pin(s);
      products_begin();
      multiply_keys(pipe.stage);
      products_commit();
      products_wait<0>();
      pin(s);
      release(barriers.k_free(pipe.stage));
      soften_block(0);
      round_weights<T>(s, weight);
      Pipe before = pipe;
      pipe.next();
      for (int b = 1; b < blocks; ++b) {
        ready(barriers.k_ready(pipe.stage), pipe.phase);
        pin(s);
        pin(o);
        products_begin();
        multiply_keys(pipe.stage);
        products_commit();
        ready(barriers.v_ready(before.stage), before.phase);
        add_values(before.stage);
        products_commit();
        products_wait<1>();
        pin(s);
        release(barriers.k_free(pipe.stage));
        soften_block(b);
        products_wait<0>();
        pin(o);
        release(barriers.v_free(before.stage));
#pragma unroll
        for (int n = 0; n < D / 8; ++n)
#pragma unroll
          for (int j = 0; j < 4; ++j) o[n][j] *= correction[j / 2];
        round_weights<T>(s, weight);
        before = pipe;
        pipe.next();
      }
      ready(barriers.v_ready(before.stage), before.phase);
      pin(o);
      products_begin();
      add_values(before.stage);
      products_commit();
      products_wait<0>();
      pin(o);
      release(barriers.v_free(before.stage));
    }
    release(barriers.q_free());
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float sum = quad_sum(l[r]);
      const int i = my_row + 8 * r;
      if (i < tile.rows) store_row<T, D / 8>(p, tile, w.head(), i, o, r, lane, m[r], sum);
    }
  }
}

#endif

template <typename T, int D>
__global__ __launch_bounds__(kThreads, 1) void attend_sm90(const Problem p, const PlanView plan,
                                                           const IndexView index) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  extern __shared__ unsigned char unaligned[];
  unsigned char* shared = unaligned + (1024 - smem_address(unaligned) % 1024) % 1024;
  const Barriers barriers{smem_address(shared) + Shared<D>::barrier};
  if (threadIdx.x == 0) {
    barrier_init(barriers.q_ready(), 128), barrier_init(barriers.q_free(), 4 * kConsumers);
    for (int s = 0; s < kStages; ++s) {
      barrier_init(barriers.k_ready(s), 128), barrier_init(barriers.k_free(s), 4 * kConsumers);
      barrier_init(barriers.v_ready(s), 128), barrier_init(barriers.v_free(s), 4 * kConsumers);
    }
    asm volatile("fence.mbarrier_init.release.cluster;\n" ::: "memory");
  }
  __syncthreads();
  const int group = static_cast<int>(threadIdx.x) / 128;
  if (group == 0) {
    asm volatile("setmaxnreg.dec.sync.aligned.u32 72;\n");
    produce<T, D>(p, plan, index, shared, barriers);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 216;\n");
    consume<T, D>(p, plan, index, shared, barriers, group - 1);
  }
#endif
}

template <typename T, int D>
void launch(const Problem& p, const PlanView& plan, const IndexView& index, cudaStream_t stream) {
  allow_shared(attend_sm90<T, D>, Shared<D>::bytes, "attend");
  int device = 0, processors = 0;
  check_cuda(cudaGetDevice(&device), "attend", "the current device");
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "attend",
             "the number of multiprocessors");
  const int blocks = min(processors, plan.tiles * plan.lists * plan.share);
  attend_sm90<T, D>
      <<<static_cast<unsigned>(blocks), kThreads, Shared<D>::bytes, stream>>>(p, plan, index);
  check_launch("attend", "attend_sm90");
}

}  // namespace

template <typename T>
void attend_hopper(const Problem& p, const PlanView& plan, const IndexView& index,
                   cudaStream_t stream) {
  if (max(p.d, p.d_v) <= 64)
    launch<T, 64>(p, plan, index, stream);
  else
    launch<T, 128>(p, plan, index, stream);
}

template void attend_hopper<bf16>(const Problem&, const PlanView&, const IndexView&, cudaStream_t);
template void attend_hopper<f16>(const Problem&, const PlanView&, const IndexView&, cudaStream_t);

}  // namespace prescore::cuda
