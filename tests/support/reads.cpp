#include "support/reads.h"

namespace prescore::test {
namespace {

std::vector<Lane> lanes_of(const Tile& tile, std::int64_t group) {
  if (tile.lanes != nullptr) return {tile.lanes + tile.first, tile.lanes + tile.last};
  std::vector<Lane> lanes;
  for (std::int64_t h = tile.head; h < tile.head + group; ++h)
    for (std::int64_t q = tile.first; q < tile.last; ++q)
      lanes.push_back({static_cast<std::int32_t>(h), static_cast<std::int32_t>(q)});
  return lanes;
}

}  // namespace

std::map<Query, Reads> reads_by_query(const Case& c, const Visibility& see, const Plan& plan) {
  std::map<Query, Reads> all;
  for (std::size_t i = 0; i < plan.tiles.size(); ++i) {
    const Tile& tile = plan.tiles[i];
    for (const Lane& lane : lanes_of(tile, c.h_q / c.h_kv)) {
      Reads& reads = all[{tile.batch, lane.head, c.n_kv - c.n_q + lane.query}];
      const reference::Reads here = reference::reads_of(plan.reads[i], see.end(lane.query));
      for (std::size_t e = 0; e < here.keys.size(); ++e) {
        const bool first = reads.emplace(here.keys[e], here.log_weights[e]).second;
        EXPECT_TRUE(first) << "key " << here.keys[e] << " twice";
        EXPECT_LT(here.keys[e], see.end(lane.query)) << "a later key";
      }
    }
  }
  return all;
}

}  // namespace prescore::test
