// Stage `plan` on the GPU.
#pragma once

#include <vector>

#include "common/arena.cuh"
#include "common/device.cuh"
#include "common/launch.cuh"

namespace prescore::cuda {

/// Fills the tables of tiles and of complete segments; unused entries have no rows.
void make_tables(const Problem&, TileInfo*, int tiles, SegmentInfo*, int segments, cudaStream_t);

/// Room for the tables of `lists` lists and `heads` heads.
inline ListTable take_table(Arena& arena, int lists, int heads) {
  ListTable table;
  table.list = arena.take<ListInfo>(lists);
  table.head_of = arena.take<std::int32_t>(heads);
  table.list_of = arena.take<std::int32_t>(heads);
  return table;
}

/// Fills tables of lists, and of heads where they are given: by unit, query heads.
void put_lists(const ListTable&, const std::vector<ListInfo>&, const std::vector<std::int32_t>&,
               cudaStream_t);

/// Dense (rule ignored) or window plans.
void plan_ranges(const Problem&, const PlanView&, const LayoutRule&, bool dense, cudaStream_t);

/// Sinks, window and the far keys with the best scores [batch][h_kv][n_kv], ties by position.
void plan_topk(const Problem&, const PlanView&, const LayoutRule&, const float* scores,
               cudaStream_t);

/// What `routed` needs beside the layout, and its scratch.
struct Route {
  LayoutRule rule;
  int open_groups;  ///< keys whose groups are opened; 0: four times the far keys
  float worth;      ///< share from which a node stands in; above 1: never
  int groups;       ///< of the longest sequence: row length of `code`
  int clusters;     ///< most that are scored, or fewer where shared memory is small
  int columns;      ///< room for routing queries of a tile: kFewColumns or kManyColumns
  /// [list][tile][groups]: each group's Code.
  std::uint32_t* code;
  /// [list][tile][columns]: log2 of the attention of a routing query to all keys.
  float* total;
};

/// Queries that speak for a tile and list: 16 of one head, 64 of several.
inline constexpr int kFewColumns = 16, kManyColumns = 64;

/// Scores the groups of every tile, opens the best, chooses clusters, writes reads and lists.
template <typename T>
void plan_routed(const Problem&, const PlanView&, const IndexView&, const Route&, cudaStream_t);

/// Most stand-ins of a tile; further ones are dropped. Shares above `worth` are fewer than
/// 1 / worth but for errors of their estimate.
inline constexpr int kMaxNodes = 512;

}  // namespace prescore::cuda
