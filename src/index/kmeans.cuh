// k-means over the keys of a segment on the tensor cores.
//
// Products use the keys as they lie and centroids around the mean of the segment, rounded: with
// c' the rounded centroid less the mean, x.c' - mean.c' - |c'|^2 / 2 is exact but for the sum.
#pragma once

#include "index/segment.cuh"

namespace prescore::cuda {

template <typename T, typename S>
class KMeans : public Segment<T, S> {
  using Base = Segment<T, S>;

 public:
  using Base::Base;

  /// Labels of all keys, and the keys in the order of clusters.
  __device__ void cluster() {
    prefetch(p_.v, p_.d_v, head_, segment_);
    prefetch_next();
    find_mean();
    seed();
    for (int it = 0; it < index_.iterations; ++it) {
      assign();
      update();
    }
    assign();
    sort();
  }

 protected:
  using Base::begin, Base::begin_with_bias, Base::best_column, Base::centroid, Base::count,
      Base::head_, Base::index_, Base::kOwn, Base::kPairs, Base::kPanel, Base::kPanels, Base::label,
      Base::lane_, Base::n_, Base::order, Base::own_column, Base::p_, Base::prefetch,
      Base::prefetch_next, Base::restage, Base::scan, Base::segment_, Base::set_bias, Base::shared_,
      Base::skip_, Base::stage, Base::staged, Base::sum_clusters, Base::thread_, Base::warp_,
      Base::x;

  // By products with ones: a warp has 16 columns of some of the rows.
  __device__ void find_mean() {
    constexpr int kColumns = kPanel / 16, kSplits = kIndexWarps / kColumns,
                  kRows = kSegment / kSplits;
    const int split = warp_ / kColumns, column = warp_ % kColumns;
    float* part = at<float>(shared_, S::sums);  // [splits][panel]
    if (kPanels == 1) stage(p_.k, p_.d, 0), staged();
    for (int panel = 0; panel < kPanels; ++panel) {
      restage(panel);
      float sum[2][4] = {};
      const std::uint32_t from =
          smem_address(shared_) +
          swizzled(kSegment, split * kRows + lane_ % 16, 2 * column + lane_ / 16);
#pragma unroll 4
      for (int k = 0; k < kRows / 16; ++k) {
        const int row = split * kRows + 16 * k + 2 * (lane_ % 4) - skip_;
        const std::uint32_t low = pack<T>(row >= 0 ? 1 : 0, row >= -1 ? 1 : 0),
                            high = pack<T>(row >= -8 ? 1 : 0, row >= -9 ? 1 : 0);
        const std::uint32_t a[4] = {low, low, high, high};
        std::uint32_t b[4];
        load_matrix_transposed(b, from + static_cast<std::uint32_t>(16 * 128 * k));
        multiply<T>(sum[0], a, b[0], b[1]);
        multiply<T>(sum[1], a, b[2], b[3]);
      }
      if (lane_ < 4)
        for (int n = 0; n < 2; ++n)
          for (int j = 0; j < 2; ++j)
            part[split * kPanel + 16 * column + 8 * n + 2 * lane_ + j] = sum[n][j];
      __syncthreads();
      if (thread_ < kPanel) {
        float all = 0;
        for (int s = 0; s < kSplits; ++s) all += part[s * kPanel + thread_];
        at<float>(shared_, S::mean)[panel * kPanel + thread_] =
            n_ > 0 ? all / static_cast<float>(n_) : 0;
      }
    }
    __syncthreads();
  }

  // Evenly spaced keys; rows without a cluster are zero.
  __device__ void seed() {
    const int n_clusters = index_.clusters;
    for (int panel = 0; panel < kPanels; ++panel) {
      restage(panel);
      for (int c = warp_; c < kMaxClusters; c += kIndexWarps) {
        const int i = skip_ + (n_clusters == 1 ? 0 : c * (n_ - 1) / (n_clusters - 1));
        for (int u = 0; u < kPairs; ++u) {
          const int pair = lane_ + 32 * u, column = panel * kPanel + 2 * pair;
          float2 v{0, 0};
          if (c < n_clusters && n_ > 0) {
            v = unpack<T>(x(i, pair));
            v.x -= at<float>(shared_, S::mean)[column],
                v.y -= at<float>(shared_, S::mean)[column + 1];
          }
          centroid(S::centroid, kMaxClusters, c, column / 2) = pack<T>(v.x, v.y);
        }
      }
    }
  }

  // Labels of all keys.
  __device__ void assign() {
    set_bias(S::centroid, kMaxClusters, index_.clusters, true);
    if (index_.clusters <= kMaxClusters / 2)
      assign_to<kMaxClusters / 2>();
    else
      assign_to<kMaxClusters>();
    __syncthreads();
  }
  template <int kColumns>
  __device__ void assign_to() {
    constexpr int kMine = kKeys / 16;
    if constexpr (S::kShared > 1) {  // few registers
#pragma unroll 1
      for (int m = 0; m < kMine; ++m) assign_rows<1, kColumns>(m);
    } else {
      assign_rows<kMine, kColumns>(0);
    }
  }
  // Of the blocks of 16 keys [first, first + kMine) of the warp, to the first kColumns clusters.
  template <int kMine, int kColumns>
  __device__ void assign_rows(int first) {
    constexpr int kTiles = kColumns / 8;
    float c[kMine][kTiles][4];
#pragma unroll
    for (int m = 0; m < kMine; ++m) begin_with_bias(c[m]);
    const std::uint32_t base = smem_address(shared_);
    const int row = warp_ * kKeys + first * 16;
    // Fragments of step k, of four a panel of 64 columns: steps differ in two bits of the swizzle.
    const std::uint32_t a_at = base + swizzled(kSegment, row + lane_ % 16, lane_ / 16),
                        b_at = base + S::centroid +
                               swizzled(kMaxClusters, lane_ % 8 + lane_ / 16 * 8, lane_ / 8 % 2);
#pragma unroll 1
    for (int panel = 0; panel < kPanels; ++panel) {
      restage(panel);
#pragma unroll
      for (int k = 0; k < kPanel / 16; ++k) {
        const auto step = [&](std::uint32_t at, int rows, int block, int k16) {
          return (at ^ static_cast<std::uint32_t>(k16 % 4 << 5)) +
                 static_cast<std::uint32_t>(k16 / 4 * rows * 128 + block * 16 * 128);
        };
        std::uint32_t b[kTiles / 2][4];
#pragma unroll
        for (int n = 0; n < kTiles / 2; ++n)
          load_matrix(b[n], step(b_at, kMaxClusters, n, panel * (kPanel / 16) + k));
#pragma unroll
        for (int m = 0; m < kMine; ++m) {
          std::uint32_t a[4];
          load_matrix(a, step(a_at, kSegment, m, k));
#pragma unroll
          for (int n = 0; n < kTiles / 2; ++n) {
            multiply<T>(c[m][2 * n], a, b[n][0], b[n][1]);
            multiply<T>(c[m][2 * n + 1], a, b[n][2], b[n][3]);
          }
        }
      }
    }
    // Every lane of a quad knows the best of all rows; each writes one of four, or of two.
    int mine = 0;
#pragma unroll
    for (int m = 0; m < kMine; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int best = best_column(c[m], r);
        if (lane_ % 4 == 2 * m + r) mine = best;
      }
    const int i = row + lane_ % 4 * 8 + lane_ / 4;
    if (lane_ % 4 < 2 * kMine) {
      label(i) = i < skip_ ? kNone : static_cast<std::uint16_t>(mine);
      if (i >= skip_) atomicAdd(&count(mine), 1);
    }
  }

  // Members of each cluster in the order of positions: begin, order. A lane places its key behind
  // those of the same cluster in the warps before and in the lanes before.
  __device__ void sort() {
    std::uint16_t* histogram = at<std::uint16_t>(shared_, S::histogram);
    for (int i = thread_; i < kMaxClusters * kIndexWarps; i += kIndexThreads) histogram[i] = 0;
    __syncthreads();
    const int mine = label(thread_);
    const unsigned alike = __match_any_sync(~0u, mine);
    const int rank = __popc(alike & ((1u << lane_) - 1));
    if (mine != kNone && rank == 0)
      histogram[mine * kIndexWarps + warp_] = static_cast<std::uint16_t>(__popc(alike));
    __syncthreads();
    // Exclusive sums over all entries, clusters first: two a thread.
    constexpr int kEach = kMaxClusters * kIndexWarps / kIndexThreads;
    static_assert(kEach == 2);
    const int first = histogram[2 * thread_], second = histogram[2 * thread_ + 1];
    const int before = scan(first + second);
    histogram[2 * thread_] = static_cast<std::uint16_t>(before);
    histogram[2 * thread_ + 1] = static_cast<std::uint16_t>(before + first);
    __syncthreads();
    if (mine != kNone)
      order(histogram[mine * kIndexWarps + warp_] + rank) = static_cast<std::uint16_t>(thread_);
    if (thread_ <= kMaxClusters)
      begin(thread_) = static_cast<std::uint16_t>(
          thread_ < kMaxClusters ? histogram[thread_ * kIndexWarps] : n_);
    __syncthreads();
  }

  // Centroids <- means of their members; those without keep their place.
  __device__ void update() {
    if (index_.clusters <= kMaxClusters / 2)
      update_of<kMaxClusters / 32>();
    else
      update_of<kMaxClusters / 16>();
    __syncthreads();
  }
  // Of the first 16 kBlocks clusters.
  template <int kBlocks>
  __device__ void update_of() {
    constexpr int kM = kBlocks / 2;
    for (int panel = 0; panel < kPanels; ++panel) {
      restage(panel);
      float sum[kM][kOwn][4];
      sum_clusters(sum);
#pragma unroll
      for (int m = 0; m < kM; ++m)
        write_means(S::centroid, kMaxClusters, Base::template first_own<kM>() + 16 * m,
                    panel * kPanel + own_column(), sum[m], at<float>(shared_, S::mean));
    }
  }
  // Rows `first`, ... of the matrix at `to` <- sums over counts, less what `mean` has in these
  // columns (null: nothing), where there is a member.
  template <int kN>
  __device__ void write_means(int to, int rows, int first, int column, const float (&sum)[kN][4],
                              const float* mean) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int row = first + lane_ / 4 + 8 * r, number = count(row);
      if (number == 0) continue;
      const float inverse = 1.0f / static_cast<float>(number);
#pragma unroll
      for (int n = 0; n < kN; ++n) {
        const int at_column = column + 8 * n + 2 * (lane_ % 4);
        const float2 less =
            mean == nullptr ? float2{0, 0} : *reinterpret_cast<const float2*>(mean + at_column);
        centroid(to, rows, row, at_column / 2) = pack<T>(fmaf(sum[n][2 * r], inverse, -less.x),
                                                         fmaf(sum[n][2 * r + 1], inverse, -less.y));
      }
    }
  }
};

}  // namespace prescore::cuda
