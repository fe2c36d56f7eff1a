// Stage `plan`: which keys each tile of queries reads.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "prescore/executor.h"
#include "prescore/index.h"
#include "prescore/score.h"
#include "prescore/types.h"

namespace prescore {

/// One query of one query head.
struct Lane {
  std::int32_t head = 0, query = 0;
};

/// Queries [first, last) of `heads` query heads of batch entry `batch`, which read the same: those
/// from `head` on, or, where `head_list` is not null, the listed ones, ascending, `head` the first.
/// Where `lanes` is not null, lanes[first, last) instead: any queries of any heads of the group of
/// `head`, each once.
struct Tile {
  std::int64_t batch = 0, head = 0;
  std::int64_t first = 0, last = 0;
  const Lane* lanes = nullptr;
  std::int64_t part = 0;  ///< see Planner::parts
  std::int64_t tag = 0;   ///< the planner's own
  std::int64_t heads = 1;
  const std::int32_t* head_list = nullptr;

  std::int64_t head_at(std::int64_t i) const noexcept {
    return head_list != nullptr ? head_list[i] : head + i;
  }
};

/// Keys [begin, end), each query clipped to what it may see.
struct Range {
  std::int64_t begin = 0, end = 0;
  friend bool operator==(const Range&, const Range&) = default;
};

/// What one tile reads. Ranges, keys and the keys behind nodes are disjoint (exactly once).
struct TilePlan {
  std::vector<Range> ranges;
  std::vector<std::int32_t> keys;    ///< single keys, visible to every query of the tile
  std::vector<float> log_weights;    ///< natural log, one a key, or empty: all zero
  std::vector<std::int32_t> nodes;   ///< stand-ins, node ids of the index; weight log count
  std::vector<std::int32_t> packed;  ///< rows of `keys` in the packed copy of the index, or empty
  std::int64_t products = 0;         ///< routing products spent on this plan
  /// Only for PublishedFlaws: rows of score 0 and value 0 that every query reads besides.
  float zero_rows = 0;
  void clear() {
    ranges.clear(), keys.clear(), log_weights.clear(), nodes.clear(), packed.clear();
    products = 0, zero_rows = 0;
  }
};

/// A method. Planners are immutable while used and safe to call from many threads.
class Planner {
 public:
  virtual ~Planner() = default;
  /// Fills `out` for one tile. `worker` names the caller's scratch memory, in [0, width).
  virtual void plan(const Tile& tile, int worker, TilePlan& out) const = 0;
  /// Queries of a tile (a tile begins at positions that are multiples of it).
  virtual std::int64_t tile() const noexcept = 0;
  /// True where all query heads of a group read the same keys (dense, window, top-k).
  virtual bool shared_by_group() const noexcept { return false; }
  /// The first so many queries read all that they see: `attend` cuts them as dense does.
  virtual std::int64_t dense_queries() const noexcept { return 0; }
  /// Disjoint sets of keys that are attended one after the other and merged: part 0 has every query
  /// in tiles of make_tiles, later parts have the tiles of part_tiles, with lanes.
  virtual std::int64_t parts() const noexcept { return 1; }
  virtual std::vector<Tile> part_tiles(std::int64_t) const { return {}; }
  /// All tiles of a planner that cuts the queries itself, those that take longest first. Empty:
  /// make_tiles cuts them.
  virtual std::span<const Tile> own_tiles() const { return {}; }
};

/// Everything a planner may look at. The views must outlive it.
struct PlanInputs {
  Tensor q, k;
  Visibility visibility;
  float scale = 0;                  ///< factor on q.k
  const KeyIndex* index = nullptr;  ///< for routed
  /// For top-k and prescored hyper: ascending levels, each of which serves the tiles whose far keys
  /// end from `fit` on, before the fit of the next. No score of a level knows anything behind it.
  std::span<const ScoreLevel> scores = {};
  /// Causal: the far keys of top-k end at multiples of it.
  std::int64_t score_segment = 512;
  int workers = 1;
  Executor* executor = nullptr;  ///< for what hyper hashes and sorts beforehand; null: this thread
};

std::unique_ptr<Planner> make_dense_planner(const PlanInputs&, const PlanOptions&);
std::unique_ptr<Planner> make_window_planner(const PlanInputs&, const PlanOptions&);
std::unique_ptr<Planner> make_topk_planner(const PlanInputs&, const PlanOptions&);
std::unique_ptr<Planner> make_routed_planner(const PlanInputs&, const PlanOptions&);
/// Both forms of HyperAttention. The planner owns the lanes of its tiles.
std::unique_ptr<Planner> make_hyper_planner(const PlanInputs&, const PlanOptions&);
/// Every query head by its own budget (PlanOptions::heads): a planner for each kind of budget.
std::unique_ptr<Planner> make_mixed_planner(const PlanInputs&, const PlanOptions&);
/// The planner of options.method, which must not be kAuto, or of options.heads.
std::unique_ptr<Planner> make_planner(const PlanInputs&, const PlanOptions&);

/// Cuts the queries [first, last) of every (batch, head) into tiles. Where `shared_by_group`,
/// `head` is the first query head of each group and one plan serves them all.
std::vector<Tile> make_tiles(const Visibility&, std::int64_t b, std::int64_t h_q, std::int64_t h_kv,
                             const Planner&, std::int64_t first, std::int64_t last);

/// A whole plan, for looking at it: tiles, by part, and what each reads. Tiles with lanes or listed
/// heads point into the planner, which must live as long.
struct Plan {
  std::vector<Tile> tiles;
  std::vector<TilePlan> reads;
};

/// What `auto` takes and why, a pure function of the shape. Routed comes with dense_until =
/// crossover: whether a tile is read densely depends on its position alone, never on how the prompt
/// was cut. The fewer query heads share a key head, and the faster dense is, the later the index
/// pays.
struct Choice {
  Method method = Method::kDense;
  std::string reason;
  std::int64_t crossover = 0;  ///< keys that a tile must see to be routed; 0 where not `auto`
};
Choice choose_method(std::int64_t n_q, std::int64_t n_kv, std::int64_t heads_per_group,
                     bool bf16_products, const PlanOptions&);
/// Why, where the caller asked for a method: "as asked", and which tiles `dense_until` makes exact
/// beyond what the budget does.
std::string asked_reason(const Visibility&, const PlanOptions&);

}  // namespace prescore
