#include "plan/hyper_sizes.h"

#include <algorithm>
#include <string>

#include "common/check.h"
#include "common/views.h"

namespace prescore {

HyperSizes::HyperSizes(const PlanOptions& o, bool is_causal, std::int64_t keys)
    : from_budget(o.hyper.leaf == 0), causal(is_causal), n_kv(keys), tile(o.tile), sinks(o.sinks),
      window(o.window), leaf(o.hyper.leaf), all_(std::max(o.budget, o.dense_until)),
      budget_(o.budget), block_(o.hyper.block), samples_(o.hyper.samples) {
  check_plan_options(o);
  const auto set_size = [&] { size = o.routing == Routing::kStrict ? 1 : tile; };
  set_size();
  if (!from_budget) {
    // All queries of a tile have the same leaf.
    check(leaf % tile == 0, "plan", "leaf", leaf,
          "a multiple of the tile, " + std::to_string(tile));
    return;
  }
  sinks = std::min(sinks, budget_);
  if (!causal) return;
  constexpr std::int64_t kLeastTile = 16;
  check(budget_ - sinks >= kLeastTile, "plan", "budget of hyper without a leaf size", budget_,
        "at least " + std::to_string(kLeastTile) + " keys more than the " + std::to_string(sinks) +
            " sinks");
  // Small tiles waste less of a small budget: a tile's first query reads up to a tile fewer keys
  // than its last, for which there must be room. A leaf is a tile or more.
  while (tile > kLeastTile && (8 * tile > budget_ || tile > budget_ - sinks))
    tile = std::max(kLeastTile, tile / 32 * 16);
  // Most keys from the leaf on are leaf + window - 1, the latter rounded up to tiles. A budget that
  // has no room for it cuts the window.
  std::int64_t recent = round_up(window - 1, tile);
  if (recent > budget_ - sinks - tile) {
    recent = (budget_ - sinks - tile) / tile * tile;
    window = recent + 1;
  }
  leaf = std::max(tile, (budget_ - sinks - recent) / 2 / tile * tile);
  steps = (leaf + recent) / tile + 1;
  set_size();
}

}  // namespace prescore
