// What the planners share.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "plan/layout.h"
#include "prescore/plan.h"

namespace prescore {

void check_hyper_options(const HyperOptions&);
void check_plan_options(const PlanOptions&);
void check_visibility(const Visibility&);

/// Queries of a tile of a plan that looks at positions alone. Not causal, all queries read the
/// same. Else each is a tile of its own where that is asked for, and where the budget is so small
/// that the window of a tile's last query could leave out the keys next to its first.
inline std::int64_t tile_size(const PlanOptions& o, std::int64_t sinks, bool causal) noexcept {
  const bool alone = o.routing == Routing::kStrict || o.budget < sinks + o.tile;
  return causal && alone ? 1 : o.tile;
}

/// Of one that looks at queries.
inline std::int64_t routed_tile_size(const PlanOptions& o, std::int64_t sinks,
                                     bool causal) noexcept {
  return o.routing == Routing::kStrict ? 1 : tile_size(o, sinks, causal);
}

/// The layout of a tile (layout.h).
inline Layout make_layout(const Visibility& v, const Tile& t, const PlanOptions& o,
                          std::int64_t boundary, std::int64_t limit) {
  return make_layout(v.causal, v.end(t.first), v.end(t.last - 1),
                     {o.budget, o.dense_until, o.sinks, o.window}, boundary, limit);
}

/// Sinks and window of a layout as ranges.
inline void add_ranges(const Layout& x, TilePlan& out) {
  if (x.all()) {
    if (x.end > 0) out.ranges.push_back({0, x.end});
    return;
  }
  if (x.sinks > 0) out.ranges.push_back({0, x.sinks});
  if (x.window < x.end) out.ranges.push_back({x.window, x.end});
}

/// A sorting key: larger for larger scores, for equal ones for lower ids; NaN is last.
inline std::uint64_t order_key(float score, std::int32_t id) noexcept {
  if (score != score) return static_cast<std::uint32_t>(~id);
  const auto u = std::bit_cast<std::uint32_t>(score + 0.0f);
  const std::uint32_t monotone = (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
  return (std::uint64_t{monotone} << 32) | static_cast<std::uint32_t>(~id);
}

/// The key that an order_key was made of.
inline std::int32_t order_id(std::uint64_t key) noexcept {
  return static_cast<std::int32_t>(~static_cast<std::uint32_t>(key));
}

/// Scores of the keys of one head that know nothing behind `end`.
inline const float* scores_until(const PlanInputs& in, std::int64_t bh, std::int64_t end) {
  std::size_t level = 0;
  while (level + 1 < in.scores.size() && in.scores[level + 1].fit <= end) ++level;
  return in.scores[level].scores + bh * in.scores[level].stride;
}

}  // namespace prescore
