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

/// Queries of a tile of `heads` heads that read everything: about 256 lanes reuse a block.
inline std::int64_t dense_tile_size(std::int64_t heads) noexcept {
  return std::max<std::int64_t>(16, 256 / heads / 16 * 16);
}

/// What a head reads once the options of the call are known.
struct ResolvedBudget {
  Method method = Method::kDense;
  std::int64_t keys = 0;  ///< 0: dense
  bool alone = false;     ///< routed: it chooses for itself
  friend bool operator==(const ResolvedBudget&, const ResolvedBudget&) = default;
};
using ResolvedBudgets = std::vector<ResolvedBudget>;
/// Whether heads with budget a take longer than those with b: dense first, then by keys.
bool longer(const ResolvedBudget& a, const ResolvedBudget& b) noexcept;
/// Of every query head, where options.heads has some. Throws Error where it has not one a head.
ResolvedBudgets resolve_heads(const PlanOptions&, std::int64_t h_q, std::int64_t h_kv);

/// The options of a call once its method is chosen. What `auto` reads densely it reads so in every
/// head. Throws Error where options.heads has not one a head.
void settle(PlanOptions&, Method chosen, std::int64_t h_q, std::int64_t h_kv);

/// "; 3 of 14 heads have budgets of their own", for Choice::reason.
std::string own_budgets(const PlanOptions&, std::int64_t h_q, std::int64_t h_kv);

/// Whether some head of the call is read by `method`.
bool takes(const PlanOptions&, Method method) noexcept;

/// The first so many queries see no more than `keys` keys; 0 where not causal.
std::int64_t queries_within(const Visibility&, std::int64_t keys);

/// Where tiles of `size` end that begin at query `first`: cut where the position passes a multiple
/// of their size, so that the same query is in the same company however the prompt arrives.
std::vector<std::int64_t> cut_queries(const Visibility&, std::int64_t size, std::int64_t first,
                                      std::int64_t last);

/// Runs of tiles in the order in which they are worked on: longest first, since the last tiles see
/// most keys; within about a segment the tiles of one key head follow each other, so that a worker
/// finds its keys and nodes in cache. each(batch, key head, first, last).
template <typename Each>
void each_tile(const std::vector<std::int64_t>& cuts, std::int64_t size, std::int64_t b,
               std::int64_t h_kv, const Each& each) {
  const std::int64_t together = std::max<std::int64_t>(1, 512 / size);
  const auto n = static_cast<std::int64_t>(cuts.size()) - 1;
  for (std::int64_t until = n; until > 0; until -= together)
    for (std::int64_t ib = 0; ib < b; ++ib)
      for (std::int64_t kv = 0; kv < h_kv; ++kv)
        for (std::int64_t c = until; c > std::max<std::int64_t>(0, until - together); --c)
          each(ib, kv, cuts[static_cast<std::size_t>(c - 1)], cuts[static_cast<std::size_t>(c)]);
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
