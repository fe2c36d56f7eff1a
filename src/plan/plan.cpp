// Tiles, checks common to all planners, and the choice among them.
#include "prescore/plan.h"

#include <algorithm>
#include <cmath>

#include "common/check.h"
#include "plan/planners.h"

namespace prescore {

namespace {

constexpr std::int64_t kMost = std::int64_t{1} << 40;

}  // namespace

void check_hyper_options(const HyperOptions& o) {
  check(o.projections >= 1 && o.projections <= 16, "plan", "projections", o.projections, "1 to 16");
  check(o.block >= 0 && o.block <= kMost, "plan", "block", o.block, "0 to 2^40 keys");
  check(o.samples >= 0 && o.samples <= kMost, "plan", "samples", o.samples, "0 to 2^40 keys");
  check(o.leaf >= 0 && o.leaf <= kMost, "plan", "leaf", o.leaf, "0 (from the budget) to 2^40 keys");
  check(o.selected >= 1 && o.selected <= kMost, "plan", "selected", o.selected, "1 to 2^40 keys");
}

void check_plan_options(const PlanOptions& o) {
  check(o.budget >= 1 && o.budget <= kMost, "plan", "budget", o.budget, "1 to 2^40 keys");
  check(o.sinks >= 0 && o.sinks <= kMost, "plan", "sinks", o.sinks, "0 to 2^40 keys");
  check(o.window >= 1 && o.window <= kMost, "plan", "window", o.window, "1 to 2^40 keys");
  check(o.dense_until >= 0 && o.dense_until <= kMost, "plan", "dense_until", o.dense_until,
        "0 to 2^40 keys");
  check(o.tile >= 16 && o.tile <= 256 && o.tile % 16 == 0, "plan", "tile", o.tile,
        "a multiple of 16 from 16 to 256 queries");
  check(o.open_groups >= 0 && o.open_groups <= kMost, "plan", "open_groups", o.open_groups,
        "0 or more keys");
  check(o.open_segments >= 0 && o.open_segments <= kMost, "plan", "open_segments", o.open_segments,
        "0 or more keys");
  check(o.route_stride >= 1 && o.route_stride <= 256, "plan", "route_stride", o.route_stride,
        "1 to 256");
  check(o.method <= Method::kPrescoredHyper, "plan", "method", static_cast<int>(o.method),
        "auto, dense, window, topk, routed, hyper or prescored_hyper");
  check(o.routing <= Routing::kStrict, "plan", "routing", static_cast<int>(o.routing),
        "tile or strict");
  check(o.standins <= StandIns::kNodes, "plan", "standins", static_cast<int>(o.standins),
        "none, auto or nodes");
  check(o.selection <= Selection::kSample, "plan", "selection", static_cast<int>(o.selection),
        "top-k, threshold, share or sample");
  if (!(o.share >= 0.0f && o.share <= 1.0f))
    fail("plan", "share", std::to_string(o.share), "0 to 1");
  if (!(o.adaptive >= 0.0f && o.adaptive <= 1.0f))
    fail("plan", "adaptive", std::to_string(o.adaptive), "0 to 1");
  if (std::isnan(o.least_score)) fail("plan", "least_score", "NaN", "a number");
  check_hyper_options(o.hyper);
  if (!(o.standin_share >= 0.0f && o.standin_share <= 1e6f))
    fail("plan", "standin_share", std::to_string(o.standin_share), "a share, at least 0");
}

void check_visibility(const Visibility& v) {
  check(v.n_q >= 1, "plan", "queries", v.n_q, "at least 1");
  check(v.n_kv >= 0 && v.n_kv < (std::int64_t{1} << 31), "plan", "keys", v.n_kv, "0 to 2^31 - 1");
  if (v.causal && !v.positions.empty()) {
    check(static_cast<std::int64_t>(v.positions.size()) == v.n_q, "plan", "positions",
          static_cast<std::int64_t>(v.positions.size()), "one a query");
    for (std::size_t i = 0; i < v.positions.size(); ++i) {
      if (v.positions[i] < -1 || v.positions[i] >= v.n_kv ||
          (i > 0 && v.positions[i] < v.positions[i - 1]))
        fail("plan", "position of query " + std::to_string(i), std::to_string(v.positions[i]),
             "non-decreasing positions below the number of keys");
    }
  }
}

std::unique_ptr<Planner> make_planner(const PlanInputs& in, const PlanOptions& o) {
  switch (o.method) {
    case Method::kDense: return make_dense_planner(in, o);
    case Method::kWindow: return make_window_planner(in, o);
    case Method::kTopK: return make_topk_planner(in, o);
    case Method::kRouted: return make_routed_planner(in, o);
    case Method::kHyper:
    case Method::kPrescoredHyper: return make_hyper_planner(in, o);
    case Method::kAuto: break;
  }
  fail("plan", "method", "auto", "a method chosen by choose_method");
}

std::vector<Tile> make_tiles(const Visibility& v, std::int64_t b, std::int64_t h_q,
                             std::int64_t h_kv, const Planner& planner, std::int64_t first,
                             std::int64_t last) {
  // A tile is cut where the position passes a multiple of its size, so that the same query is in
  // the same company however the prompt arrives.
  std::vector<std::int64_t> cuts{first};
  const std::int64_t size = planner.tile();
  const auto place = [&](std::int64_t i) {
    return v.causal ? (v.end(i) + size - 1) / size : i / size;
  };
  for (std::int64_t i = first + 1; i < last; ++i)
    if (place(i) != place(i - 1) || i - cuts.back() >= size) cuts.push_back(i);
  cuts.push_back(last);

  const std::int64_t step = planner.shared_by_group() ? h_q / h_kv : 1;
  std::vector<Tile> tiles;
  tiles.reserve(cuts.size() * static_cast<std::size_t>(b * (h_q / step)));
  // Longest first, since the last tiles see most keys; within about a segment the tiles of one key
  // head follow each other, so that a worker finds its keys and nodes in cache.
  const std::int64_t together = std::max<std::int64_t>(1, 512 / size);
  const auto n = static_cast<std::int64_t>(cuts.size()) - 1;
  for (std::int64_t until = n; until > 0; until -= together)
    for (std::int64_t ib = 0; ib < b; ++ib)
      for (std::int64_t kv = 0; kv < h_kv; ++kv)
        for (std::int64_t c = until; c > std::max<std::int64_t>(0, until - together); --c)
          for (std::int64_t h = kv * (h_q / h_kv); h < (kv + 1) * (h_q / h_kv); h += step)
            tiles.push_back(
                {ib, h, cuts[static_cast<std::size_t>(c - 1)], cuts[static_cast<std::size_t>(c)]});
  return tiles;
}

}  // namespace prescore
