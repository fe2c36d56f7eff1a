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
// Tiles begin at positions that are multiples of their size.
__device__ int floor_divide(int position, int size) {
  return position >= 0 ? position / size : -((size - 1 - position) / size);
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
    const int first = floor_divide(position, p.tile);
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

void plan_ranges(const Problem& p, const PlanView& plan, const LayoutRule& rule, bool dense,
                 cudaStream_t stream) {
  plan_ranges<<<(plan.tiles + 127) / 128, 128, 0, stream>>>(p, plan, rule, dense);
  check_launch("plan", "plan_ranges");
}

}  // namespace prescore::cuda
