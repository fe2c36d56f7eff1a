// The one call: choose a method, bring scores or index up to date, plan and attend.
#include "prescore/attention.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <vector>

#include "attend/certificate.h"
#include "attend/tile_runner.h"
#include "common/check.h"
#include "common/cuda.h"
#include "common/isa.h"
#include "plan/planners.h"
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

// Measures where that is asked for, and does heads again of which too little was read.
void attend_certified(const AttendInputs& in, const Planner& planner, const State& out,
                      const CertifyOptions& certify, Executor& executor, Report& report) {
  if (certify.samples == 0) {
    report.counters = attend(in, planner, out, executor);
    return;
  }
  Certificate certificate(in, out, certify);
  report.counters = attend(in, planner, out, executor, &certificate);
  report.heads = certificate.heads();
  std::vector<std::int32_t> again;
  for (std::size_t h = 0; h < report.heads.size(); ++h)
    if (report.heads[h].mass < certify.min_recall) {
      report.heads[h].redone = true;
      again.push_back(static_cast<std::int32_t>(h));
    }
  if (again.empty()) return;
  const Counters more = attend_densely(in, again, out, executor);
  for (const std::int32_t h : again) {  // what they read before is no part of the result
    report.counters.keys -= certificate.keys(static_cast<std::size_t>(h));
    report.counters.standins -= certificate.standins(static_cast<std::size_t>(h));
  }
  report.counters.keys += more.keys, report.counters.attend_s += more.attend_s;
  report.choice.reason += redone_reason(report.heads);
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
  check_certify_options(options.certify);
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
  settle(plan, call.choice.method, q.shape[1], k.shape[1]);
  plan.dense_until = std::max(plan.dense_until, call.choice.crossover);
  if (!plan.heads.empty()) {
    if (visibility.mask != nullptr)
      fail("attention", "a mask with budgets by head", "one", "method dense or auto without them");
    call.choice.reason += own_budgets(plan, q.shape[1], k.shape[1]);
  }

  const auto begin = Clock::now();
  if (takes(plan, Method::kRouted)) {
    if (kept.index == nullptr)
      kept.index = (call.index = std::make_unique<KeyIndex>(options.index)).get();
    kept.index->extend(k, v, executor);
    plan_in.index = call.in.index = kept.index;
  }
  if (takes(plan, Method::kTopK) || plan.method == Method::kPrescoredHyper) {
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
  if (call.planner->parts() > 1) {
    if (options.certify.samples > 0)
      fail("attention", "a certificate of hyper", "one", "another method, or no samples");
    report.counters = attend_parts(call.in, *call.planner, out, executor);
  } else {
    attend_certified(call.in, *call.planner, out, options.certify, executor, report);
  }
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

std::string_view isa_name(Compute compute, DType dtype) {
  return name_of(tile::kernels(compute, dtype).isa);
}

}  // namespace prescore
