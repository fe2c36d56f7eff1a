// The gather-flash kernel for sm_80 and later: one block a tile of 128 queries and head; eight
// warps of 16 queries share blocks of 64 rows that come from anywhere (of 32 where heads are wide).
#include "attend/attend_cuda.cuh"

#include "attend/rows.cuh"
#include "attend/softmax.cuh"
#include "common/mma.cuh"

namespace prescore::cuda {
namespace {

constexpr int kThreads = 256;

template <int D>
struct Shared {
  static constexpr int kBlock = D <= 128 ? 64 : 32;
  static constexpr int q = kTile * D * 2, rows = kBlock * D * 2;
  static constexpr int k(int stage) { return q + stage * 2 * rows; }
  static constexpr int v(int stage) { return k(stage) + rows; }
  static constexpr int bias = q + 4 * rows;
  static constexpr int bytes = bias + 2 * kBlock * 4;
};

// A row's threads copy every kEach-th chunk of it.
template <typename T, int D>
__device__ void load_block(const Problem& p, const RowSource<T>& source, int first,
                           std::uint32_t k_to, std::uint32_t v_to, float* bias) {
  constexpr int kBlock = Shared<D>::kBlock, kEach = kThreads / kBlock;
  const int thread = static_cast<int>(threadIdx.x), i = thread / kEach;
  const typename RowSource<T>::Row r = source.find(first + i);
  const T *k = source.key(r), *v = source.value(r);
#pragma unroll
  for (int c = thread % kEach; c < D / 8; c += kEach) {
    copy16(k_to + swizzled(kBlock, i, c), k + 8 * c, r.valid && 8 * c < p.d);
    copy16(v_to + swizzled(kBlock, i, c), v + 8 * c, r.valid && 8 * c < p.d_v);
  }
  if (thread % kEach == 0) bias[i] = source.bias(r);
}

// s += products of the warp's 16 queries with a block of keys.
template <typename T, int D, int kRows>
__device__ __forceinline__ void add_scores(std::uint32_t q_at, std::uint32_t k_at, int warp,
                                           int lane, float (&s)[kRows][4]) {
  constexpr int kBlock = 8 * kRows;
#pragma unroll
  for (int k = 0; k < D / 16; ++k) {
    std::uint32_t a[4];
    load_a(a, q_at, kTile, warp * 16, k, lane);
#pragma unroll
    for (int n = 0; n < kBlock / 16; ++n) {
      std::uint32_t f[4];
      load_b(f, k_at, kBlock, n * 16, k, lane);
      multiply<T>(s[2 * n], a, f[0], f[1]);
      multiply<T>(s[2 * n + 1], a, f[2], f[3]);
    }
  }
}

// o += weights times a block of values.
template <typename T, int kRows, int kCols>
__device__ __forceinline__ void add_values(const float (&s)[kRows][4], std::uint32_t v_at, int lane,
                                           float (&o)[kCols][4]) {
  constexpr int kBlock = 8 * kRows;
#pragma unroll
  for (int k = 0; k < kBlock / 16; ++k) {
    const std::uint32_t a[4] = {
        pack<T>(s[2 * k][0], s[2 * k][1]), pack<T>(s[2 * k][2], s[2 * k][3]),
        pack<T>(s[2 * k + 1][0], s[2 * k + 1][1]), pack<T>(s[2 * k + 1][2], s[2 * k + 1][3])};
#pragma unroll
    for (int n = 0; n < kCols / 2; ++n) {
      std::uint32_t f[4];
      load_b_transposed(f, v_at, kBlock, k * 16, n, lane);
      multiply<T>(o[2 * n], a, f[0], f[1]);
      multiply<T>(o[2 * n + 1], a, f[2], f[3]);
    }
  }
}

template <typename T, int D>
__global__ __launch_bounds__(kThreads, D <= 128 ? 2 : 1) void attend_kernel(const Problem p,
                                                                            const PlanView plan,
                                                                            const IndexView index) {
  extern __shared__ __align__(1024) unsigned char shared[];
  using S = Shared<D>;
  constexpr int kCols = D / 8, kBlock = S::kBlock;
  const int t = static_cast<int>(blockIdx.x);
  // Blocks by head, or, of lanes, by list.
  const int y = static_cast<int>(blockIdx.y), unit = plan.info(0).unit + y;
  const int list = plan.lane == nullptr ? plan.table.list_of[unit] - plan.first_list : y;
  const TileInfo tile = plan.tile[t];
  if (tile.rows <= 0) return;
  const int head = plan.table.head_of[unit];
  const RowSource<T> source(p, plan, index, tile, list, t, head);
  const Queries queries(plan, tile, head);
  const int total = source.total(), blocks = (total + kBlock - 1) / kBlock;
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const std::uint32_t base = smem_address(shared);
  float* bias = reinterpret_cast<float*>(shared + S::bias);

  for (int j = thread; j < kTile * (D / 8); j += kThreads) {
    const int i = j / (D / 8), c = j % (D / 8);
    const Lane at = queries(min(i, tile.rows - 1));
    copy16(base + swizzled(kTile, i, c), row<T>(p.q, tile.batch, at.head, at.query) + 8 * c,
           i < tile.rows && 8 * c < p.d);
  }
  if (blocks > 0) load_block<T, D>(p, source, 0, base + S::k(0), base + S::v(0), bias);
  commit();

  float o[kCols][4] = {};
  Softmax softmax;
  const int my_row = warp * 16 + lane / 4;
  const bool idle = warp * 16 >= tile.rows;  // it only copies
  if (plan.lane != nullptr)
    for (int r = 0; r < 2; ++r)
      if (const int i = my_row + 8 * r; i < tile.rows)
        load_row<T, kCols>(p, tile.batch, queries(i), o, r, lane, softmax.m[r], softmax.l[r]);
  const Plain plain(reads_of(p, plan, tile, list, t, head), tile.end(p, my_row));
  const int limit[2] = {tile.end(p, my_row), tile.end(p, my_row + 8)};
  for (int b = 0; b < blocks; ++b) {
    if (b + 1 < blocks) {
      const int s = (b + 1) % 2;
      load_block<T, D>(p, source, (b + 1) * kBlock, base + S::k(s), base + S::v(s),
                       bias + s * kBlock);
      commit();
      wait<1>();
    } else {
      wait<0>();
    }
    __syncthreads();
    const std::uint32_t k_at = base + S::k(b % 2), v_at = base + S::v(b % 2);

    if (!idle) {
      float s[kBlock / 8][4] = {};
      add_scores<T, D>(base, k_at, warp, lane, s);
      // Scale, weights and what a query may not see.
      const bool masked = !plain(b * kBlock, kBlock);
      const float* w = bias + (b % 2) * kBlock;
#pragma unroll
      for (int n = 0; n < kBlock / 8; ++n) {
#pragma unroll
        for (int j = 0; j < 4; ++j) {
          const int i = n * 8 + 2 * (lane % 4) + (j & 1);
          float x = fmaf(s[n][j], p.scale, w[i]);
          if (masked && source.position(b * kBlock + i) >= limit[j / 2]) x = -INFINITY;
          s[n][j] = x;
        }
      }
      float correction[2];
      if (softmax.weigh(s, 1.0f, correction)) correct(o, correction);
      add_values<T>(s, v_at, lane, o);
    }
    __syncthreads();
  }
  wait<0>();

#pragma unroll
  for (int r = 0; r < 2; ++r) {
    const float sum = quad_sum(softmax.l[r]);
    const int i = my_row + 8 * r;
    if (i < tile.rows)
      store_row<T, kCols>(p, tile.batch, queries(i), o, r, lane, softmax.m[r], sum);
  }
}

template <typename T, int D>
void launch(const Problem& p, const PlanView& plan, const IndexView& index, cudaStream_t stream) {
  allow_shared(attend_kernel<T, D>, Shared<D>::bytes, "attend");
  const int blocks = plan.lane == nullptr ? plan.units : plan.lists;
  const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(blocks));
  attend_kernel<T, D><<<grid, kThreads, Shared<D>::bytes, stream>>>(p, plan, index);
  check_launch("attend", "attend_kernel");
}

}  // namespace

template <typename T>
void attend(const Problem& p, const PlanView& plan, const IndexView& index, cudaStream_t stream) {
  const int d = max(p.d, p.d_v);
  const bool plain = plan.lane == nullptr && plan.weight == nullptr;
  if (d <= 128 && plain && on_hopper("attend")) return attend_hopper<T>(p, plan, index, stream);
  if (d <= 64)
    launch<T, 64>(p, plan, index, stream);
  else if (d <= 128)
    launch<T, 128>(p, plan, index, stream);
  else
    launch<T, 256>(p, plan, index, stream);
}

template void attend<bf16>(const Problem&, const PlanView&, const IndexView&, cudaStream_t);
template void attend<f16>(const Problem&, const PlanView&, const IndexView&, cudaStream_t);

}  // namespace prescore::cuda
