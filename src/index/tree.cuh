// From clusters to the tree of a segment: groups of clusters, members in their order, means of all
// nodes.
#pragma once

#include "index/kmeans.cuh"

namespace prescore::cuda {

template <typename T, typename S>
class Tree : public KMeans<T, S> {
  using Base = KMeans<T, S>;

 public:
  using Base::Base;

  __device__ void write() {
    group();
    write_tree();
    if (index_.clusters <= kMaxClusters / 2)
      write_means_of_nodes<kMaxClusters / 64>();
    else
      write_means_of_nodes<kMaxClusters / 32>();
  }

 private:
  using Base::begin, Base::begin_with_bias, Base::best_column, Base::centroid, Base::count, Base::D,
      Base::group_of, Base::head_, Base::index_, Base::kOwn, Base::kPairs, Base::kPanel,
      Base::kPanels, Base::label, Base::lane_, Base::n_, Base::order, Base::own_column, Base::p_,
      Base::pair_of, Base::place, Base::scan, Base::segment_, Base::set_bias, Base::shared_,
      Base::stage, Base::staged, Base::sum_clusters, Base::sum_labelled, Base::thread_, Base::warp_;

  // group_of and place: k-means over the centroids that have keys.
  __device__ void group() {
    std::uint16_t* full = at<std::uint16_t>(shared_, S::sums);  // clusters with keys, in order
    const bool mine = thread_ < index_.clusters && begin(thread_) != begin(thread_ + 1);
    const int at_full = scan(mine ? 1 : 0);
    if (mine) full[at_full] = static_cast<std::uint16_t>(thread_);
    if (thread_ < kMaxClusters) group_of(thread_) = 0;
    const int n_full = __syncthreads_count(mine ? 1 : 0);
    const int n_groups = min(index_.groups, n_full);
    for (int g = warp_; g < kMaxGroups; g += kIndexWarps)
      for (int pair = lane_; pair < D / 2; pair += 32)
        centroid(S::group, kMaxGroups, g, pair) =
            g < n_groups
                ? centroid(S::centroid, kMaxClusters,
                           full[n_groups == 1 ? 0 : g * (n_full - 1) / (n_groups - 1)], pair)
                : 0u;
    constexpr int kIterations = 5;
    for (int it = 0; it <= kIterations; ++it) {
      set_bias(S::group, kMaxGroups, n_groups, false);
      if (warp_ < kMaxClusters / 16) assign_groups();
      __syncthreads();
      if (it == kIterations) break;
      update_groups();
    }
    if (thread_ < kMaxClusters && group_of(thread_) == kNone) group_of(thread_) = 0;
    __syncthreads();
    if (warp_ == 0) number_clusters();
    __syncthreads();
  }
  // place <- the clusters' numbers in the order of their groups; a lane has two clusters.
  __device__ void number_clusters() {
    int place_of[2] = {}, before = 0;
    for (int g = 0; g < index_.groups; ++g) {
      int in_group = 0;
#pragma unroll
      for (int half = 0; half < kMaxClusters / 32; ++half) {
        const int c = half * 32 + lane_;
        const unsigned in = __ballot_sync(~0u, c < index_.clusters && group_of(c) == g);
        if (in >> lane_ & 1) place_of[half] = before + in_group + __popc(in & ((1u << lane_) - 1));
        in_group += __popc(in);
      }
      before += in_group;
    }
#pragma unroll
    for (int half = 0; half < kMaxClusters / 32; ++half)
      place(half * 32 + lane_) = static_cast<std::uint16_t>(place_of[half]);
  }
  __device__ void assign_groups() {
    float c[kMaxGroups / 8][4];
    begin_with_bias(c);
    const std::uint32_t base = smem_address(shared_);
    for (int k = 0; k < D / 16; ++k) {
      std::uint32_t a[4], b[4];
      load_a(a, base + S::centroid, kMaxClusters, warp_ * 16, k, lane_);
      load_b(b, base + S::group, kMaxGroups, 0, k, lane_);
      multiply<T>(c[0], a, b[0], b[1]);
      multiply<T>(c[1], a, b[2], b[3]);
    }
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      const int i = warp_ * 16 + lane_ / 4 + 8 * r, best = best_column(c, r);
      if (lane_ % 4 != r) continue;
      const bool full = begin(i) != begin(i + 1);
      group_of(i) = static_cast<std::uint16_t>(full ? best : kNone);
      if (full) atomicAdd(&count(best), 1);
    }
  }
  __device__ void update_groups() {
    static_assert(kMaxGroups == 16);
    for (int column = warp_; column < D / 16; column += kIndexWarps) {
      float sum[1][2][4] = {};
      sum_labelled<kMaxClusters, kMaxClusters>(
          &group_of(0), S::centroid, 0, 0, [&](int n) { return 2 * column + n; }, sum);
      Base::write_means(S::group, kMaxGroups, 0, 16 * column, sum[0], nullptr);
    }
  }

  // Counts, begins, children and members; `label`, `count` and `begin` <- by final number.
  __device__ void write_tree() {
    const std::int64_t s = index_.at(head_, segment_);
    std::uint16_t *keys = index_.count + s * index_.nodes, *from = index_.begin + s * index_.nodes,
                  *child = index_.child + s * (index_.groups + 1),
                  *member = index_.member + s * kSegment;
    const int n_clusters = index_.clusters;
    std::uint16_t* size = at<std::uint16_t>(shared_, S::sums);  // by final number
    std::uint16_t* moved = size + kMaxClusters;                 // first member by final number
    std::uint16_t* first = moved + kMaxClusters + 1;            // [groups + 1] first cluster
    if (thread_ < n_clusters)
      size[place(thread_)] = static_cast<std::uint16_t>(begin(thread_ + 1) - begin(thread_));
    __syncthreads();
    const int mine = thread_ < n_clusters ? size[thread_] : 0, before = scan(mine);
    if (thread_ < n_clusters) {
      moved[thread_] = static_cast<std::uint16_t>(before);
      from[thread_] = static_cast<std::uint16_t>(before);
      keys[thread_] = static_cast<std::uint16_t>(mine);
    }
    if (thread_ == 0) moved[n_clusters] = static_cast<std::uint16_t>(n_);
    // Group g has the clusters [first[g], first[g + 1]): as many as have a group before g.
    for (int g = warp_; g <= index_.groups; g += kIndexWarps) {
      int less = 0;
#pragma unroll
      for (int half = 0; half < kMaxClusters / 32; ++half) {
        const int c = half * 32 + lane_;
        less += __popc(__ballot_sync(~0u, c < n_clusters && group_of(c) < g));
      }
      if (lane_ == 0) first[g] = child[g] = static_cast<std::uint16_t>(less);
    }
    __syncthreads();
    if (thread_ <= index_.groups) {
      const bool group = thread_ < index_.groups;  // the last is the segment
      const int a = group ? moved[first[thread_]] : 0, b = group ? moved[first[thread_ + 1]] : n_;
      from[n_clusters + thread_] = static_cast<std::uint16_t>(a);
      keys[n_clusters + thread_] = static_cast<std::uint16_t>(b - a);
    }
    // Keys move with their clusters.
    const int key = thread_ < n_ ? order(thread_) : 0, c = thread_ < n_ ? label(key) : 0;
    const int to = thread_ < n_ ? moved[place(c)] + thread_ - begin(c) : thread_;
    member[to] = static_cast<std::uint16_t>(key);
    __syncthreads();
    if (thread_ < n_) label(key) = place(c);
    if (thread_ < kMaxClusters) count(thread_) = mine;
    if (thread_ <= n_clusters) begin(thread_) = moved[thread_];
    if (thread_ <= index_.groups) group_of(thread_) = first[thread_];  // from here on: children
    __syncthreads();
  }

  // Means of the members of every node: sums over clusters in fp32, of these over groups, of these
  // over the segment.
  template <int kM>
  __device__ void write_means_of_nodes() {
    for (int panel = 0; panel < kPanels; ++panel) {
      Base::restage(panel);
      // The first rows of V are on their way as soon as K is read for the last time.
      write_panel<kM>(p_.d, static_cast<T*>(index_.node_k), panel, panel + 1 == kPanels);
    }
    for (int panel = 0; panel < kPanels; ++panel) {
      if (panel > 0) stage(p_.v, p_.d_v, panel);
      staged();
      write_panel<kM>(p_.d_v, static_cast<T*>(index_.node_v), panel, false);
    }
  }
  template <int kM>
  __device__ void write_panel(int width, T* to, int panel, bool then_v) {
    to += index_.at(head_, segment_) * index_.nodes * width;
    float sum[kM][kOwn][4];
    sum_clusters(sum);  // behind its barrier nobody reads X
    if (then_v) stage(p_.v, p_.d_v, 0);
#pragma unroll
    for (int m = 0; m < kM; ++m)
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int c = Base::template first_own<kM>() + 16 * m + 8 * r + lane_ / 4;
        const float inverse = inverse_of(count(c));
#pragma unroll
        for (int n = 0; n < kOwn; ++n) {
          const int in_panel = own_column() + 8 * n,
                    column = panel * kPanel + in_panel + 2 * (lane_ % 4);
          const float2 v{sum[m][n][2 * r], sum[m][n][2 * r + 1]};
          Base::template sums<kM>(m, r, in_panel) = v;
          if (c < index_.clusters && column < width)
            *reinterpret_cast<std::uint32_t*>(to + c * width + column) =
                pack<T>(v.x * inverse, v.y * inverse);
        }
      }
    __syncthreads();
    for (int g = warp_; g < index_.groups; g += kIndexWarps)
      write_sum(group_of(g), group_of(g + 1), begin(group_of(g + 1)) - begin(group_of(g)), width,
                to + (index_.clusters + g) * width, panel);
    if (warp_ == kIndexWarps - 1)
      write_sum(0, index_.clusters, n_, width, to + (index_.nodes - 1) * width, panel);
    __syncthreads();
  }
  // The mean of the clusters [first, last), which have n keys.
  __device__ void write_sum(int first, int last, int n, int width, T* to, int panel) const {
    float2 sum[kPairs] = {};
#pragma unroll 4
    for (int i = first; i < last; ++i)
#pragma unroll
      for (int u = 0; u < kPairs; ++u) {
        const float2 v = *at<float2>(shared_, S::sums + (i * S::kSumStride + 2 * pair_of(u)) * 4);
        sum[u].x += v.x, sum[u].y += v.y;
      }
    const float inverse = inverse_of(n);
#pragma unroll
    for (int u = 0; u < kPairs; ++u) {
      const int column = panel * kPanel + 2 * pair_of(u);
      if (column < width)
        *reinterpret_cast<std::uint32_t*>(to + column) =
            pack<T>(sum[u].x * inverse, sum[u].y * inverse);
    }
  }
  static __device__ float inverse_of(int n) { return n > 0 ? 1.0f / static_cast<float>(n) : 0.0f; }
};

}  // namespace prescore::cuda
