// Upper bounds of the memory that a call holds.
#include <algorithm>
#include <vector>

#include "attend/certificate.h"
#include "attend/tile_runner.h"
#include "common/cuda.h"
#include "common/isa.h"
#include "plan/candidates.h"
#include "plan/hyper_sizes.h"
#include "plan/planners.h"
#include "prescore/attention.h"
#include "score/scorer.h"
#include "tile/tile.h"

namespace prescore {
namespace {

// Sizes of one call, and what each part of it takes.
class Sizes {
 public:
  Sizes(const Tensor& q, const Tensor& k, const Tensor& v, const Options& options)
      : q_(q), k_(k), v_(v), options_(options), group_(q.shape[1] / k.shape[1]),
        heads_(k.shape[0] * k.shape[1]), d_(q.shape[3]), d_v_(v.shape[3]), n_(k.shape[2]) {}

  std::int64_t index() const {
    const KeyIndex shape(options_.index);
    const IndexOptions& i = options_.index;
    const std::int64_t row = d_ * size_of(k_.dtype) + d_v_ * size_of(v_.dtype);
    const std::int64_t segment = shape.nodes_per_segment() * (row + 4) + 2 * i.segment + 16 +
                                 2 * (shape.nodes_per_segment(1) + 1) +
                                 (i.packed ? i.segment * row : 0);
    return heads_ * (n_ / i.segment) * segment;
  }

  // The levels, the best keys at each boundary, and one head's keys and choice at a time.
  std::int64_t scores(std::int64_t budget) const {
    const std::int64_t boundaries = n_ / options_.score.segment + 1;
    Visibility v;
    v.n_q = q_.shape[2], v.n_kv = n_, v.causal = options_.causal;
    return score_bytes(score_options(options_), q_, k_, v) + n_ * d_ * 4 + n_ * 8 +
           heads_ * std::min(boundaries, q_.shape[2] / options_.score.segment + 2) *
               (std::min(budget, n_) * 16 + 32);
  }

  // Keys in hash order by level, projections, lanes and tiles, o and lse.
  std::int64_t hyper(const HyperSizes& sizes, Method method) const {
    const std::int64_t rows = q_.shape[0] * q_.shape[1] * q_.shape[2];
    const std::int64_t leaf = std::max<std::int64_t>(1, sizes.leaf);
    const std::int64_t projections = options_.plan.hyper.projections;
    std::int64_t levels = 1;
    while ((leaf << levels) <= n_) ++levels;
    const std::int64_t key = method == Method::kPrescoredHyper ? 8 : 4;  // and its log-weight
    return heads_ * n_ * (key * levels + 4 * projections + 8) +
           rows * (levels * (8 + 64) + 8 + 4 + 4 * d_v_) +
           heads_ * (n_ / leaf + 1) * ((std::int64_t{4} << projections) + 128);
  }

  std::int64_t tiles(Method method) const {
    const std::int64_t tile = method == Method::kDense                    ? 16
                              : options_.plan.routing == Routing::kStrict ? 1
                                                                          : options_.plan.tile;
    const auto bytes = static_cast<std::int64_t>(sizeof(Tile));
    return (q_.shape[2] / tile + 2) * (q_.shape[0] * q_.shape[1] * bytes + 16);
  }

  // What a tile of a class of heads is computed with; `together`: heads of a tile, at most.
  std::int64_t runner(Method method, std::int64_t budget, std::int64_t together) const {
    const std::int64_t lanes = method == Method::kDense ? std::max<std::int64_t>(256, 16 * together)
                                                        : options_.plan.tile * together;
    return TileRunner::bytes(lanes, d_, d_v_) + 64 * 1024 + 8 * std::min(budget, n_);
  }

  // What a worker chooses with: lists and converted rows of the candidates, their scores (fewer
  // routing queries beyond 1,024 candidates), and what building a segment takes.
  std::int64_t routing(std::int64_t budget, std::int64_t together) const {
    const PlanOptions& plan = options_.plan;
    // Nodes that compete at once: all clusters, unless there are so many that groups go first.
    const std::int64_t opened = plan.open_groups > 0 ? plan.open_groups : 4 * std::min(budget, n_);
    const std::int64_t candidates =
        1 + std::min(
                n_ / options_.index.cluster,
                std::max(n_ / options_.index.group, std::min(opened, n_) / options_.index.cluster));
    const std::int64_t width = tile::kernels(options_.compute, k_.dtype).bf16 ? 2 : 4;
    const std::int64_t queries =
        round_up(together * ((plan.tile - 1) / (plan.route_stride * together) + 1), 16);
    const std::int64_t scores =
        std::max(candidates * kFewRouting, std::min(candidates, kManyCandidates + 16) * queries) *
        4;
    return candidates * (2 * 40 + round_up(d_, 32) * width) + scores +
           options_.index.segment * (d_ + 64) * 8;
  }

  // Found of sampled queries, and a worker's rows of those in a tile; heads that are done again.
  void certificate(std::int64_t& shared, std::int64_t& worker) const {
    const CertifyOptions& o = options_.certify;
    if (o.samples == 0) return;
    const std::int64_t queries = std::min(2 * o.samples, q_.shape[2] + 1);
    shared += queries * (q_.shape[0] * q_.shape[1] * 24 + 4) + q_.shape[1] * 80;
    const std::int64_t lanes =
        std::min(queries, std::max<std::int64_t>(256, options_.plan.tile)) * group_;
    worker += lanes * (8 * d_v_ + 64) + 16 * std::min(options_.plan.budget, n_) + 64 * 1024;
    if (o.min_recall <= 0) return;
    shared += tiles(Method::kDense);
    worker += runner(Method::kDense, 0, 1);
  }

  // One class of heads: shared memory, and a worker's.
  void add(Method method, std::int64_t budget, bool alone, std::int64_t& shared,
           std::int64_t& worker) const {
    const std::int64_t together = method == Method::kRouted && alone ? 1 : group_;
    worker += runner(method, budget, together);
    shared += tiles(method);
    if (method == Method::kRouted) worker += routing(budget, together);
    if (method == Method::kTopK || method == Method::kPrescoredHyper) {
      shared += scores(budget);
      worker += n_ * 16;
    }
    if (method == Method::kHyper || method == Method::kPrescoredHyper) {
      const HyperSizes sizes(options_.plan, options_.causal, n_);
      const SpanSizes most = sizes.of_span(0, 1);
      shared += hyper(sizes, method);
      worker += std::min(most.block + most.samples, n_) * 64;
    }
  }

 private:
  const Tensor &q_, &k_, &v_;
  const Options& options_;
  std::int64_t group_, heads_, d_, d_v_, n_;
};

}  // namespace

std::int64_t workspace_bytes(const Tensor& q, const Tensor& k, const Tensor& v,
                             const Options& options, int threads) {
  check_qkv(q, k, v);
  check_plan_options(options.plan);
  check_certify_options(options.certify);
  if (options.device == Device::kCuda) return cuda::workspace_bytes(q, k, v, options);
  PlanOptions plan = options.plan;
  Method method = plan.method;
  if (method == Method::kAuto)
    method = choose_method(q.shape[2], k.shape[2], q.shape[1] / k.shape[1],
                           tile::kernels(options.compute, k.dtype).bf16, options.plan)
                 .method;
  settle(plan, method, q.shape[1], k.shape[1]);
  const Sizes sizes(q, k, v, options);
  std::int64_t shared = takes(plan, Method::kRouted) ? sizes.index() : 0, worker = 0;
  if (plan.heads.empty()) {
    sizes.add(plan.method, plan.budget, !plan.heads_together, shared, worker);
  } else {
    std::vector<ResolvedBudget> seen;
    for (const ResolvedBudget& b : resolve_heads(plan, q.shape[1], k.shape[1])) {
      if (std::find(seen.begin(), seen.end(), b) != seen.end()) continue;
      seen.push_back(b);
      sizes.add(b.method, b.keys, b.alone, shared, worker);
    }
    if (plan.dense_until > 0 || options.plan.method == Method::kAuto)
      sizes.add(Method::kDense, 0, false, shared, worker);
  }
  sizes.certificate(shared, worker);
  return shared + std::max(1, threads) * worker;
}

}  // namespace prescore
