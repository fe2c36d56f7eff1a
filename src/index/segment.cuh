// What a block knows of its segment of keys, and what the steps of the index do with it.
#pragma once

#include "common/mma.cuh"
#include "index/index_cuda.cuh"

namespace prescore::cuda {

inline constexpr int kIndexThreads = 512, kIndexWarps = kIndexThreads / 32;
inline constexpr int kKeys = kSegment / kIndexWarps;  // of a warp
inline constexpr std::uint16_t kNone = 0xffff;        // NaN in either format
static_assert(kKeys == 32, "a lane has a key, and two clusters");

// Columns are staged in panels of at most 128: with more, X is copied once more for every use.
template <int D>
struct Shared {
  static constexpr int kPanel = D <= 128 ? D : 128, kPanels = D / kPanel;
  static constexpr int kShared = D <= 64 ? 2 : 1;  // blocks that share a multiprocessor
  static constexpr int x = 0;
  static constexpr int centroid = kSegment * kPanel * 2;
  static constexpr int group = centroid + kMaxClusters * D * 2;
  static constexpr int mean = group + kMaxGroups * D * 2;
  static constexpr int partial = mean + D * 4;  // [clusters][panel] sums
  static constexpr int bias = partial + kMaxClusters * kPanel * 4;
  static constexpr int label = bias + kMaxClusters * 4;
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

template <typename T, int D>
class Segment {
 public:
  using S = Shared<D>;
  static constexpr int kPanel = S::kPanel, kPanels = S::kPanels, kPairs = kPanel / 64;

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

  // sum <- of the rows order(from), ..., order(to - 1), always in this order.
  __device__ void sum_rows(int from, int to, float2 (&sum)[kPairs]) const {
#pragma unroll
    for (int u = 0; u < kPairs; ++u) sum[u] = {0, 0};
#pragma unroll 4
    for (int j = from; j < to; ++j) {
      const int i = order(j);
#pragma unroll
      for (int u = 0; u < kPairs; ++u) {
        const float2 v = unpack<T>(x(i, pair_of(u)));
        sum[u].x += v.x, sum[u].y += v.y;
      }
    }
  }

  // By products with ones where labels match: sum[m] <- of the kRows rows at `x` with label
  // first + 16 m, ..., in 16 columns from 16 `column` on; number[m] <- how many these are. Both are
  // fragments as in `multiply`.
  template <int kM, int kRows>
  __device__ void sum_labelled(const std::uint16_t* labels, int x, int first, int column,
                               float (&sum)[kM][2][4], float (&number)[kM][4]) const {
    const std::uint32_t base = smem_address(shared_) + static_cast<std::uint32_t>(x);
    const std::uint32_t one = pack<T>(1, 1);
    const auto mine = static_cast<std::uint32_t>(first + lane_ / 4);
#pragma unroll 2
    for (int k = 0; k < kRows / 16; ++k) {
      std::uint32_t label[2], b[4];
#pragma unroll
      for (int half = 0; half < 2; ++half)
        label[half] =
            *reinterpret_cast<const std::uint32_t*>(labels + 16 * k + 8 * half + 2 * (lane_ % 4));
      load_b_transposed(b, base, kRows, 16 * k, column, lane_);
#pragma unroll
      for (int m = 0; m < kM; ++m) {
        const std::uint32_t row = (mine + 16u * m) * 0x10001u, next = row + 8u * 0x10001u;
        const std::uint32_t a[4] = {
            ones_where_equal<T>(label[0], row), ones_where_equal<T>(label[0], next),
            ones_where_equal<T>(label[1], row), ones_where_equal<T>(label[1], next)};
        multiply<T>(sum[m][0], a, b[0], b[1]);
        multiply<T>(sum[m][1], a, b[2], b[3]);
        multiply<T>(number[m], a, one, one);
      }
    }
  }

  // X <- the rows of a panel of columns.
  __device__ void stage(const View& from, int width, int panel) {
    __syncthreads();
    const std::uint32_t base = smem_address(shared_);
    for (int j = thread_; j < kSegment * (kPanel / 8); j += kIndexThreads) {
      const int i = j / (kPanel / 8), c = j % (kPanel / 8), column = panel * kPanel + 8 * c;
      copy16(base + swizzled(kSegment, i, c),
             row<T>(from, batch_, head_, first_key_ + i) + (column < width ? column : 0),
             column < width);
    }
    commit();
    wait<0>();
    __syncthreads();
  }
  __device__ void restage(int panel) {
    if (kPanels > 1) stage(p_.k, p_.d, panel);
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

  // bias[c] <- mean.c' + |c'|^2 / 2, infinite where there is no cluster.
  __device__ void set_bias(int from, int rows, int n, bool with_mean) {
    __syncthreads();
    for (int c = warp_; c < rows; c += kIndexWarps) {
      float sum = 0;
      for (int pair = lane_; pair < D / 2; pair += 32) {
        const float2 v = unpack<T>(centroid(from, rows, c, pair));
        const float* mean = at<float>(shared_, S::mean) + 2 * pair;
        sum += 0.5f * (v.x * v.x + v.y * v.y);
        if (with_mean) sum += v.x * mean[0] + v.y * mean[1];
      }
      for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (lane_ == 0) at<float>(shared_, S::bias)[c] = c < n ? sum : INFINITY;
    }
    __syncthreads();
  }

  // The column with the largest c - bias, lowest first, of the two rows of a fragment.
  template <int kTiles>
  __device__ void best_columns(const float (&c)[kTiles][4], int (&best)[2]) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      float value = -INFINITY;
      best[r] = 0;
#pragma unroll
      for (int n = 0; n < kTiles; ++n)
#pragma unroll
        for (int j = 0; j < 2; ++j) {
          const int column = 8 * n + 2 * (lane_ % 4) + j;
          const float v = c[n][2 * r + j] - at<float>(shared_, S::bias)[column];
          if (v > value) value = v, best[r] = column;
        }
#pragma unroll
      for (int step = 1; step < 4; step *= 2) {
        const float other = __shfl_xor_sync(~0u, value, step);
        const int column = __shfl_xor_sync(~0u, best[r], step);
        if (other > value || (other == value && column < best[r])) value = other, best[r] = column;
      }
    }
  }

  const Problem& p_;
  const IndexView& index_;
  unsigned char* shared_;
  int segment_, head_, thread_, lane_, warp_, batch_ = 0, first_key_ = 0, skip_ = 0, n_ = 0;
};

}  // namespace prescore::cuda
