// Cuts sequences into tiles and segments on the device, so that lengths there need not be known
// on the host, and writes the plans that depend on positions alone.
#include "plan/plan_cuda.cuh"

namespace prescore::cuda {
namespace {

struct Sequence {
  int q, n_q, k, n_kv;
};
__device__ Sequence sequence(const Problem& p, int i) {
  if (p.cu_q == nullptr) return {0, p.n_q, 0, p.n_kv};
  return {p.cu_q[i], p.cu_q[i + 1] - p.cu_q[i], p.cu_k[i], p.cu_k[i + 1] - p.cu_k[i]};
}

// One block. Tables are filled sequence by sequence; what is left of them has no rows.
__global__ void make_tables(Problem p, TileInfo* tile, int tiles, SegmentInfo* segment,
                            int segments) {
  int tile_at = 0, segment_at = 0;
  for (int i = 0; i < p.sequences; ++i) {
    const Sequence s = sequence(p, i);
    const int batch = p.cu_q == nullptr ? i : 0;
    const int complete = s.n_kv > 0 ? s.n_kv / kSegment : 0;
    const int position = p.causal ? s.n_kv - s.n_q : 0;  // of the first query
    const int first = floor_divide(position, p.tile);    // tiles begin at multiples of their size
    const int n = s.n_q > 0 ? floor_divide(position + s.n_q - 1, p.tile) - first + 1 : 0;
    for (int j = static_cast<int>(threadIdx.x); j < n && tile_at + j < tiles;
         j += static_cast<int>(blockDim.x)) {
      // Longest first: the last tiles see most keys.
      const int from = max((first + n - 1 - j) * p.tile - position, 0);
      const int to = min((first + n - j) * p.tile - position, s.n_q);
      tile[tile_at + j] = {batch, s.q + from, to - from,  p.causal ? position + from + 1 : 0,
                           s.k,   s.n_kv,     segment_at, complete};
    }
    for (int j = static_cast<int>(threadIdx.x); j < complete && segment_at + j < segments;
         j += static_cast<int>(blockDim.x))
      segment[segment_at + j] = {batch, s.k + j * kSegment, j == 0};
    tile_at += n, segment_at += complete;
  }
  for (int j = tile_at + static_cast<int>(threadIdx.x); j < tiles;
       j += static_cast<int>(blockDim.x))
    tile[j] = {};
  for (int j = segment_at + static_cast<int>(threadIdx.x); j < segments;
       j += static_cast<int>(blockDim.x))
    segment[j] = {0, -1, 0};
}

// Tables come as arguments, so that a call only enqueues: a run of lists and their heads.
struct ListsArgument {
  static constexpr int kLists = 64, kHeads = 256;
  int first_list, lists, first_unit, units;
  ListInfo list[kLists];
  std::uint16_t head_of[kHeads], list_of[kHeads];
};
__global__ void put_lists(const __grid_constant__ ListsArgument a, ListInfo* list,
                          std::int32_t* head_of, std::int32_t* list_of) {
  for (int i = static_cast<int>(threadIdx.x); i < a.lists; i += static_cast<int>(blockDim.x))
    list[a.first_list + i] = a.list[i];
  for (int i = static_cast<int>(threadIdx.x); i < a.units; i += static_cast<int>(blockDim.x))
    head_of[a.first_unit + i] = a.head_of[i], list_of[a.first_unit + i] = a.list_of[i];
}

// Dense and window: no list.
__global__ void plan_ranges(Problem p, PlanView plan, LayoutRule rule, bool dense) {
  const int t = static_cast<int>(blockIdx.x * blockDim.x + threadIdx.x);
  if (t >= plan.tiles) return;
  const TileInfo tile = plan.tile[t];
  Reads r{};
  if (tile.rows > 0) {
    const int end = tile.end(p, tile.rows - 1);
    r.end = end;
    if (!dense) {
      const Layout x = window_layout(end, rule);
      r.window = static_cast<int>(x.window), r.sinks = static_cast<int>(x.sinks);
    }
  }
  for (int i = 0; i < plan.lists; ++i) plan.reads[plan.at(i, t)] = r;
}

}  // namespace

void make_tables(const Problem& p, TileInfo* tile, int tiles, SegmentInfo* segment, int segments,
                 cudaStream_t stream) {
  make_tables<<<1, 256, 0, stream>>>(p, tile, tiles, segment, segments);
  check_launch("plan", "make_tables");
}

void put_lists(const ListTable& table, const std::vector<ListInfo>& lists,
               const std::vector<std::int32_t>& head_of, cudaStream_t stream) {
  // Runs of lists, and runs of the heads, whose lists are found on the way.
  ListsArgument a{};
  std::size_t list = 0, unit = 0, of = 0;
  while (list < lists.size() || unit < head_of.size()) {
    a.first_list = static_cast<int>(list), a.first_unit = static_cast<int>(unit);
    for (a.lists = 0; list < lists.size() && a.lists < ListsArgument::kLists; ++list)
      a.list[a.lists++] = lists[list];
    for (a.units = 0; unit < head_of.size() && a.units < ListsArgument::kHeads; ++unit) {
      while (static_cast<int>(unit) >= lists[of].unit + lists[of].heads) ++of;
      a.head_of[a.units] = static_cast<std::uint16_t>(head_of[unit]);
      a.list_of[a.units++] = static_cast<std::uint16_t>(of);
    }
    put_lists<<<1, 64, 0, stream>>>(a, const_cast<ListInfo*>(table.list),
                                    const_cast<std::int32_t*>(table.head_of),
                                    const_cast<std::int32_t*>(table.list_of));
    check_launch("plan", "put_lists");
  }
}

void plan_ranges(const Problem& p, const PlanView& plan, const LayoutRule& rule, bool dense,
                 cudaStream_t stream) {
  plan_ranges<<<(plan.tiles + 127) / 128, 128, 0, stream>>>(p, plan, rule, dense);
  check_launch("plan", "plan_ranges");
}

}  // namespace prescore::cuda
