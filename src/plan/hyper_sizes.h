// How much of each span HyperAttention reads: as asked, or what the budget leaves.
#pragma once

#include <bit>
#include <cstdint>

#include "plan/planners.h"

namespace prescore {

/// Exact keys and samples of one span.
struct SpanSizes {
  std::int64_t block = 0, samples = 0;
};

/// Sizes of a plan. From the budget (HyperOptions::leaf 0): sinks and the keys from a query's leaf
/// on are read, and what the budget leaves is shared equally by the spans before it, in the
/// proportion of HyperOptions::block to samples. A share depends on where in its leaf a query's
/// tile stands (`step`) and on how many spans lie before the leaf: on its position alone.
struct HyperSizes {
  bool from_budget = false;
  std::int64_t tile = 0, sinks = 0, window = 0, leaf = 0;
  std::int64_t steps = 1;  ///< steps are in [0, steps)

  /// Checks the options too. Throws Error where the budget has no room for a leaf.
  HyperSizes(const PlanOptions& options, bool causal);

  /// Of a query that sees [0, end), and whose far keys end at `far_end`.
  std::int64_t step(std::int64_t end, std::int64_t far_end) const noexcept {
    return steps == 1 ? 0 : (end + tile - 1) / tile - far_end / tile;
  }
  SpanSizes of_span(std::int64_t step, std::int64_t spans) const noexcept;

 private:
  std::int64_t budget_, block_, samples_;
};

/// Spans before leaf number `leaf`, counted from 0.
inline std::int64_t spans_before(std::int64_t leaf) noexcept {
  return std::popcount(static_cast<std::uint64_t>(leaf));
}

}  // namespace prescore
