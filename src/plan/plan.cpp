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

namespace {

void check_heads(const PlanOptions& o) {
  const bool hyper = o.method == Method::kHyper || o.method == Method::kPrescoredHyper;
  if (hyper && !o.heads.empty()) fail("plan", "budgets by head with hyper", "some", "none");
  for (std::size_t i = 0; i < o.heads.size(); ++i) {
    const HeadBudget& h = o.heads[i];
    const std::string what = "of head " + std::to_string(i);
    check(h.keys >= 0 && h.keys <= kMost, "plan", "keys " + what, h.keys, "0 to 2^40 keys");
    check(h.method <= Method::kRouted, "plan", "method " + what, static_cast<int>(h.method),
          "auto, dense, window, topk or routed");
  }
}

}  // namespace

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
  check_heads(o);
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
  if (!o.heads.empty()) return make_mixed_planner(in, o);
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

std::int64_t queries_within(const Visibility& v, std::int64_t keys) {
  if (!v.causal || keys == 0) return 0;
  std::int64_t low = 0, high = v.n_q;  // ends do not decrease
  while (low < high) {
    const std::int64_t middle = (low + high) / 2;
    if (v.end(middle) <= keys)
      low = middle + 1;
    else
      high = middle;
  }
  return low;
}

std::vector<std::int64_t> cut_queries(const Visibility& v, std::int64_t size, std::int64_t first,
                                      std::int64_t last) {
  std::vector<std::int64_t> cuts{first};
  const auto place = [&](std::int64_t i) {
    return v.causal ? (v.end(i) + size - 1) / size : i / size;
  };
  for (std::int64_t i = first + 1; i < last; ++i)
    if (place(i) != place(i - 1) || i - cuts.back() >= size) cuts.push_back(i);
  cuts.push_back(last);
  return cuts;
}

std::vector<Tile> make_tiles(const Visibility& v, std::int64_t b, std::int64_t h_q,
                             std::int64_t h_kv, const Planner& planner, std::int64_t first,
                             std::int64_t last) {
  const std::int64_t size = planner.tile(), group = h_q / h_kv;
  const std::vector<std::int64_t> cuts = cut_queries(v, size, first, last);
  const std::int64_t step = planner.shared_by_group() ? group : 1;
  std::vector<Tile> tiles;
  tiles.reserve(cuts.size() * static_cast<std::size_t>(b * (h_q / step)));
  const auto add = [&](std::int64_t ib, std::int64_t kv, std::int64_t from, std::int64_t to) {
    for (std::int64_t h = kv * group; h < (kv + 1) * group; h += step) {
      Tile& tile = tiles.emplace_back(Tile{ib, h, from, to});
      tile.heads = step;
    }
  };
  each_tile(cuts, size, b, h_kv, add);
  return tiles;
}

}  // namespace prescore
