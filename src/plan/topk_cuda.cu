// Top-k by query-independent scores, one block a tile and list: a radix search for the score of the
// last key that is read, then the keys in the order of their positions.
#include "plan/select.cuh"

namespace prescore::cuda {
namespace {

constexpr int kThreads = kSelectThreads;

// list <- what is taken of the keys [first, last); a warp has a run of them, which it passes twice.
__device__ int list_keys(SelectScratch& s, const float* score, int first, int last, Last until,
                         std::int32_t* list) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int run = ((last - first + kThreads - 1) / kThreads) * 32;
  const int begin = min(first + warp * run, last), end = min(begin + run, last);
  int above = 0, equal = 0, all = 0;
  for (int j = begin + lane; j < end; j += 32) {
    const std::uint32_t c = score_order(score[j]);
    above += c > until.code ? 1 : 0, equal += c == until.code ? 1 : 0;
  }
  for (int step = 16; step > 0; step /= 2) {
    above += __shfl_xor_sync(~0u, above, step);
    equal += __shfl_xor_sync(~0u, equal, step);
  }
  const int ties_before = scan_block(s, lane == 0 ? equal : 0, all);
  int tied = __shfl_sync(~0u, ties_before, 0);  // before this warp
  const int mine = above + max(0, min(equal, until.ties - tied));
  const int before = scan_block(s, lane == 0 ? mine : 0, all);
  int at = __shfl_sync(~0u, before, 0);
  for (int j0 = begin; j0 < end; j0 += 32) {
    const int j = j0 + lane;
    const std::uint32_t c = j < end ? score_order(score[j]) : 0u;
    const bool tie = j < end && c == until.code;
    const unsigned ties = __ballot_sync(~0u, tie), lower = (1u << lane) - 1;
    const bool in =
        j < end && (c > until.code || (tie && tied + __popc(ties & lower) < until.ties));
    const unsigned ins = __ballot_sync(~0u, in);
    if (in) list[at + __popc(ins & lower)] = j;
    at += __popc(ins), tied += __popc(ties);
  }
  return all;
}

__global__ __launch_bounds__(kThreads) void topk_kernel(const Problem p, const PlanView plan,
                                                        const LayoutRule rule,
                                                        const float* scores) {
  __shared__ SelectScratch scratch;
  const int t = static_cast<int>(blockIdx.x), list = static_cast<int>(blockIdx.y);
  const TileInfo tile = plan.tile[t];
  const std::int64_t at = plan.at(list, t);
  Reads r{};
  if (tile.rows > 0) {
    // Not causal: every key is far.
    const Layout x =
        make_layout(p.causal, tile.end(p, 0), tile.end(p, tile.rows - 1), rule,
                    p.causal ? kSegment : 1, p.causal ? tile.segments * kSegment : tile.n_kv);
    r.window = static_cast<int>(x.window), r.end = static_cast<int>(x.end);
    r.sinks = static_cast<int>(x.sinks);
    const int last = static_cast<int>(x.local), far = static_cast<int>(x.far);
    if (!x.all() && far > 0 && last > r.sinks) {
      const int kv = p.kv_head(plan.head(list));
      const float* score = scores + (std::int64_t{tile.batch} * p.h_kv + kv) * p.n_kv + tile.k;
      r.keys =
          list_keys(scratch, score, r.sinks, last, find_last(scratch, score, r.sinks, last, far),
                    plan.list + plan.entries(list, t));
    }
  }
  if (threadIdx.x == 0) plan.reads[at] = r;
}

}  // namespace

void plan_topk(const Problem& p, const PlanView& plan, const LayoutRule& rule, const float* scores,
               cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(plan.tiles), static_cast<unsigned>(plan.lists));
  topk_kernel<<<grid, kThreads, 0, stream>>>(p, plan, rule, scores);
  check_launch("plan", "topk_kernel");
}

}  // namespace prescore::cuda
