// Second half of routing, one block a tile and head: opens the best groups, scores their clusters,
// chooses clusters within the far budget, lists their keys and what stands in for the others.
#include "plan/route.cuh"
#include "plan/route_kernels.cuh"
#include "plan/select.cuh"

namespace prescore::cuda {
namespace {

constexpr int kThreads = kSelectThreads, kWarps = kThreads / 32, kRows = 16;

// Shared memory: two blocks of 16 rows a warp, then clusters and codes of the opened groups.
template <int D>
struct Shared {
  static constexpr int rows = kRows * D * 2;
  static constexpr int stage(int warp, int s) { return (2 * warp + s) * rows; }
  static constexpr int query = kWarps * 2 * rows;
  static constexpr int total = query + kRouting * D * 2;  // far, all
  static constexpr int select = total + kRouting * 8;
  static constexpr int nodes = select + static_cast<int>(sizeof(SelectScratch));
  static constexpr int cluster = nodes + kMaxNodes * 4;
  static constexpr int bytes(int clusters) { return cluster + clusters * 8; }
};

template <typename T, int D>
class Chooser {
  using S = Shared<D>;

 public:
  __device__ Chooser(const Problem& p, const PlanView& plan, const IndexView& index,
                     const Route& route, unsigned char* shared)
      : p_(p), index_(index), route_(route), shared_(shared), base_(smem_address(shared)),
        thread_(static_cast<int>(threadIdx.x)), lane_(thread_ % 32), warp_(thread_ / 32),
        t_(static_cast<int>(blockIdx.x)), h_local_(static_cast<int>(blockIdx.y)),
        head_(plan.first_head + h_local_), kv_(p.kv_head(head_)), at_(plan.at(h_local_, t_)),
        tile_(plan.tile[t_]), reads_(plan.reads + at_), list_(plan.list + at_ * plan.capacity),
        cluster_(reinterpret_cast<std::int32_t*>(shared + S::cluster)),
        code_(reinterpret_cast<std::uint32_t*>(cluster_ + route.clusters)),
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
    if (thread_ == 0) *reads_ = r;
  }

 private:
  __device__ void choose(int segments, int far, Reads& r) {
    const int groups = segments * index_.groups;
    const int opened = route_.open_groups > 0 ? max(route_.open_groups, far) : 4 * far;
    int nodes = 0;
    const int clusters = open_groups(groups, opened, nodes);
    if (clusters > 0) score(clusters);
    r.keys = list_clusters(clusters, far, nodes);
    for (int i = thread_; i < nodes; i += kThreads) list_[r.keys + i] = ~node_[i];
    r.nodes = nodes;
  }

  __device__ std::int64_t node_of(std::int32_t node) const {  // in the index
    return index_.at(kv_, tile_.segment) * index_.nodes + node;
  }
  __device__ std::int32_t group_node(int j) const {  // number j of the tile's far groups
    const int seg = j / index_.groups;
    return seg * index_.nodes + index_.clusters + (j - seg * index_.groups);
  }

  // cluster_ <- the clusters of the best groups; node_ <- those of the others that stand in.
  __device__ int open_groups(int groups, int limit, int& nodes) {
    const std::uint32_t* code = route_.rank + at_ * route_.groups;
    const auto get = [&](int j) { return code[j]; };
    const auto keys = [&](int j) { return int{index_.count[node_of(group_node(j))]}; };
    const Threshold th = find_threshold(scratch_, groups, limit, get, keys);
    int clusters = 0;
    select(
        scratch_, groups, th, get, keys, route_.worth,
        [&](int j) {  // children
          const int seg = j / index_.groups, g = j - seg * index_.groups;
          const std::uint16_t* child =
              index_.child + index_.at(kv_, tile_.segment + seg) * (index_.groups + 1) + g;
          return int2{seg * index_.nodes + child[0], child[1] - child[0]};
        },
        [&](int2 children, int to) {
          for (int i = 0; i < children.y; ++i)
            if (to + i < route_.clusters) cluster_[to + i] = children.x + i;
        },
        [&](int j, int to) {
          if (to < kMaxNodes) node_[to] = group_node(j);
        },
        clusters, nodes);
    nodes = min(nodes, kMaxNodes);
    __syncthreads();
    return min(clusters, route_.clusters);
  }

  __device__ void load_rows(int first, int n, int stage) {
    const std::uint32_t to = base_ + S::stage(warp_, stage);
    const int i = lane_ / 2;
    const bool valid = first + i < n;
    const T* from =
        static_cast<const T*>(index_.node_k) + node_of(valid ? cluster_[first + i] : 0) * p_.d;
#pragma unroll
    for (int c = lane_ % 2; c < D / 8; c += 2)
      copy16(to + swizzled(kRows, i, c), from + (8 * c < p_.d ? 8 * c : 0), valid && 8 * c < p_.d);
    commit();
  }

  // code_ <- of the clusters; each warp takes every fourth block of 16.
  __device__ void score(int n) {
    for (int j = thread_; j < kRouting * (D / 8); j += kThreads) {
      const int i = j / (D / 8), c = j % (D / 8), r = routing_row(tile_.rows, p_.tile, i);
      copy16(base_ + S::query + swizzled(kRouting, i, c),
             row<T>(p_.q, tile_.batch, head_, tile_.q + max(r, 0)) + (8 * c < p_.d ? 8 * c : 0),
             r >= 0 && 8 * c < p_.d);
    }
    float2* total = reinterpret_cast<float2*>(shared_ + S::total);
    if (thread_ < kRouting) total[thread_] = route_.total[at_ * kRouting + thread_];
    commit();
    wait<0>();
    __syncthreads();
    Queries<1, D> q;
    load_queries<1, D>(q, base_ + S::query, kRouting, 0, lane_);
    PerColumn<1> far, all;
#pragma unroll
    for (int m = 0; m < kColumns; ++m)
#pragma unroll
      for (int j = 0; j < 2; ++j) {
        const float2 t = total[8 * m + 2 * (lane_ % 4) + j];
        far[m][j] = t.x, all[m][j] = t.y;
      }
    const float each = 1.0f / static_cast<float>(routing_rows(tile_.rows, p_.tile));
    load_rows(warp_ * kRows, n, 0);
    for (int first = warp_ * kRows, b = 0; first < n; first += kWarps * kRows, ++b) {
      load_rows(first + kWarps * kRows, n, (b + 1) % 2);
      wait<1>();
      __syncwarp();
      Products<1> c = {};
#pragma unroll
      for (int k = 0; k < D / 16; ++k) {
        std::uint32_t a[4];
        load_a(a, base_ + S::stage(warp_, b % 2), kRows, 0, k, lane_);
        add_products<T, 1>(c, a, q[k]);
      }
      float w[2], rank[2], share[2];
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        const int i = first + lane_ / 4 + 8 * r;
        w[r] = i < n ? log2f(static_cast<float>(index_.count[node_of(cluster_[i])])) : -INFINITY;
      }
      judge<1>(c, 0, p_.scale, w, far, all, rank, share);
      if (lane_ % 4 == 0)
#pragma unroll
        for (int r = 0; r < 2; ++r) {
          const int i = first + lane_ / 4 + 8 * r;
          if (i < n) code_[i] = Code::make(rank[r], share[r] * each, w[r] > -INFINITY);
        }
      __syncwarp();
    }
    wait<0>();
    __syncthreads();
  }

  // list_ <- the keys of the best clusters; node_ goes on with those that stand in.
  __device__ int list_clusters(int n, int far, int& nodes) {
    const auto get = [&](int j) { return code_[j]; };
    const auto keys = [&](int j) { return int{index_.count[node_of(cluster_[j])]}; };
    const Threshold th = find_threshold(scratch_, n, far, get, keys);
    int listed = 0, more = 0;
    const int before = nodes;
    select(
        scratch_, n, th, get, keys, route_.worth,
        [&](int j) {
          return int2{j, keys(j)};
        },
        [&](int2 cluster, int to) {
          const int node = cluster_[cluster.x], seg = node / index_.nodes;
          const std::uint16_t* member = index_.member +
                                        index_.at(kv_, tile_.segment + seg) * kSegment +
                                        index_.begin[node_of(node)];
          for (int i = 0; i < cluster.y; ++i) list_[to + i] = seg * kSegment + member[i];
        },
        [&](int j, int to) {
          if (before + to < kMaxNodes) node_[before + to] = cluster_[j];
        },
        listed, more);
    nodes = min(before + more, kMaxNodes);
    __syncthreads();
    return listed;
  }

  const Problem& p_;
  const IndexView& index_;
  const Route& route_;
  unsigned char* shared_;
  std::uint32_t base_;
  int thread_, lane_, warp_, t_, h_local_, head_, kv_;
  std::int64_t at_;
  TileInfo tile_;
  Reads* reads_;
  std::int32_t* list_;
  std::int32_t* cluster_;
  std::uint32_t* code_;
  std::int32_t* node_;
  SelectScratch& scratch_;
};

template <typename T, int D>
__global__ __launch_bounds__(kThreads) void choose_kernel(const Problem p, const PlanView plan,
                                                          const IndexView index,
                                                          const Route route) {
  extern __shared__ __align__(1024) unsigned char shared[];
  Chooser<T, D>(p, plan, index, route, shared).run();
}

}  // namespace

template <typename T, int D>
void choose_clusters(const Problem& p, const PlanView& plan, const IndexView& index,
                     const Route& route, cudaStream_t stream) {
  const int bytes = Shared<D>::bytes(route.clusters);
  allow_shared(choose_kernel<T, D>, bytes, "plan");
  const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(plan.heads));
  choose_kernel<T, D>
      <<<grid, kThreads, static_cast<std::size_t>(bytes), stream>>>(p, plan, index, route);
  check_launch("plan", "choose_kernel");
}

PRESCORE_FOR_ALL_SIZES(choose_clusters)

template <typename T>
void plan_routed(const Problem& p, const PlanView& plan, const IndexView& index, const Route& route,
                 cudaStream_t stream) {
  const auto both = [&]<int D>() {
    if (route.groups > 0) score_groups<T, D>(p, plan, index, route, stream);
    choose_clusters<T, D>(p, plan, index, route, stream);
  };
  if (p.d <= 64)
    both.template operator()<64>();
  else if (p.d <= 128)
    both.template operator()<128>();
  else
    both.template operator()<256>();
}

template void plan_routed<bf16>(const Problem&, const PlanView&, const IndexView&, const Route&,
                                cudaStream_t);
template void plan_routed<f16>(const Problem&, const PlanView&, const IndexView&, const Route&,
                               cudaStream_t);

}  // namespace prescore::cuda
