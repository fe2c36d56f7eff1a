// The gather-flash kernel for Hopper. Blocks stay on their multiprocessor and take tile after tile:
// one warpgroup gathers rows, two others have 64 positions each. Each product with K is under way
// together with the product with V of the step before.
#include "attend/attend_cuda.cuh"
#include "attend/rows.cuh"
#include "attend/softmax.cuh"
#include "common/wgmma.cuh"

namespace prescore::cuda {
namespace {

constexpr int kBlock = 128;  // rows of a step
constexpr int kConsumers = 2, kThreads = 128 * (1 + kConsumers);

/// As many steps at a time as the shared memory holds beside the queries.
template <int D>
struct Shape {
  static constexpr int rows = kBlock * D * 2, query = kTile * D * 2;
  static constexpr int kStages = std::min(4, (225 * 1024 - query) / (2 * rows));
  static constexpr int k(int s) { return query + s * rows; }
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

// Work in the order that keeps one head's keys in the cache: heads that read the same follow each
// other. Blocks take it in turns there and back, since tiles come by their length.
class Work {
 public:
  __device__ explicit Work(const PlanView& plan)
      : plan_(plan), first_(plan.info(0).unit), items_(plan.tiles * plan.units) {
    look();
  }
  __device__ bool valid() const { return at_ < items_; }
  __device__ void next() {
    const int b = static_cast<int>(blockIdx.x), blocks = static_cast<int>(gridDim.x);
    begin_ += blocks, back_ = !back_;
    at_ = begin_ + (back_ ? blocks - 1 - b : b);
    look();
  }
  __device__ int tile() const { return tile_; }
  __device__ int list() const { return list_; }
  __device__ int head() const { return head_; }

 private:
  __device__ void look() {
    if (!valid()) return;
    list_ = plan_.table.list_of[first_ + at_ / plan_.tiles] - plan_.first_list;
    const ListInfo& list = plan_.info(list_);
    const int mine = at_ - (list.unit - first_) * plan_.tiles;
    tile_ = mine / list.heads, head_ = plan_.table.head_of[list.unit + mine % list.heads];
  }

  const PlanView& plan_;
  int first_, items_, begin_ = 0, at_ = static_cast<int>(blockIdx.x);
  bool back_ = false;
  int tile_ = 0, list_ = 0, head_ = 0;
};

template <typename T, int D>
__device__ void produce(const Problem& p, const PlanView& plan, const IndexView& index,
                        unsigned char* shared, const Barriers& barriers) {
  using S = Shape<D>;
  constexpr int kChunks = D / 8, kTogether = 32 / kChunks, kSteps = kBlock / 4 / kTogether;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const std::uint32_t base = smem_address(shared);
  const int chunk = lane % kChunks, column = 8 * chunk;
  // Step i copies the rows i * 4 * kTogether + warp * kTogether + (lane / kChunks); a lane looks up
  // the row whose pointers its warp will need in step lane / kTogether.
  const auto row_of = [&](int step, int which) { return (step * 4 + warp) * kTogether + which; };
  Pipe<S::kStages> pipe;
  int q_phase = 0;
  for (Work w(plan); w.valid(); w.next()) {
    const TileInfo tile = plan.tile[w.tile()];
    if (tile.rows <= 0) continue;
    const RowSource<T> source(p, plan, index, tile, w.list(), w.tile(), w.head());
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
          const int i = row_of(step, lane / kChunks);
          const auto* at =
              reinterpret_cast<const T*>(__shfl_sync(~0u, from, step * kTogether + lane / kChunks));
          copy16(to + swizzled(kBlock, i, chunk), at + (column < width ? column : 0),
                 first + i < total && column < width);
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

// A consumer: 64 positions of its tiles.
template <typename T, int D>
class Consumer {
  using S = Shape<D>;

 public:
  __device__ Consumer(const Problem& p, const PlanView& plan, const IndexView& index,
                      unsigned char* shared, const Barriers& barriers, int group)
      : p_(p), plan_(plan), index_(index), barriers_(barriers), base_(smem_address(shared)),
        lane_(static_cast<int>(threadIdx.x) % 32), group_(group),
        my_row_(group * 64 + static_cast<int>(threadIdx.x) / 32 % 4 * 16 + lane_ / 4) {}

  __device__ void run() {
    for (Work w(plan_); w.valid(); w.next()) {
      if (plan_.tile[w.tile()].rows > 0) attend(w);
    }
  }

 private:
  __device__ void attend(const Work& w) {
    const TileInfo mine = plan_.tile[w.tile()];
    const Reads reads = reads_of(p_, plan_, mine, w.list(), w.tile(), w.head());
    const Plain plain(reads, mine.end(p_, group_ * 64));
    const int blocks = (reads.total() + kBlock - 1) / kBlock;
    float s[kBlock / 8][4], o[D / 8][4] = {};
    std::uint32_t weight[kBlock / 16][4];
    Softmax softmax;
    ready(barriers_.q_ready(), q_phase_);
    q_phase_ ^= 1;
    Pipe<S::kStages> before = pipe_;  // of the step before
    for (int b = 0; b < blocks; ++b) {
      ready(barriers_.k_ready(pipe_.stage), pipe_.phase);
      if (b > 0) ready(barriers_.v_ready(before.stage), before.phase);
      pin(s);
      pin(o);
      products_begin();
      multiply_keys(s, pipe_.stage);
      products_commit();
      if (b > 0) add_values(o, weight, before.stage);
      products_commit();
      products_wait<1>();
      pin(s);
      release(barriers_.k_free(pipe_.stage));
      const bool masked = !plain(b * kBlock, kBlock) || p_.scale <= 0;
      if (masked) mask(s, w, b * kBlock);
      float correction[2];
      const bool grown = softmax.weigh(s, masked ? 1.0f : p_.scale, correction);
      products_wait<0>();
      pin(o);
      if (b > 0) release(barriers_.v_free(before.stage));
      if (grown) correct(o, correction);
      round_weights<T>(s, weight);
      before = pipe_;
      pipe_.next();
    }
    if (blocks > 0) {
      ready(barriers_.v_ready(before.stage), before.phase);
      pin(o);
      products_begin();
      add_values(o, weight, before.stage);
      products_commit();
      products_wait<0>();
      pin(o);
      release(barriers_.v_free(before.stage));
    }
    release(barriers_.q_free());
    const TileInfo tile = plan_.tile[w.tile()];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const float sum = quad_sum(softmax.l[r]);
      const int i = my_row_ + 8 * r;
      if (i < tile.rows)
        store_row<T, D / 8>(p_, tile.batch, {w.head(), tile.q + i}, o, r, lane_, softmax.m[r], sum);
    }
  }

  // Scores in base 2, with the weights of stand-ins and without the keys that a row may not see.
  // What this needs is looked up anew: registers are for the steps without.
  __device__ void mask(float (&s)[kBlock / 8][4], const Work& w, int first) const {
    const TileInfo tile = plan_.tile[w.tile()];
    const RowSource<T> source(p_, plan_, index_, tile, w.list(), w.tile(), w.head());
    float bias[kBlock / 32];  // a lane looks up four rows
#pragma unroll
    for (int u = 0; u < kBlock / 32; ++u) bias[u] = source.bias_at(first + 32 * u + lane_);
#pragma unroll
    for (int n = 0; n < kBlock / 8; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const int column = 8 * n + 2 * (lane_ % 4) + j, position = source.position(first + column);
        const float mine = __shfl_sync(~0u, bias[n / 4], column % 32);
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          float& x = s[n][2 * r + j];
          x = position < tile.end(p_, my_row_ + 8 * r) ? fmaf(x, p_.scale, mine) : -INFINITY;
        }
      }
  }

  __device__ void multiply_keys(float (&s)[kBlock / 8][4], int stage) const {
#pragma unroll
    for (int k = 0; k < D / 16; ++k) {
      const std::uint32_t panel = static_cast<std::uint32_t>(k / 4), inside = k % 4 * 32u;
      product<T>(s, describe(base_ + panel * kTile * 128 + group_ * 64 * 128 + inside, 0),
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

template <typename T, int D>
__global__ __launch_bounds__(kThreads, 1) void attend_sm90(const Problem p, const PlanView plan,
                                                           const IndexView index) {
#ifdef __CUDA_ARCH_FEAT_SM90_ALL
  using S = Shape<D>;
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
    produce<T, D>(p, plan, index, shared, barriers);
  } else {
    asm volatile("setmaxnreg.inc.sync.aligned.u32 224;\n");
    Consumer<T, D>(p, plan, index, shared, barriers, group - 1).run();
  }
#else
  __trap();  // never launched by such a build
#endif
}

template <typename T, int D>
void launch(const Problem& p, const PlanView& plan, const IndexView& index, cudaStream_t stream) {
  constexpr int kBytes = Shape<D>::bytes;
  allow_shared(attend_sm90<T, D>, kBytes, "attend");
  int device = 0, processors = 0;
  check_cuda(cudaGetDevice(&device), "attend", "the current device");
  check_cuda(cudaDeviceGetAttribute(&processors, cudaDevAttrMultiProcessorCount, device), "attend",
             "the number of multiprocessors");
  const int blocks = min(processors, plan.tiles * plan.units);
  attend_sm90<T, D><<<static_cast<unsigned>(blocks), kThreads, kBytes, stream>>>(p, plan, index);
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
