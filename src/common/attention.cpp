// The one call: choose a method, bring scores or index up to date, plan and attend.
#include "prescore/attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <vector>

#include "attend/tile_runner.h"
#include "common/check.h"
#include "common/cuda.h"
#include "common/isa.h"
#include "plan/candidates.h"
#include "plan/hyper_sizes.h"
#include "plan/planners.h"
#include "score/scorer.h"
#include "tile/tile.h"

namespace prescore {
namespace {

using Clock = std::chrono::steady_clock;

// Parts go on from each other in f32 and with an lse; the caller may want neither.
Counters attend_parts(const AttendInputs& in, const Planner& planner, const State& out,
                      Executor& executor) {
  const std::int64_t b = out.o.shape[0], h = out.o.shape[1], n = out.o.shape[2],
                     d_v = out.o.shape[3];
  Buffer<float> own_o, own_lse;
  State state = out;
  if (out.o.dtype != DType::kF32)
    state.o = MutTensor::contiguous(own_o.reserve(b * h * n * d_v), DType::kF32, b, h, n, d_v);
  if (out.lse == nullptr) state.lse = own_lse.reserve(b * h * n);
  const Counters counters = attend(in, planner, state, executor);
  if (out.o.dtype == DType::kF32) return counters;
  executor.run(b * h, [&](std::int64_t bh, int) {
    for (std::int64_t i = 0; i < n; ++i)
      tile::row_kernels().from_f32(own_o.data() + (bh * n + i) * d_v, static_cast<int>(d_v),
                                   out.o.dtype, row(out.o, bh / h, bh % h, i));
  });
  return counters;
}

}  // namespace

ScoreOptions score_options(const Options& options) {
  ScoreOptions o = options.score;
  o.score = options.plan.score;
  o.seed = options.plan.seed;
  o.flattened = options.plan.flaws.flattened;
  o.distance_seeds = options.plan.flaws.distance_seeds;
  return o;
}

Prepared prepare(const Tensor& q, const Tensor& k, const Tensor& v, const Visibility& visibility,
                 Kept kept, const Options& options, Executor& executor) {
  check_plan_options(options.plan);
  if (options.device == Device::kCuda)
    fail("attention", "visibility, an index or an executor with device cuda", "one",
         "the call without them");
  Prepared call;
  call.in = {q, k, v, visibility, options.scale, nullptr, options.compute};
  check_tensor(q, "attention", "q");
  if (call.in.scale == 0.0f) call.in.scale = 1.0f / std::sqrt(static_cast<float>(q.shape[3]));
  check_attend_inputs(call.in);
  PlanInputs plan_in{q, k, visibility, call.in.scale};
  plan_in.workers = executor.width();
  plan_in.executor = &executor;

  PlanOptions plan = options.plan;
  if (visibility.mask != nullptr) {
    if (plan.method != Method::kAuto && plan.method != Method::kDense)
      fail("attention", "a mask with a sparse method", "one", "method dense or auto");
    call.choice = {Method::kDense, "dense: the mask is not causal", 0};
  } else if (plan.method == Method::kAuto) {
    call.choice = choose_method(visibility.n_q, visibility.n_kv, q.shape[1] / k.shape[1],
                                tile::kernels(options.compute, k.dtype).bf16, plan);
  } else {
    call.choice = {plan.method, asked_reason(visibility, plan), 0};
  }
  plan.method = call.choice.method;
  plan.dense_until = std::max(plan.dense_until, call.choice.crossover);

  const auto begin = Clock::now();
  if (plan.method == Method::kRouted) {
    if (kept.index == nullptr)
      kept.index = (call.index = std::make_unique<KeyIndex>(options.index)).get();
    kept.index->extend(k, v, executor);
    plan_in.index = call.in.index = kept.index;
  } else if (plan.method == Method::kTopK || plan.method == Method::kPrescoredHyper) {
    if (kept.scores == nullptr)
      kept.scores = (call.scores = std::make_unique<KeyScores>(score_options(options))).get();
    kept.scores->extend({q, k, v, visibility, call.in.scale}, executor);
    plan_in.scores = kept.scores->levels();
    plan_in.score_segment = kept.scores->options().segment;
  }
  call.index_s = std::chrono::duration<double>(Clock::now() - begin).count();
  call.planner = make_planner(plan_in, plan);
  return call;
}

Report attention(const Tensor& q, const Tensor& k, const Tensor& v, const Visibility& visibility,
                 Kept kept, const State& out, const Options& options, Executor& executor) {
  const auto begin = Clock::now();
  AttendInputs in{q, k, v, visibility, options.scale, nullptr, options.compute};
  check_attend_inputs(in, out);  // before the work of preparing
  const Prepared call = prepare(q, k, v, visibility, kept, options, executor);
  Report report;
  report.choice = call.choice;
  report.counters = call.planner->parts() > 1 ? attend_parts(call.in, *call.planner, out, executor)
                                              : attend(call.in, *call.planner, out, executor);
  report.counters.index_s = call.index_s;
  report.counters.total_s = std::chrono::duration<double>(Clock::now() - begin).count();
  report.isa = isa_name(options.compute, k.dtype);
  return report;
}

Report attention(const Tensor& q, const Tensor& k, const Tensor& v, const State& out,
                 const Options& options, Executor& executor) {
  Visibility visibility;
  visibility.n_q = q.shape[2];
  visibility.n_kv = k.shape[2];
  visibility.causal = options.causal;
  return attention(q, k, v, visibility, {}, out, options, executor);
}

Report attention(const Tensor& q, const Tensor& k, const Tensor& v, const State& out,
                 const Options& options) {
  if (options.device == Device::kCuda) return cuda::attention(q, k, v, out, options);
  const std::unique_ptr<Executor> executor = make_executor(options.threads);
  return attention(q, k, v, out, options, *executor);
}

Choice choose_method(std::int64_t n_q, std::int64_t n_kv, std::int64_t heads_per_group,
                     bool bf16_products, const PlanOptions& o) {
  // Measured with bench/crossover (docs/performance.md). Beyond about three budgets a tile is read
  // faster routed; and just beyond the crossover, where nothing is saved yet, building the index
  // must not take more than a twentieth of the time of dense.
  constexpr std::int64_t kFewQueries = 32;
  const std::int64_t pays =
      (bf16_products ? 24576 : 9216) / std::max<std::int64_t>(1, heads_per_group);
  const std::int64_t crossover = std::max(3 * o.budget, pays);
  const auto keys = [](std::int64_t n) { return std::to_string(n) + " keys"; };
  if (n_q < kFewQueries)
    return {Method::kDense, "dense: fewer than 32 queries read the keys once either way", 0};
  if (n_kv <= crossover)
    return {Method::kDense, "dense: " + keys(n_kv) + ", within the crossover at " + keys(crossover),
            crossover};
  return {Method::kRouted,
          "routed: " + keys(n_kv) + ", tiles beyond the crossover at " + keys(crossover) +
              " are routed, those before it dense",
          crossover};
}

std::string asked_reason(const Visibility& v, const PlanOptions& o) {
  const bool sparse = o.method != Method::kDense && o.method != Method::kWindow;
  if (!sparse || o.dense_until <= o.budget || v.n_q == 0 || v.end(0) > o.dense_until)
    return "as asked";
  const std::string until = std::to_string(o.dense_until) + " keys of dense_until";
  if (v.end(v.n_q - 1) <= o.dense_until)  // ends do not decrease
    return "as asked, but all is exact: no tile sees more than the " + until;
  return "as asked, but tiles that see no more than the " + until + " are exact";
}

std::int64_t workspace_bytes(const Tensor& q, const Tensor& k, const Tensor& v,
                             const Options& options, int threads) {
  check_qkv(q, k, v);
  check_plan_options(options.plan);
  if (options.device == Device::kCuda) return cuda::workspace_bytes(q, k, v, options);
  const KeyIndex shape(options.index);
  const std::int64_t group = q.shape[1] / k.shape[1];
  Method method = options.plan.method;
  if (method == Method::kAuto)
    method = choose_method(q.shape[2], k.shape[2], group,
                           tile::kernels(options.compute, k.dtype).bf16, options.plan)
                 .method;
  const std::int64_t heads = k.shape[0] * k.shape[1], d = q.shape[3], d_v = v.shape[3];
  const std::int64_t lanes = method == Method::kDense ? std::max<std::int64_t>(256, 16 * group)
                             : method == Method::kRouted && !options.plan.heads_together
                                 ? options.plan.tile
                                 : options.plan.tile * group;
  const bool hyper = method == Method::kHyper || method == Method::kPrescoredHyper;
  // Nodes that compete at once: all clusters, unless there are so many that groups go first.
  const std::int64_t opened = options.plan.open_groups > 0
                                  ? options.plan.open_groups
                                  : 4 * std::min(options.plan.budget, k.shape[2]);
  const std::int64_t candidates =
      1 + std::min(k.shape[2] / options.index.cluster,
                   std::max(k.shape[2] / options.index.group,
                            std::min(opened, k.shape[2]) / options.index.cluster));
  std::int64_t worker =
      TileRunner::bytes(lanes, d, d_v) + 64 * 1024 + 8 * std::min(options.plan.budget, k.shape[2]);
  const std::int64_t tile = method == Method::kDense                   ? 16
                            : options.plan.routing == Routing::kStrict ? 1
                                                                       : options.plan.tile;
  std::int64_t shared = (q.shape[2] / tile + 2) * (q.shape[0] * q.shape[1] * 32 + 16);  // tiles
  if (method == Method::kRouted) {
    const std::int64_t segments = k.shape[2] / options.index.segment;
    const std::int64_t node = d * size_of(k.dtype) + d_v * size_of(v.dtype) + 4;
    shared += heads * segments *
              (shape.nodes_per_segment() * node + 2 * options.index.segment + 16 +
               2 * (shape.nodes_per_segment(1) + 1) +
               (options.index.packed
                    ? options.index.segment * (d * size_of(k.dtype) + d_v * size_of(v.dtype))
                    : 0));
    const std::int64_t width = tile::kernels(options.compute, k.dtype).bf16 ? 2 : 4;
    const std::int64_t together = options.plan.heads_together ? group : 1;
    const std::int64_t routing = round_up(
        together * ((options.plan.tile - 1) / (options.plan.route_stride * together) + 1), 16);
    // Lists and converted rows of the candidates, their scores (fewer routing queries beyond 1,024
    // candidates), and what building a segment takes.
    const std::int64_t scores =
        std::max(candidates * kFewRouting, std::min(candidates, kManyCandidates + 16) * routing) *
        4;
    worker += candidates * (2 * 40 + round_up(d, 32) * width) + scores +
              options.index.segment * (d + 64) * 8;
  }
  if (hyper) {  // keys in hash order by level, projections, lanes and tiles, o and lse
    const std::int64_t rows = q.shape[0] * q.shape[1] * q.shape[2];
    const HyperSizes sizes(options.plan, options.causal, k.shape[2]);
    const std::int64_t leaf = std::max<std::int64_t>(1, sizes.leaf);
    std::int64_t levels = 1;
    while ((leaf << levels) <= k.shape[2]) ++levels;
    const std::int64_t key = method == Method::kPrescoredHyper ? 8 : 4;  // and its log-weight
    shared += heads * k.shape[2] * (key * levels + 4 * options.plan.hyper.projections + 8) +
              rows * (levels * (8 + 64) + 8 + 4 + 4 * d_v) +
              heads * (k.shape[2] / leaf + 1) *
                  ((std::int64_t{4} << options.plan.hyper.projections) + 128);
    const SpanSizes most = sizes.of_span(0, 1);
    worker += std::min(most.block + most.samples, k.shape[2]) * 64;
  }
  if (method == Method::kTopK || method == Method::kPrescoredHyper) {
    // The levels, the best keys at each boundary, and one head's keys and choice at a time.
    const std::int64_t n = k.shape[2];
    const std::int64_t boundaries = n / options.score.segment + 1;
    Visibility v_all;
    v_all.n_q = q.shape[2], v_all.n_kv = n, v_all.causal = options.causal;
    shared += score_bytes(score_options(options), q, k, v_all) + n * d * 4 + n * 8 +
              heads * std::min(boundaries, q.shape[2] / options.score.segment + 2) *
                  (std::min(options.plan.budget, n) * 16 + 32);
    worker += n * 16;
  }
  return shared + std::max(1, threads) * worker;
}

std::string_view isa_name(Compute compute, DType dtype) {
  return name_of(tile::kernels(compute, dtype).isa);
}

}  // namespace prescore
