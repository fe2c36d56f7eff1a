// k-means over the keys of a segment on the tensor cores.
//
// Products use the keys as they lie and centroids around the mean of the segment, rounded: with
// c' the rounded centroid less the mean, x.c' - mean.c' - |c'|^2 / 2 is exact but for the sum.
#pragma once

#include "index/segment.cuh"

namespace prescore::cuda {

template <typename T, int D>
class KMeans : public Segment<T, D> {
  using Base = Segment<T, D>;
  using S = Shared<D>;

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
  using Base::begin, Base::best_columns, Base::centroid, Base::head_, Base::index_, Base::kPairs,
      Base::kPanel, Base::kPanels, Base::label, Base::lane_, Base::n_, Base::order, Base::p_,
      Base::pair_of, Base::prefetch, Base::prefetch_next, Base::restage, Base::scan, Base::segment_,
      Base::set_bias, Base::shared_, Base::skip_, Base::stage, Base::thread_, Base::warp_, Base::x;

  __device__ void find_mean() {
    if (kPanels == 1) stage(p_.k, p_.d, 0);
    for (int panel = 0; panel < kPanels; ++panel) {
      restage(panel);
      float* partial = at<float>(shared_, S::partial) + warp_ * kPanel;
      float2 sum[kPairs] = {};
#pragma unroll 8
      for (int i = skip_ + warp_; i < kSegment; i += kIndexWarps)
#pragma unroll
        for (int u = 0; u < kPairs; ++u) {
          const float2 v = unpack<T>(x(i, pair_of(u)));
          sum[u].x += v.x, sum[u].y += v.y;
        }
#pragma unroll
      for (int u = 0; u < kPairs; ++u)
        partial[2 * pair_of(u)] = sum[u].x, partial[2 * pair_of(u) + 1] = sum[u].y;
      __syncthreads();
      if (thread_ < kPanel) {
        float sum = 0;
        for (int w = 0; w < kIndexWarps; ++w)
          sum += at<float>(shared_, S::partial)[w * kPanel + thread_];
        at<float>(shared_, S::mean)[panel * kPanel + thread_] =
            n_ > 0 ? sum / static_cast<float>(n_) : 0;
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
    float c[kMine][kTiles][4] = {};
    const std::uint32_t base = smem_address(shared_);
    const int row = warp_ * kKeys + first * 16;
#pragma unroll 1
    for (int panel = 0; panel < kPanels; ++panel) {
      restage(panel);
#pragma unroll 2
      for (int k = 0; k < kPanel / 16; ++k) {
        std::uint32_t b[kTiles / 2][4];
#pragma unroll
        for (int n = 0; n < kTiles / 2; ++n)
          load_b(b[n], base + S::centroid, kMaxClusters, 16 * n, panel * (kPanel / 16) + k, lane_);
#pragma unroll
        for (int m = 0; m < kMine; ++m) {
          std::uint32_t a[4];
          load_a(a, base, kSegment, row + m * 16, k, lane_);
#pragma unroll
          for (int n = 0; n < kTiles / 2; ++n) {
            multiply<T>(c[m][2 * n], a, b[n][0], b[n][1]);
            multiply<T>(c[m][2 * n + 1], a, b[n][2], b[n][3]);
          }
        }
      }
    }
#pragma unroll
    for (int m = 0; m < kMine; ++m) {
      int best[2];
      best_columns(c[m], best);
      if (lane_ % 4 == 0)
        for (int r = 0; r < 2; ++r) {
          const int i = row + m * 16 + lane_ / 4 + 8 * r;
          label(i) = i < skip_ ? kNone : static_cast<std::uint16_t>(best[r]);
        }
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
  // Of the first 16 kBlocks clusters, half of them in 16 columns at a time.
  template <int kBlocks>
  __device__ void update_of() {
    constexpr int kM = kBlocks / 2, kColumns = kPanel / 16;
    for (int panel = 0; panel < kPanels; ++panel) {
      restage(panel);
      for (int job = warp_; job < 2 * kColumns; job += kIndexWarps) {
        const int first = job / kColumns * 16 * kM, column = job % kColumns;
        float sum[kM][2][4] = {}, number[kM][4] = {};
        sum_labelled<kM, kSegment>(&label(0), S::x, first, column, sum, number);
#pragma unroll
        for (int m = 0; m < kM; ++m)
          write_means(S::centroid, kMaxClusters, first + 16 * m, panel * kPanel + 16 * column,
                      sum[m], number[m], at<float>(shared_, S::mean));
      }
    }
  }
  // Rows `first`, ... of the matrix at `to` <- sums over numbers, less what `mean` has in these
  // columns (null: nothing), where there is a member.
  __device__ void write_means(int to, int rows, int first, int column, const float (&sum)[2][4],
                              const float (&number)[4], const float* mean) const {
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      if (number[2 * r] == 0) continue;
      const float inverse = 1.0f / number[2 * r];
#pragma unroll
      for (int n = 0; n < 2; ++n) {
        const int at_column = column + 8 * n + 2 * (lane_ % 4);
        const float2 less =
            mean == nullptr ? float2{0, 0} : float2{mean[at_column], mean[at_column + 1]};
        centroid(to, rows, first + lane_ / 4 + 8 * r, at_column / 2) =
            pack<T>(sum[n][2 * r] * inverse - less.x, sum[n][2 * r + 1] * inverse - less.y);
      }
    }
  }
};

}  // namespace prescore::cuda
