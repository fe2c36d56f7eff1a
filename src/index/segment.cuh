// What a block knows of its segment of keys, and what the steps of the index do with it.
#pragma once

#include "common/mma.cuh"
#include "index/index_cuda.cuh"

namespace prescore::cuda {

inline constexpr int kIndexThreads = 512, kIndexWarps = kIndexThreads / 32;
inline constexpr int kKeys = kSegment / kIndexWarps;  // of a warp
inline constexpr std::uint16_t kNone = 0xffff;        // NaN in either format
static_assert(kKeys == 32, "a lane has a key, and two clusters");

// Heads of D columns, staged in panels: where there are several, X is copied once more for every
// use, and fits into less memory.
template <int D, int Panel>
struct Shared {
  static constexpr int kD = D, kPanel = Panel, kPanels = D / kPanel;
  static constexpr int kShared = D <= 64 ? 2 : 1;  // blocks that share a multiprocessor
  static constexpr int x = 0;
  static constexpr int centroid = kSegment * kPanel * 2;
  static constexpr int group = centroid + kMaxClusters * D * 2;
  static constexpr int mean = group + kMaxGroups * D * 2;
  static constexpr int kSumStride = kPanel + 8;  // floats: fragments without bank conflicts
  static constexpr int sums = mean + D * 4;      // [clusters][stride]
  static constexpr int bias = sums + kMaxClusters * kSumStride * 4;
  static constexpr int count = bias + kMaxClusters * 4;  // members of clusters or groups
  static constexpr int label = count + kMaxClusters * 4;
  static constexpr int order = label + kSegment * 2;                        // keys by cluster
  static constexpr int histogram = order + kSegment * 2;                    // [clusters][warps]
  static constexpr int begin = histogram + kMaxClusters * kIndexWarps * 2;  // [clusters + 1]
  static constexpr int group_of = begin + 160;                              // [clusters]
  static constexpr int place = group_of + 2 * kMaxClusters;  // cluster -> its number by group
  static constexpr int bytes = place + 2 * kMaxClusters;
};

template <typename U>
__device__ U* at(unsigned char* shared, int offset) {
  return reinterpret_cast<U*>(shared + offset);
}

template <typename T, typename S>
class Segment {
 public:
  static constexpr int D = S::kD;
  static constexpr int kPanel = S::kPanel, kPanels = S::kPanels, kPairs = kPanel / 64;
  static constexpr int kOwn = kPanel / 64;  // blocks of 8 columns that a warp sums up

  __device__ Segment(const Problem& p, const IndexView& index, unsigned char* shared)
      : p_(p), index_(index), shared_(shared), segment_(static_cast<int>(blockIdx.x)),
        head_(static_cast<int>(blockIdx.y)), thread_(static_cast<int>(threadIdx.x)),
        lane_(thread_ % 32), warp_(thread_ / 32) {
    const SegmentInfo s = index.segment[segment_];
    batch_ = s.batch, first_key_ = s.k;
    skip_ = s.first != 0 ? min(index.sinks, kSegment) : 0;
    n_ = kSegment - skip_;
  }

  __device__ bool empty() const { return first_key_ < 0; }

 protected:
  __device__ int& count(int c) const { return at<int>(shared_, S::count)[c]; }
  __device__ std::uint16_t& label(int i) const { return at<std::uint16_t>(shared_, S::label)[i]; }
  __device__ std::uint16_t& order(int i) const { return at<std::uint16_t>(shared_, S::order)[i]; }
  __device__ std::uint16_t& begin(int c) const { return at<std::uint16_t>(shared_, S::begin)[c]; }
  __device__ std::uint16_t& group_of(int c) const {
    return at<std::uint16_t>(shared_, S::group_of)[c];
  }
  __device__ std::uint16_t& place(int c) const { return at<std::uint16_t>(shared_, S::place)[c]; }

  // Two neighbouring columns, 2 `pair` of the panel, of a staged row.
  __device__ std::uint32_t& x(int row, int pair) const {
    return *at<std::uint32_t>(
        shared_, S::x + static_cast<int>(swizzled(kSegment, row, pair / 4)) + (pair % 4) * 4);
  }
  __device__ std::uint32_t& centroid(int from, int rows, int row, int pair) const {
    return *at<std::uint32_t>(
        shared_, from + static_cast<int>(swizzled(rows, row, pair / 4)) + (pair % 4) * 4);
  }

  // Into the L2 cache: a thread has a row.
  __device__ void prefetch(const View& from, int width, int head, int segment) const {
    const SegmentInfo s = index_.segment[segment];
    if (s.k < 0) return;
    const T* at = row<T>(from, s.batch, head, s.k + thread_);
    for (int c = 0; c < width; c += 64) asm volatile("prefetch.global.L2 [%0];" ::"l"(at + c));
  }
  // The keys of the block that probably follows on this multiprocessor.
  __device__ void prefetch_next() const {
    int processors;
    asm("mov.u32 %0, %%nsmid;" : "=r"(processors));
    const int next = head_ * index_.segments + segment_ + processors * S::kShared;
    if (next < p_.h_kv * index_.segments)
      prefetch(p_.k, p_.d, next / index_.segments, next % index_.segments);
  }

  // A lane has kPairs neighbouring pairs of columns of every row.
  __device__ int pair_of(int u) const { return lane_ * kPairs + u; }

  // sum[m][n] <- by products with ones where labels match: of the kCount rows from `row` on, of a
  // matrix of kRows rows at `x`, with label first + 16 m, ..., in the 8 columns of chunk(n). A
  // fragment as in `multiply`.
  template <int kRows, int kCount, int kM, int kN, typename Chunk>
  __device__ void sum_labelled(const std::uint16_t* labels, int x, int row, int first,
                               const Chunk& chunk, float (&sum)[kM][kN][4]) const {
    const std::uint16_t* label = labels + row + 2 * (lane_ % 4);
    std::uint32_t from[kN / 2], mine[2 * kM];
#pragma unroll
    for (int n = 0; n < kN / 2; ++n)
      from[n] = smem_address(shared_) + static_cast<std::uint32_t>(x) +
                swizzled(kRows, row + lane_ % 16, chunk(2 * n + lane_ / 16));
#pragma unroll
    for (int m = 0; m < 2 * kM; ++m)
      mine[m] = static_cast<std::uint32_t>(first + 8 * m + lane_ / 4) * 0x10001u;
#pragma unroll 4
    for (int k = 0; k < kCount / 16; ++k) {
      const std::uint32_t low = *reinterpret_cast<const std::uint32_t*>(label + 16 * k),
                          high = *reinterpret_cast<const std::uint32_t*>(label + 16 * k + 8);
      std::uint32_t b[kN / 2][4];
#pragma unroll
      for (int n = 0; n < kN / 2; ++n)
        load_matrix_transposed(b[n], from[n] + static_cast<std::uint32_t>(16 * 128 * k));
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const std::uint32_t a[4] = {
            ones_where_equal<T>(low, mine[2 * m]), ones_where_equal<T>(low, mine[2 * m + 1]),
            ones_where_equal<T>(high, mine[2 * m]), ones_where_equal<T>(high, mine[2 * m + 1])};
#pragma unroll
        for (int n = 0; n < kN / 2; ++n) {
          multiply<T>(sum[m][2 * n], a, b[n][0], b[n][1]);
          multiply<T>(sum[m][2 * n + 1], a, b[n][2], b[n][3]);
        }
      }
    }
  }

  // Sums of the rows of X by label, by all warps: a warp goes through half of the rows, for half of
  // the first 32 kM clusters and a quarter of the columns, and hands half of these columns to the
  // warp with the other rows. sum[m][n] <- of the labels first_own() + 16 m, ..., in the 8 columns
  // from own_column() + 8 n on.
  template <int kM>
  __device__ void sum_clusters(float (&sum)[kM][kOwn][4]) const {
    const int split = warp_ % 2, quarter = warp_ / 2 % 4;
    float all[kM][2 * kOwn][4] = {};
    sum_labelled<kSegment, kSegment / 2>(
        &label(0), S::x, split * (kSegment / 2), first_own<kM>(),
        [&](int n) { return quarter * 2 * kOwn + (n ^ (split * kOwn)); }, all);
    const int other = own_column() + (1 - 2 * split) * 8 * kOwn;
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kOwn; ++n)
#pragma unroll
        for (int r = 0; r < 2; ++r)
          sums<kM>(m, r, other + 8 * n) = {all[m][kOwn + n][2 * r], all[m][kOwn + n][2 * r + 1]};
    __syncthreads();
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int n = 0; n < kOwn; ++n)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const float2 more = sums<kM>(m, r, own_column() + 8 * n);
          sum[m][n][2 * r] = all[m][n][2 * r] + more.x;
          sum[m][n][2 * r + 1] = all[m][n][2 * r + 1] + more.y;
        }
  }
  template <int kM>
  __device__ int first_own() const {
    return warp_ / 8 * 16 * kM;
  }
  __device__ int own_column() const { return (warp_ / 2 % 4 * 2 + warp_ % 2) * 8 * kOwn; }
  // Where the fragment [m][][2 r] of the columns from `column` on lies among the sums.
  template <int kM>
  __device__ float2& sums(int m, int r, int column) const {
    const int row = first_own<kM>() + 16 * m + 8 * r + lane_ / 4;
    return *at<float2>(shared_, S::sums + (row * S::kSumStride + column + 2 * (lane_ % 4)) * 4);
  }

  // X <- the rows of a panel of columns; they have come after `staged`.
  __device__ void stage(const View& from, int width, int panel) const {
    constexpr int kChunks = kPanel / 8, kStep = kIndexThreads / kChunks;
    const int i = thread_ / kChunks, c = thread_ % kChunks, column = panel * kPanel + 8 * c;
    const T* at = row<T>(from, batch_, head_, first_key_ + i) + (column < width ? column : 0);
    const std::uint32_t to = smem_address(shared_) + swizzled(kSegment, i, c);
    static_assert(kStep % 8 == 0, "the swizzle stays the same");
#pragma unroll 4
    for (int k = 0; k < kSegment / kStep; ++k, at += kStep * from.n)
      copy16(to + static_cast<std::uint32_t>(k * kStep * 128), at, column < width);
    commit();
  }
  __device__ void staged() const {
    wait<0>();
    __syncthreads();
  }
  // With one panel, K is there already.
  __device__ void restage(int panel) {
    if (kPanels == 1) return;
    __syncthreads();
    stage(p_.k, p_.d, panel);
    staged();
  }

  // What the threads before this one have together.
  __device__ int scan(int x) {
    int until = x;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, until, step);
      if (lane_ >= step) until += other;
    }
    int* sums = at<int>(shared_, S::bias);
    if (lane_ == 31) sums[warp_] = until;
    __syncthreads();
    int before = until - x;
#pragma unroll
    for (int w = 0; w < kIndexWarps; ++w)
      if (w < warp_) before += sums[w];
    __syncthreads();
    return before;
  }

  // bias[c] <- -(mean.c' + |c'|^2 / 2), -infinite where there is no cluster; count <- 0.
  __device__ void set_bias(int from, int rows, int n, bool with_mean) {
    constexpr int kChunks = D / 8, kTogether = 32 / kChunks;
    const int chunk = lane_ % kChunks;
    float mean[8] = {};
    if (with_mean)
      for (int i = 0; i < 8; ++i) mean[i] = at<float>(shared_, S::mean)[8 * chunk + i];
    __syncthreads();
    if (thread_ < rows) count(thread_) = 0;
    for (int first = warp_ * kTogether; first < rows; first += kIndexWarps * kTogether) {
      const int c = first + lane_ / kChunks;
      const uint4 v = *at<uint4>(shared_, from + static_cast<int>(swizzled(rows, c, chunk)));
      const std::uint32_t pair[4] = {v.x, v.y, v.z, v.w};
      float sum = 0;
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        const float2 x = unpack<T>(pair[i]);
        sum = fmaf(x.x, fmaf(0.5f, x.x, mean[2 * i]), sum);
        sum = fmaf(x.y, fmaf(0.5f, x.y, mean[2 * i + 1]), sum);
      }
#pragma unroll
      for (int step = kChunks / 2; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (chunk == 0) at<float>(shared_, S::bias)[c] = c < n ? -sum : -INFINITY;
    }
    __syncthreads();
  }

  // Products begin with the bias of their column.
  template <int kTiles>
  __device__ void begin_with_bias(float (&c)[kTiles][4]) const {
#pragma unroll
    for (int n = 0; n < kTiles; ++n) {
      const float2 bias = *at<float2>(shared_, S::bias + (8 * n + 2 * (lane_ % 4)) * 4);
      c[n][0] = c[n][2] = bias.x, c[n][1] = c[n][3] = bias.y;
    }
  }

  // The column with the largest number, lowest first, of row r of a fragment.
  template <int kTiles>
  __device__ int best_column(const float (&c)[kTiles][4], int r) const {
    float value = -INFINITY;
    int best = 0;
#pragma unroll
    for (int n = 0; n < kTiles; ++n)
#pragma unroll
      for (int j = 0; j < 2; ++j)
        if (c[n][2 * r + j] > value) value = c[n][2 * r + j], best = 8 * n + j;
    best += 2 * (lane_ % 4);
#pragma unroll
    for (int step = 1; step < 4; step *= 2) {
      const float other = __shfl_xor_sync(~0u, value, step);
      const int column = __shfl_xor_sync(~0u, best, step);
      if (other > value || (other == value && column < best)) value = other, best = column;
    }
    return value > -INFINITY ? best : 0;
  }

  const Problem& p_;
  const IndexView& index_;
  unsigned char* shared_;
  int segment_, head_, thread_, lane_, warp_, batch_ = 0, first_key_ = 0, skip_ = 0, n_ = 0;
};

}  // namespace prescore::cuda
