// From clusters to the tree of a segment: groups of clusters, members in their order, means of all
// nodes.
#pragma once

#include "index/kmeans.cuh"

namespace prescore::cuda {

template <typename T, int D>
class Tree : public KMeans<T, D> {
  using Base = KMeans<T, D>;
  using S = Shared<D>;

 public:
  using Base::Base;

  __device__ void write() {
    group();
    write_tree();
    write_node_means(p_.k, p_.d, static_cast<T*>(index_.node_k), true);
    write_node_means(p_.v, p_.d_v, static_cast<T*>(index_.node_v), false);
  }

 private:
  using Base::begin, Base::best_columns, Base::centroid, Base::group_of, Base::head_, Base::index_,
      Base::kPairs, Base::kPanel, Base::kPanels, Base::label, Base::lane_, Base::n_, Base::order,
      Base::p_, Base::pair_of, Base::place, Base::scan, Base::segment_, Base::set_bias,
      Base::shared_, Base::stage, Base::sum_labelled, Base::sum_rows, Base::thread_, Base::warp_;

  // group_of and place: k-means over the centroids that have keys.
  __device__ void group() {
    std::uint16_t* full = at<std::uint16_t>(shared_, S::partial);  // clusters with keys, in order
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
    float c[kMaxGroups / 8][4] = {};
    const std::uint32_t base = smem_address(shared_);
    for (int k = 0; k < D / 16; ++k) {
      std::uint32_t a[4], b[4];
      load_a(a, base + S::centroid, kMaxClusters, warp_ * 16, k, lane_);
      load_b(b, base + S::group, kMaxGroups, 0, k, lane_);
      multiply<T>(c[0], a, b[0], b[1]);
      multiply<T>(c[1], a, b[2], b[3]);
    }
    int best[2];
    best_columns(c, best);
    if (lane_ % 4 == 0)
      for (int r = 0; r < 2; ++r) {
        const int i = warp_ * 16 + lane_ / 4 + 8 * r;
        group_of(i) = static_cast<std::uint16_t>(begin(i) != begin(i + 1) ? best[r] : kNone);
      }
  }
  __device__ void update_groups() {
    static_assert(kMaxGroups == 16);
    for (int column = warp_; column < D / 16; column += kIndexWarps) {
      float sum[1][2][4] = {}, number[1][4] = {};
      sum_labelled<1, kMaxClusters>(&group_of(0), S::centroid, 0, column, sum, number);
      Base::write_means(S::group, kMaxGroups, 0, 16 * column, sum[0], number[0], nullptr);
    }
  }

  // Counts, begins, children and members; `order` and `begin` <- the final order.
  __device__ void write_tree() {
    const std::int64_t s = index_.at(head_, segment_);
    std::uint16_t *count = index_.count + s * index_.nodes, *from = index_.begin + s * index_.nodes,
                  *child = index_.child + s * (index_.groups + 1),
                  *member = index_.member + s * kSegment;
    const int n_clusters = index_.clusters;
    std::uint16_t* size = at<std::uint16_t>(shared_, S::partial);  // by final number
    std::uint16_t* moved = size + kMaxClusters;                    // first member by final number
    std::uint16_t* first = moved + kMaxClusters + 1;               // [groups + 1] first cluster
    if (thread_ < n_clusters)
      size[place(thread_)] = static_cast<std::uint16_t>(begin(thread_ + 1) - begin(thread_));
    __syncthreads();
    const int mine = thread_ < n_clusters ? size[thread_] : 0, before = scan(mine);
    if (thread_ < n_clusters) {
      moved[thread_] = static_cast<std::uint16_t>(before);
      from[thread_] = static_cast<std::uint16_t>(before);
      count[thread_] = static_cast<std::uint16_t>(mine);
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
      count[n_clusters + thread_] = static_cast<std::uint16_t>(b - a);
    }
    // Keys move with their clusters.
    const int key = thread_ < n_ ? order(thread_) : 0, c = thread_ < n_ ? label(key) : 0;
    const int to = thread_ < n_ ? moved[place(c)] + thread_ - begin(c) : thread_;
    member[to] = static_cast<std::uint16_t>(key);
    __syncthreads();
    if (thread_ < n_) order(to) = static_cast<std::uint16_t>(key);
    if (thread_ <= n_clusters) begin(thread_) = moved[thread_];
    if (thread_ <= index_.groups) group_of(thread_) = first[thread_];  // from here on: children
    __syncthreads();
  }

  // Means of the members of every node: sums over clusters in fp32, of these over groups, of these
  // over the segment.
  __device__ void write_node_means(const View& from, int width, T* to, bool staged) {
    to += index_.at(head_, segment_) * index_.nodes * width;
    float2* sums = at<float2>(shared_, S::partial);
    for (int panel = 0; panel < kPanels; ++panel) {
      if (!staged || kPanels > 1) stage(from, width, panel);
      const auto write = [&](int node, int n, const float2(&sum)[kPairs]) {
        const float inverse = n > 0 ? 1.0f / static_cast<float>(n) : 0.0f;
#pragma unroll
        for (int u = 0; u < kPairs; ++u) {
          const int column = panel * kPanel + 2 * pair_of(u);
          if (column < width)
            *reinterpret_cast<std::uint32_t*>(to + node * width + column) =
                pack<T>(sum[u].x * inverse, sum[u].y * inverse);
        }
      };
      // sum <- of rows [first, last) of `sums`.
      const auto add_up = [&](int first, int last, float2(&sum)[kPairs]) {
#pragma unroll 4
        for (int i = first; i < last; ++i)
#pragma unroll
          for (int u = 0; u < kPairs; ++u) {
            const float2 v = sums[i * (kPanel / 2) + pair_of(u)];
            sum[u].x += v.x, sum[u].y += v.y;
          }
      };
      for (int c = warp_; c < index_.clusters; c += kIndexWarps) {
        float2 sum[kPairs];
        sum_rows(begin(c), begin(c + 1), sum);
        write(c, begin(c + 1) - begin(c), sum);
#pragma unroll
        for (int u = 0; u < kPairs; ++u) sums[c * (kPanel / 2) + pair_of(u)] = sum[u];
      }
      __syncthreads();
      for (int g = warp_; g < index_.groups; g += kIndexWarps) {
        float2 sum[kPairs] = {};
        add_up(group_of(g), group_of(g + 1), sum);
        write(index_.clusters + g, begin(group_of(g + 1)) - begin(group_of(g)), sum);
      }
      if (warp_ == kIndexWarps - 1) {
        float2 sum[kPairs] = {};
        add_up(0, index_.clusters, sum);
        write(index_.nodes - 1, n_, sum);
      }
      __syncthreads();
    }
  }
};

}  // namespace prescore::cuda
