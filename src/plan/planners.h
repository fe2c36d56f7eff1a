// What the planners share.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "prescore/plan.h"

namespace prescore {

void check_hyper_options(const HyperOptions&);
void check_plan_options(const PlanOptions&);
void check_visibility(const Visibility&);

/// What a tile reads exactly, and what is left for the far keys. Far keys are [sinks, local).
struct Layout {
  std::int64_t sinks = 0;   ///< keys [0, sinks) are read
  std::int64_t local = 0;   ///< the far keys end here
  std::int64_t window = 0;  ///< keys [window, end) are read; local <= window
  std::int64_t end = 0;     ///< keys that the last query sees
  std::int64_t far = 0;     ///< far keys that may be read
  bool all() const noexcept { return sinks >= window; }
};

/// Queries of a tile. Where the budget is so small that the window of a tile's last query could
/// leave out the keys next to its first, every query is a tile of its own.
inline std::int64_t tile_size(const PlanOptions& o, std::int64_t sinks) noexcept {
  return o.routing == Routing::kStrict || o.budget < sinks + o.tile ? 1 : o.tile;
}

/// The sinks, the window and the share of the far keys within the budget. `boundary`: the far keys
/// end at a multiple of it, and not after `limit`.
inline Layout make_layout(const Visibility& v, const Tile& t, const PlanOptions& o,
                          std::int64_t boundary, std::int64_t limit) {
  Layout x;
  x.end = v.end(t.last - 1);
  if (x.end <= std::max(o.budget, o.dense_until)) return x;  // everything, as one range
  // Not causal: there is no recency; every whole segment is far.
  const std::int64_t first = v.causal ? v.end(t.first) - o.window : x.end;
  x.local = std::min(std::max<std::int64_t>(first, 0) / boundary * boundary, limit);
  // A budget below sinks and window cuts the window; the keys before it are then lost.
  x.sinks = std::min(o.sinks, o.budget);
  x.window = std::max(x.local, x.end - (o.budget - x.sinks));
  x.sinks = std::min(x.sinks, x.window);
  x.far = o.budget - x.sinks - (x.end - x.window);
  if (x.window == x.local && x.local - x.sinks <= x.far) x = Layout{.end = x.end};
  return x;
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
