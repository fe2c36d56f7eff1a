// How much of each span HyperAttention reads: as asked, or what the budget leaves.
#pragma once

#include <algorithm>
#include <cstdint>

#include "plan/planners.h"

namespace prescore {

/// Exact keys and samples of one span.
struct SpanSizes {
  std::int64_t block = 0, samples = 0;
};

/// Sizes of a plan and where its leaves and spans lie: one rule for all backends. From the budget
/// (HyperOptions::leaf 0): sinks and the keys from a query's leaf on are read, and what the budget
/// leaves is shared equally by the spans before it, in the proportion of HyperOptions::block to
/// samples. A share depends on where in its leaf a query's tile stands (`step`) and on how many
/// spans lie before the leaf: on its position alone.
struct HyperSizes {
  bool from_budget = false, causal = true;
  std::int64_t n_kv = 0;
  std::int64_t tile = 0, sinks = 0, window = 0, leaf = 0;
  std::int64_t size = 0;   ///< queries that have the same leaf: a tile, or one where each chooses
  std::int64_t steps = 1;  ///< steps are in [0, steps)

  HyperSizes() = default;
  /// Checks the options too. Throws Error where the budget has no room for a leaf.
  HyperSizes(const PlanOptions& options, bool causal, std::int64_t n_kv);

  /// Number of leaves that are far from a query that sees [0, end); 0: it reads everything. All
  /// queries of an aligned tile have the same. Not causal: one span holds all keys.
  constexpr std::int64_t far_leaf(std::int64_t end) const noexcept {
    if (!causal) return n_kv <= all_ ? 0 : 1;
    const std::int64_t first = (std::max<std::int64_t>(end, 1) - 1) / size * size + 1;
    if (std::min(first + size - 1, n_kv) <= all_) return 0;
    return std::max<std::int64_t>(0, first - window) / leaf;
  }
  constexpr std::int64_t far_end(std::int64_t leaf_number) const noexcept {
    return causal ? leaf_number * leaf : leaf_number > 0 ? n_kv : 0;
  }
  /// Of a query that sees [0, end), and whose far keys end at `far`.
  constexpr std::int64_t step(std::int64_t end, std::int64_t far) const noexcept {
    return steps == 1 ? 0 : (end + tile - 1) / tile - far / tile;
  }
  /// Of each span of a query at `step` with `spans` of them.
  constexpr SpanSizes of_span(std::int64_t step, std::int64_t spans) const noexcept {
    if (!from_budget) return {block_, samples_};
    const std::int64_t share =
        std::max<std::int64_t>(0, budget_ - sinks - step * tile) / std::max<std::int64_t>(1, spans);
    if (block_ + samples_ == 0) return {};
    // In floating point: the product of two counts of 2^40 does not fit.
    const auto samples = static_cast<std::int64_t>(
        static_cast<double>(share) *
        (static_cast<double>(samples_) / static_cast<double>(block_ + samples_)));
    return {share - samples, samples};
  }

  /// The leaf at which the span that ends at `leaf` begins.
  static constexpr std::int64_t before(std::int64_t leaf) noexcept { return leaf & (leaf - 1); }
  /// Spans before leaf number `leaf`, counted from 0.
  static constexpr std::int64_t spans_before(std::int64_t leaf) noexcept {
    std::int64_t spans = 0;
    for (; leaf > 0; leaf = before(leaf)) ++spans;
    return spans;
  }

 private:
  std::int64_t all_ = 0;  // a tile that sees no more keys reads them all
  std::int64_t budget_ = 0, block_ = 0, samples_ = 0;
};

}  // namespace prescore
