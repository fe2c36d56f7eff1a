// Second half of routing, one block a tile and list: opens the best groups, scores their clusters,
// chooses clusters within the far budget, lists their keys and what stands in for the others.
#include <algorithm>

#include "plan/route.cuh"
#include "plan/route_kernels.cuh"
#include "plan/select.cuh"

namespace prescore::cuda {
namespace {

constexpr int kThreads = kSelectThreads, kWarps = kThreads / 32, kRows = 16;

// Shared memory: queries, then what is known of the clusters of the opened groups; the codes of
// groups, if they are not too many, where later those of clusters are.
template <int D, int kMine>
struct Shared {
  static constexpr int total = StagedQueries<D>::bytes(kMine);
  static constexpr int select = total + kMine * 4;
  static constexpr int place = select + static_cast<int>(sizeof(SelectScratch));
  static constexpr int from = place + (kThreads + 1) * 4;
  static constexpr int nodes = from + kThreads * 4;
  static constexpr int cluster = nodes + kMaxNodes * 4;
  static constexpr int kMostGroups = 4096;
  static __host__ __device__ int codes(const Route& r) {
    return r.groups <= kMostGroups && r.groups > r.clusters ? r.groups : r.clusters;
  }
  static int most_clusters(int bytes) { return (bytes - cluster) / (3 * 4); }  // with their codes
  static int bytes(const Route& r) { return cluster + (2 * r.clusters + codes(r)) * 4; }
};

template <typename T, int D, int kMine>
class Chooser {
  using S = Shared<D, kMine>;
  static constexpr int kBlocks = kMine / 16;
  static constexpr bool kHeld = kBlocks * D <= 128;  // queries in registers

 public:
  __device__ Chooser(const Problem& p, const PlanView& plan, const IndexView& index,
                     const Route& route, unsigned char* shared)
      : p_(p), plan_(plan), index_(index), route_(route), queries_{shared},
        thread_(static_cast<int>(threadIdx.x)), lane_(thread_ % 32), warp_(thread_ / 32),
        t_(static_cast<int>(blockIdx.x)), list_number_(static_cast<int>(blockIdx.y)),
        kv_(p.kv_head(plan.head(list_number_))), at_(plan.at(list_number_, t_)),
        tile_(plan.tile[t_]), list_(plan.list + plan.entries(list_number_, t_)),
        cluster_(reinterpret_cast<std::int32_t*>(shared + S::cluster)),
        taken_(cluster_ + route.clusters),
        code_(reinterpret_cast<std::uint32_t*>(taken_ + route.clusters)),
        place_(reinterpret_cast<std::int32_t*>(shared + S::place)),
        from_(reinterpret_cast<std::int32_t*>(shared + S::from)),
        node_(reinterpret_cast<std::int32_t*>(shared + S::nodes)),
        scratch_(*reinterpret_cast<SelectScratch*>(shared + S::select)) {}

  __device__ void run() {
    Reads r{};
    if (tile_.rows > 0) {
      const Layout x = layout_of(p_, tile_, route_.rule);
      r.window = static_cast<int>(x.window), r.end = static_cast<int>(x.end);
      r.sinks = static_cast<int>(x.sinks);
      if (!x.all()) choose(static_cast<int>(x.local) / kSegment, static_cast<int>(x.far), r);
    }
    if (thread_ == 0) plan_.reads[at_] = r;
  }

 private:
  __device__ void choose(int segments, int far, Reads& r) {
    const int opened = route_.open_groups > 0 ? max(route_.open_groups, far) : 4 * far;
    const int clusters = open_groups(segments * index_.groups, opened, r.nodes);
    if (clusters > 0) score(clusters);
    r.keys = list_clusters(clusters, far, r.nodes);
    for (int i = thread_; i < r.nodes; i += kThreads) list_[r.keys + i] = ~node_[i];
  }

  __device__ std::int64_t node_of(std::int32_t node) const {  // in the index
    return index_.at(kv_, tile_.segment) * index_.nodes + node;
  }

  // cluster_ <- the clusters of the best groups; node_ <- those of the others that stand in. Where
  // they are more than there is room for, fewer groups are opened.
  __device__ int open_groups(int groups, int limit, int& nodes) {
    const std::uint32_t* code = route_.code + at_ * route_.groups;
    if (groups <= S::codes(route_)) {
      each_code(code, 0, groups, kThreads, thread_, [&](int i, std::uint32_t c) {
        if (i < groups) code_[i] = c;
      });
      code = code_;
    }
    for (;; limit -= (limit + 3) / 4) {
      const int taken = take_groups(code, groups, limit, nodes);
      if (taken > route_.clusters) continue;  // a group has a cluster or more
      if (const int clusters = clusters_of(taken); clusters <= route_.clusters) return clusters;
    }
  }
  // taken_ <- the best groups; node_ <- those of the others that stand in.
  __device__ int take_groups(const std::uint32_t* code, int groups, int limit, int& nodes) {
    const Threshold th = find_threshold(scratch_, code, groups, limit);
    int taken = 0;
    select(
        scratch_, code, groups, th, route_.worth,
        [&](int j, int to) {
          if (to < route_.clusters) taken_[to] = j;
        },
        [&](int j, int to) {
          if (to < kMaxNodes)
            node_[to] = j / index_.groups * index_.nodes + index_.clusters + j % index_.groups;
        },
        taken, nodes);
    nodes = min(nodes, kMaxNodes);
    return taken;
  }
  // cluster_ <- those of the first `taken` groups of taken_.
  __device__ int clusters_of(int taken) {
    int clusters = 0;
    for (int first = 0; first < taken; first += kThreads) {
      int at = 0, n = 0, all = 0;
      if (first + thread_ < taken) {
        const int j = taken_[first + thread_], seg = j / index_.groups;
        const std::uint16_t* child = index_.child +
                                     index_.at(kv_, tile_.segment + seg) * (index_.groups + 1) +
                                     (j - seg * index_.groups);
        n = child[1] - child[0], at = seg * index_.nodes + child[0];
      }
      const int to = clusters + scan_block(scratch_, n, all);
      for (int i = 0; i < n && to + i < route_.clusters; ++i) cluster_[to + i] = at + i;
      clusters += all;
    }
    __syncthreads();
    return clusters;
  }

  // code_ <- of the clusters; each warp takes every fourth 16 of them. The rows of a step are on
  // their way while the step before is judged.
  __device__ void score(int n) {
    const RoutingQueries routing(p_, plan_, tile_, list_number_, kMine);
    const float* total = route_.total + at_ * kMine;
    queries_.template stage<T>(kMine, p_.d, [&](int i) {  // without a total it has no say
      return total[i] < INFINITY ? routing.query<T>(p_, plan_, tile_, list_number_, i) : nullptr;
    });
    __syncthreads();
    PerQuery<kBlocks> all;
    uint4 held[kHeld ? D / 16 : 1];
#pragma unroll
    for (int m = 0; m < kBlocks; ++m)
      for (int r = 0; r < 2; ++r) all[m][r] = total[16 * m + 8 * r + lane_ / 4];
    if (kHeld)
#pragma unroll
      for (int k = 0; k < D / 16; ++k) held[k] = queries_.fragment(0, k, lane_);
    const float mean = log2f(static_cast<float>(routing.columns));
    const std::int64_t nodes = index_.at(kv_, tile_.segment) * index_.nodes;
    const T* node_k = static_cast<const T*>(index_.node_k) + nodes * p_.d;
    const std::uint16_t* count = index_.count + nodes;
    const int r = row_of_sum(lane_);
    RowPair<D> rows;
    int keys = 0;
    const auto load = [&](int first) {
      const auto node = [&](int i) { return cluster_[min(first + i, n - 1)]; };
      rows.load(node_k + node(lane_ / 4) * p_.d, node_k + node(lane_ / 4 + 8) * p_.d, p_.d, lane_);
      keys = __ldg(count + node(r));
    };
    const int begin = warp_ * kRows;
    if (begin < n) load(begin);
    for (int first = begin; first < n; first += kWarps * kRows) {
      Products<kBlocks> c = {};
      add_products<T, D, kBlocks>(
          c, rows, [&](int m, int k) { return kHeld ? held[k] : queries_.fragment(m, k, lane_); });
      const int mine = keys;
      if (first + kWarps * kRows < n) load(first + kWarps * kRows);
      Shares share = {};
      add_shares<kBlocks>(share, c, 0, p_.scale, all);
      const float sum = sum_queries(share, lane_);
      if (lane_ < 16 && first + r < n) code_[first + r] = Code::make(fast_log2(sum) - mean, mine);
    }
    __syncthreads();
  }

  // list_ <- the keys of the best clusters; node_ goes on with those that stand in.
  __device__ int list_clusters(int n, int far, int& nodes) {
    const Threshold th = find_threshold(scratch_, code_, n, far);
    int taken = 0, more = 0;
    const int before = nodes;
    select(
        scratch_, code_, n, th, route_.worth, [&](int j, int to) { taken_[to] = j; },
        [&](int j, int to) {
          if (before + to < kMaxNodes) node_[before + to] = cluster_[j];
        },
        taken, more);
    nodes = min(before + more, kMaxNodes);
    int listed = 0;
    for (int first = 0; first < taken; first += kThreads) {
      const int here = min(taken - first, kThreads);
      int keys = 0, from = 0, all = 0;
      if (thread_ < here) {
        const int j = taken_[first + thread_], node = cluster_[j];
        keys = Code::keys(code_[j]);
        from = node / index_.nodes * kSegment + index_.begin[node_of(node)];
      }
      place_[thread_] = listed + scan_block(scratch_, keys, all);
      from_[thread_] = from;
      listed += all;
      if (thread_ == 0) place_[kThreads] = listed;
      __syncthreads();
      copy_members(here);
    }
    __syncthreads();
    return listed;
  }
  // The keys of the first n clusters at from_ to place_, a cluster by eight threads.
  __device__ void copy_members(int n) {
    const std::uint16_t* member = index_.member + index_.at(kv_, tile_.segment) * kSegment;
#pragma unroll 4
    for (int i = thread_ / 8; i < n; i += kThreads / 8) {
      const int from = from_[i], to = place_[i], keys = place_[i + 1] - to;
      for (int k = thread_ % 8; k < keys; k += 8)
        list_[to + k] = from / kSegment * kSegment + member[from + k];
    }
  }

  const Problem& p_;
  const PlanView& plan_;
  const IndexView& index_;
  const Route& route_;
  StagedQueries<D> queries_;
  int thread_, lane_, warp_, t_, list_number_, kv_;
  std::int64_t at_;
  TileInfo tile_;
  std::int32_t* list_;
  std::int32_t *cluster_, *taken_;
  std::uint32_t* code_;
  std::int32_t *place_, *from_, *node_;
  SelectScratch& scratch_;
};

template <typename T, int D, int kMine>
__global__ __launch_bounds__(kThreads) void choose_kernel(const Problem p, const PlanView plan,
                                                          const IndexView index,
                                                          const Route route) {
  extern __shared__ __align__(1024) unsigned char shared[];
  Chooser<T, D, kMine>(p, plan, index, route, shared).run();
}

}  // namespace

template <typename T, int D, int kMine>
void choose_clusters(const Problem& p, const PlanView& plan, const IndexView& index,
                     const Route& route, cudaStream_t stream) {
  using S = Shared<D, kMine>;
  Route fits = route;
  fits.clusters = std::min(route.clusters, S::most_clusters(most_shared("plan")));
  const int bytes = S::bytes(fits);
  allow_shared(choose_kernel<T, D, kMine>, bytes, "plan");
  const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(plan.lists));
  choose_kernel<T, D, kMine>
      <<<grid, kThreads, static_cast<std::size_t>(bytes), stream>>>(p, plan, index, fits);
  check_launch("plan", "choose_kernel");
}

PRESCORE_FOR_ALL_SIZES(choose_clusters)

template <typename T>
void plan_routed(const Problem& p, const PlanView& plan, const IndexView& index, const Route& route,
                 cudaStream_t stream) {
  const bool hopper = on_hopper("plan");
  const auto groups = [&]<int D, int kMine>() {
    // Small heads that choose together have too few products a group to gain.
    if constexpr (D == 128 || (D == 64 && kMine == kFewColumns))
      if (hopper) return score_groups_hopper<T, D, kMine>(p, plan, index, route, stream);
    score_groups<T, D, kMine>(p, plan, index, route, stream);
  };
  const auto both = [&]<int D, int kMine>() {
    if (route.groups > 0) groups.template operator()<D, kMine>();
    choose_clusters<T, D, kMine>(p, plan, index, route, stream);
  };
  const auto sized = [&]<int D>() {
    if (route.columns == kFewColumns)
      both.template operator()<D, kFewColumns>();
    else
      both.template operator()<D, kManyColumns>();
  };
  if (p.d <= 64)
    sized.template operator()<64>();
  else if (p.d <= 128)
    sized.template operator()<128>();
  else
    sized.template operator()<256>();
}

template void plan_routed<bf16>(const Problem&, const PlanView&, const IndexView&, const Route&,
                                cudaStream_t);
template void plan_routed<f16>(const Problem&, const PlanView&, const IndexView&, const Route&,
                               cudaStream_t);

}  // namespace prescore::cuda
