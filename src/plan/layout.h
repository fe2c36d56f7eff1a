// What a tile reads exactly, by position alone: one rule for all backends.
#pragma once

#include <algorithm>
#include <cstdint>

namespace prescore {

/// What a tile reads exactly, and what is left for the far keys. Far keys are [sinks, local).
struct Layout {
  std::int64_t sinks = 0;   ///< keys [0, sinks) are read
  std::int64_t local = 0;   ///< the far keys end here
  std::int64_t window = 0;  ///< keys [window, end) are read; local <= window
  std::int64_t end = 0;     ///< keys that the last query sees
  std::int64_t far = 0;     ///< far keys that may be read
  constexpr bool all() const noexcept { return sinks >= window; }
};

/// The numbers of PlanOptions that a layout depends on.
struct LayoutRule {
  std::int64_t budget, dense_until, sinks, window;
};

/// The sinks, the window and the share of the far keys within the budget of a tile whose first
/// query sees first_end keys and whose last sees `end`. `boundary`: the far keys end at a multiple
/// of it, and not after `limit`.
constexpr Layout make_layout(bool causal, std::int64_t first_end, std::int64_t end,
                             const LayoutRule& o, std::int64_t boundary, std::int64_t limit) {
  Layout x;
  x.end = end;
  if (x.end <= std::max(o.budget, o.dense_until)) return x;  // everything, as one range
  // Not causal: there is no recency; every whole segment is far.
  const std::int64_t first = causal ? first_end - o.window : x.end;
  x.local = std::min(std::max<std::int64_t>(first, 0) / boundary * boundary, limit);
  // A budget below sinks and window cuts the window; the keys before it are then lost.
  x.sinks = std::min(o.sinks, o.budget);
  x.window = std::max(x.local, x.end - (o.budget - x.sinks));
  x.sinks = std::min(x.sinks, x.window);
  x.far = o.budget - x.sinks - (x.end - x.window);
  if (x.window == x.local && x.local - x.sinks <= x.far) {
    x = Layout{};
    x.end = end;
  }
  return x;
}

/// The window method: sinks and the most recent keys within the budget.
constexpr Layout window_layout(std::int64_t end, const LayoutRule& o) {
  Layout x;
  x.end = end;
  if (end <= o.dense_until) return x;
  const std::int64_t sinks = std::min(o.sinks, o.budget), begin = end - (o.budget - sinks);
  if (begin <= sinks) return x;
  x.sinks = sinks;
  x.local = x.window = begin;
  return x;
}

}  // namespace prescore
