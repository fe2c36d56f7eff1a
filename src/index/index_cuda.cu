// One block a segment and key head: k-means over its keys on the tensor cores, k-means over the
// centroids into groups, members in the order of groups and clusters, means of all nodes.
//
// Products use the keys as they lie and centroids around the mean of the segment, rounded: with
// c' the rounded centroid less the mean, x.c' - mean.c' - |c'|^2 / 2 is exact but for the sum.
#include "common/mma.cuh"
#include "index/index_cuda.cuh"

namespace prescore::cuda {
namespace {

constexpr int kThreads = 512, kWarps = kThreads / 32, kKeys = kSegment / kWarps;  // keys of a warp
constexpr std::uint16_t kNone = 0xffff;
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
  static constexpr int order = label + kSegment * 2;                   // keys by cluster
  static constexpr int histogram = order + kSegment * 2;               // [clusters][warps]
  static constexpr int begin = histogram + kMaxClusters * kWarps * 2;  // [clusters + 1]
  static constexpr int group_of = begin + 160;                         // [clusters]
  static constexpr int place = group_of + 2 * kMaxClusters;  // cluster -> its number by group
  static constexpr int bytes = place + 2 * kMaxClusters;
};

template <typename T, int D>
class Builder {
  using S = Shared<D>;
  static constexpr int kPanel = S::kPanel, kPanels = S::kPanels, kPairs = kPanel / 64;

 public:
  __device__ Builder(const Problem& p, const IndexView& index, unsigned char* shared)
      : p_(p), index_(index), shared_(shared), segment_(static_cast<int>(blockIdx.x)),
        head_(static_cast<int>(blockIdx.y)), thread_(static_cast<int>(threadIdx.x)),
        lane_(thread_ % 32), warp_(thread_ / 32) {
    const SegmentInfo s = index.segment[segment_];
    batch_ = s.batch, first_key_ = s.k;
    skip_ = s.first != 0 ? min(index.sinks, kSegment) : 0;
    n_ = kSegment - skip_;
  }

  __device__ void build() {
    if (first_key_ < 0) return;
    prefetch(p_.v, p_.d_v, head_, segment_);
    prefetch_next();
    find_mean();
    seed();
    for (int it = 0; it < index_.iterations; ++it) {
      assign();
      sort();
      update();
    }
    assign();
    sort();
    group();
    write_tree();
    write_means(p_.k, p_.d, static_cast<T*>(index_.node_k), true);
    write_means(p_.v, p_.d_v, static_cast<T*>(index_.node_v), false);
  }

 private:
  template <typename U>
  __device__ U* at(int offset) const {
    return reinterpret_cast<U*>(shared_ + offset);
  }
  __device__ std::uint16_t& label(int i) const { return at<std::uint16_t>(S::label)[i]; }
  __device__ std::uint16_t& order(int i) const { return at<std::uint16_t>(S::order)[i]; }
  __device__ std::uint16_t& begin(int c) const { return at<std::uint16_t>(S::begin)[c]; }
  __device__ std::uint16_t& group_of(int c) const { return at<std::uint16_t>(S::group_of)[c]; }
  __device__ std::uint16_t& place(int c) const { return at<std::uint16_t>(S::place)[c]; }

  // Two neighbouring columns, 2 `pair` of the panel, of a staged row.
  __device__ std::uint32_t& x(int row, int pair) const {
    return *at<std::uint32_t>(S::x + static_cast<int>(swizzled(kSegment, row, pair / 4)) +
                              (pair % 4) * 4);
  }
  __device__ std::uint32_t& centroid(int from, int rows, int row, int pair) const {
    return *at<std::uint32_t>(from + static_cast<int>(swizzled(rows, row, pair / 4)) +
                              (pair % 4) * 4);
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

  // X <- the rows of a panel of columns.
  __device__ void stage(const View& from, int width, int panel) {
    __syncthreads();
    const std::uint32_t base = smem_address(shared_);
    for (int j = thread_; j < kSegment * (kPanel / 8); j += kThreads) {
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

  __device__ void find_mean() {
    if (kPanels == 1) stage(p_.k, p_.d, 0);
    for (int panel = 0; panel < kPanels; ++panel) {
      restage(panel);
      float* partial = at<float>(S::partial) + warp_ * kPanel;
      float2 sum[kPairs] = {};
#pragma unroll 8
      for (int i = skip_ + warp_; i < kSegment; i += kWarps)
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
        for (int w = 0; w < kWarps; ++w) sum += at<float>(S::partial)[w * kPanel + thread_];
        at<float>(S::mean)[panel * kPanel + thread_] = n_ > 0 ? sum / static_cast<float>(n_) : 0;
      }
    }
    __syncthreads();
  }

  // Evenly spaced keys; rows without a cluster are zero.
  __device__ void seed() {
    const int n_clusters = index_.clusters;
    for (int panel = 0; panel < kPanels; ++panel) {
      restage(panel);
      for (int c = warp_; c < kMaxClusters; c += kWarps) {
        const int i = skip_ + (n_clusters == 1 ? 0 : c * (n_ - 1) / (n_clusters - 1));
        for (int u = 0; u < kPairs; ++u) {
          const int pair = lane_ + 32 * u, column = panel * kPanel + 2 * pair;
          float2 v{0, 0};
          if (c < n_clusters && n_ > 0) {
            v = unpack<T>(x(i, pair));
            v.x -= at<float>(S::mean)[column], v.y -= at<float>(S::mean)[column + 1];
          }
          centroid(S::centroid, kMaxClusters, c, column / 2) = pack<T>(v.x, v.y);
        }
      }
    }
  }

  // bias[c] <- mean.c' + |c'|^2 / 2, infinite where there is no cluster.
  __device__ void set_bias(int from, int rows, int n, bool with_mean) {
    __syncthreads();
    for (int c = warp_; c < rows; c += kWarps) {
      float sum = 0;
      for (int pair = lane_; pair < D / 2; pair += 32) {
        const float2 v = unpack<T>(centroid(from, rows, c, pair));
        const float* mean = at<float>(S::mean) + 2 * pair;
        sum += 0.5f * (v.x * v.x + v.y * v.y);
        if (with_mean) sum += v.x * mean[0] + v.y * mean[1];
      }
      for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
      if (lane_ == 0) at<float>(S::bias)[c] = c < n ? sum : INFINITY;
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
          const float v = c[n][2 * r + j] - at<float>(S::bias)[column];
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
    std::uint16_t* histogram = at<std::uint16_t>(S::histogram);
    for (int i = thread_; i < kMaxClusters * kWarps; i += kThreads) histogram[i] = 0;
    __syncthreads();
    const int mine = label(thread_);
    const unsigned alike = __match_any_sync(~0u, mine);
    const int rank = __popc(alike & ((1u << lane_) - 1));
    if (mine != kNone && rank == 0)
      histogram[mine * kWarps + warp_] = static_cast<std::uint16_t>(__popc(alike));
    __syncthreads();
    // Exclusive sums over all entries, clusters first: two a thread.
    constexpr int kEach = kMaxClusters * kWarps / kThreads;
    static_assert(kEach == 2);
    const int first = histogram[2 * thread_], second = histogram[2 * thread_ + 1];
    const int before = scan(first + second);
    histogram[2 * thread_] = static_cast<std::uint16_t>(before);
    histogram[2 * thread_ + 1] = static_cast<std::uint16_t>(before + first);
    __syncthreads();
    if (mine != kNone)
      order(histogram[mine * kWarps + warp_] + rank) = static_cast<std::uint16_t>(thread_);
    if (thread_ <= kMaxClusters)
      begin(thread_) =
          static_cast<std::uint16_t>(thread_ < kMaxClusters ? histogram[thread_ * kWarps] : n_);
    __syncthreads();
  }

  // What the threads before this one have together.
  __device__ int scan(int x) {
    int until = x;
#pragma unroll
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, until, step);
      if (lane_ >= step) until += other;
    }
    int* sums = at<int>(S::bias);
    if (lane_ == 31) sums[warp_] = until;
    __syncthreads();
    int before = until - x;
#pragma unroll
    for (int w = 0; w < kWarps; ++w)
      if (w < warp_) before += sums[w];
    __syncthreads();
    return before;
  }

  // Centroids <- means of their members; those without keep their place.
  __device__ void update() {
    for (int panel = 0; panel < kPanels; ++panel) {
      restage(panel);
      for (int c = warp_; c < index_.clusters; c += kWarps) {
        const int from = begin(c), to = begin(c + 1);
        if (from == to) continue;
        const float inverse = 1.0f / static_cast<float>(to - from);
        float2 sum[kPairs];
        sum_rows(from, to, sum);
#pragma unroll
        for (int u = 0; u < kPairs; ++u) {
          const int column = panel * kPanel + 2 * pair_of(u);
          const float* mean = at<float>(S::mean) + column;
          centroid(S::centroid, kMaxClusters, c, column / 2) =
              pack<T>(sum[u].x * inverse - mean[0], sum[u].y * inverse - mean[1]);
        }
      }
    }
    __syncthreads();
  }

  // group_of and place: k-means over the centroids that have keys.
  __device__ void group() {
    std::uint16_t* full = at<std::uint16_t>(S::partial);  // clusters with keys, in order
    const bool mine = thread_ < index_.clusters && begin(thread_) != begin(thread_ + 1);
    const int at_full = scan(mine ? 1 : 0);
    if (mine) full[at_full] = static_cast<std::uint16_t>(thread_);
    if (thread_ < kMaxClusters) group_of(thread_) = 0;
    const int n_full = __syncthreads_count(mine ? 1 : 0);
    const int n_groups = min(index_.groups, n_full);
    for (int g = warp_; g < kMaxGroups; g += kWarps)
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
      for (int g = warp_; g < n_groups; g += kWarps) update_group(g);
    }
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
        group_of(i) = static_cast<std::uint16_t>(begin(i) != begin(i + 1) ? best[r] : 0);
      }
  }
  __device__ void update_group(int g) {
    unsigned in[kMaxClusters / 32];  // clusters of the group that have keys
    int n = 0;
#pragma unroll
    for (int half = 0; half < kMaxClusters / 32; ++half) {
      const int c = half * 32 + lane_;
      in[half] =
          __ballot_sync(~0u, c < index_.clusters && group_of(c) == g && begin(c) != begin(c + 1));
      n += __popc(in[half]);
    }
    if (n == 0) return;
    const float inverse = 1.0f / static_cast<float>(n);
    for (int pair = lane_; pair < D / 2; pair += 32) {
      float2 sum{0, 0};
#pragma unroll
      for (int half = 0; half < kMaxClusters / 32; ++half)
        for (unsigned left = in[half]; left != 0; left &= left - 1) {
          const int c = half * 32 + __ffs(static_cast<int>(left)) - 1;
          const float2 v = unpack<T>(centroid(S::centroid, kMaxClusters, c, pair));
          sum.x += v.x, sum.y += v.y;
        }
      centroid(S::group, kMaxGroups, g, pair) = pack<T>(sum.x * inverse, sum.y * inverse);
    }
  }

  // Counts, begins, children and members; `order` and `begin` <- the final order.
  __device__ void write_tree() {
    const std::int64_t s = index_.at(head_, segment_);
    std::uint16_t *count = index_.count + s * index_.nodes, *from = index_.begin + s * index_.nodes,
                  *child = index_.child + s * (index_.groups + 1),
                  *member = index_.member + s * kSegment;
    const int n_clusters = index_.clusters;
    std::uint16_t* size = at<std::uint16_t>(S::partial);  // by final number
    std::uint16_t* moved = size + kMaxClusters;           // first member by final number
    std::uint16_t* first = moved + kMaxClusters + 1;      // [groups + 1] first cluster
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
    for (int g = warp_; g <= index_.groups; g += kWarps) {
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
  __device__ void write_means(const View& from, int width, T* to, bool staged) {
    to += index_.at(head_, segment_) * index_.nodes * width;
    float2* sums = at<float2>(S::partial);
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
      for (int c = warp_; c < index_.clusters; c += kWarps) {
        float2 sum[kPairs];
        sum_rows(begin(c), begin(c + 1), sum);
        write(c, begin(c + 1) - begin(c), sum);
#pragma unroll
        for (int u = 0; u < kPairs; ++u) sums[c * (kPanel / 2) + pair_of(u)] = sum[u];
      }
      __syncthreads();
      for (int g = warp_; g < index_.groups; g += kWarps) {
        float2 sum[kPairs] = {};
        add_up(group_of(g), group_of(g + 1), sum);
        write(index_.clusters + g, begin(group_of(g + 1)) - begin(group_of(g)), sum);
      }
      if (warp_ == kWarps - 1) {
        float2 sum[kPairs] = {};
        add_up(0, index_.clusters, sum);
        write(index_.nodes - 1, n_, sum);
      }
      __syncthreads();
    }
  }
  const Problem& p_;
  const IndexView& index_;
  unsigned char* shared_;
  int segment_, head_, thread_, lane_, warp_, batch_ = 0, first_key_ = 0, skip_ = 0, n_ = 0;
};

template <typename T, int D>
__global__ __launch_bounds__(kThreads,
                             Shared<D>::kShared) void index_kernel(const Problem p,
                                                                   const IndexView index) {
  extern __shared__ __align__(1024) unsigned char shared[];
  Builder<T, D>(p, index, shared).build();
}

template <typename T, int D>
void launch(const Problem& p, const IndexView& index, cudaStream_t stream) {
  allow_shared(index_kernel<T, D>, Shared<D>::bytes, "index");
  const dim3 grid(static_cast<unsigned>(index.segments), static_cast<unsigned>(p.h_kv));
  index_kernel<T, D><<<grid, kThreads, Shared<D>::bytes, stream>>>(p, index);
  check_launch("index", "index_kernel");
}

}  // namespace

template <typename T>
void build_index(const Problem& p, const IndexView& index, cudaStream_t stream) {
  if (index.segments == 0) return;
  const int d = max(p.d, p.d_v);
  if (d <= 64)
    launch<T, 64>(p, index, stream);
  else if (d <= 128)
    launch<T, 128>(p, index, stream);
  else
    launch<T, 256>(p, index, stream);
}

template void build_index<bf16>(const Problem&, const IndexView&, cudaStream_t);
template void build_index<f16>(const Problem&, const IndexView&, cudaStream_t);

}  // namespace prescore::cuda
