// Clusters of keys as an index: a tile descends the tree of each segment and reads the clusters in
// which its queries would spend most of their attention; nodes that it does not open stand in.
#include <cmath>
#include <vector>

#include "common/check.h"
#include "common/views.h"
#include "index/index_impl.h"
#include "plan/candidates.h"
#include "plan/planners.h"

namespace prescore {
namespace {

struct Scratch {
  // The uppermost candidates depend on the head and on where the far keys end alone; they are kept
  // for the next tile, which mostly has the same or a segment more.
  Candidates top;
  std::int64_t top_head = -1, top_segments = 0;
  int top_level = -1;
  Candidates below, read;
  Estimator estimator;
  std::vector<std::int32_t> chosen;
};

// Every kSample-th key of the window takes part in the estimate of a query's whole attention.
constexpr std::int64_t kSample = 8;

class RoutedPlanner final : public Planner {
 public:
  RoutedPlanner(const PlanInputs& in, const PlanOptions& o)
      : in_(in), options_(o), index_(in.index->impl()),
        products_(index_, routed_tile_size(o, index_.options.sinks, in.visibility.causal) == 1),
        scratch_(static_cast<std::size_t>(std::max(1, in.workers))),
        log2_(static_cast<std::size_t>(index_.options.segment + 1)) {
    options_.sinks = index_.options.sinks;  // they are in no cluster
    for (std::size_t c = 1; c < log2_.size(); ++c) log2_[c] = std::log2(static_cast<float>(c));
  }

  std::int64_t tile() const noexcept override {
    return routed_tile_size(options_, options_.sinks, in_.visibility.causal);
  }

  bool shared_by_group() const noexcept override { return options_.heads_together; }

  std::int64_t dense_queries() const noexcept override {
    return queries_within(in_.visibility, options_.dense_until / tile() * tile());  // whole tiles
  }

  void plan(const Tile& tile, int worker, TilePlan& out) const override {
    const Layout x =
        make_layout(in_.visibility, tile, options_, index_.options.segment, in_.index->size());
    add_ranges(x, out);
    if (x.all()) return;
    Scratch& s = scratch_[static_cast<std::size_t>(worker)];
    s.estimator.clear();
    descend(tile, index_.head(tile.batch, tile.head / (in_.q.shape[1] / index_.h)), x, s, out);
  }

 private:
  // From the uppermost level that does not open as a whole down to the clusters.
  void descend(const Tile& tile, std::int64_t bh, const Layout& x, Scratch& s,
               TilePlan& out) const {
    const std::int64_t far_keys = x.local - x.sinks;
    const std::int64_t limit[KeyIndex::kLevels] = {
        x.far, options_.open_groups > 0 ? std::max(options_.open_groups, x.far) : 4 * x.far,
        options_.open_segments > 0 ? std::max(options_.open_segments, x.far) : far_keys};
    int level = KeyIndex::kLevels - 1;
    while (level > 0 && far_keys <= limit[level]) --level;
    load_top(bh, x.local / index_.options.segment, level, s);
    const Candidates* candidates = &s.top;
    for (;; --level) {
      if (candidates->keys > limit[level])
        choose(tile, x, *candidates, limit[level], s, out);
      else
        s.chosen.assign(candidates->node.begin(), candidates->node.begin() + candidates->size);
      if (level == 0) break;
      s.below.clear();
      for (const std::int32_t node : s.chosen) prefetch_children(bh, level, node);
      for (const std::int32_t node : s.chosen) add_children(bh, level, node, s.below);
      s.below.pack(products_);
      candidates = &s.below;
    }
    add_keys(bh, s.chosen, out);
  }

  void load_top(std::int64_t bh, std::int64_t segments, int level, Scratch& s) const {
    if (s.top_head != bh || s.top_level != level || s.top_segments > segments) {
      s.top.clear();
      s.top_head = bh, s.top_level = level, s.top_segments = 0;
    }
    const std::int64_t first = in_.index->first_node(level);
    const std::int64_t nodes = in_.index->nodes_per_segment(level);
    for (; s.top_segments < segments; ++s.top_segments)
      s.top.add_nodes(index_, bh, s.top_segments * index_.nodes + first, nodes, log2_.data());
    s.top.pack(products_);
  }

  void prefetch_children(std::int64_t bh, int level, std::int32_t node) const {
    const std::int64_t segment = segment_of(node), base = segment * index_.nodes;
    __builtin_prefetch(index_.counts_of(bh) + base);
    if (level == 1)
      __builtin_prefetch(index_.children_of(bh, segment) + (node - base - index_.clusters));
  }

  // 64-bit divisions would be seen.
  std::int64_t segment_of(std::int32_t node) const noexcept {
    return static_cast<std::uint32_t>(node) / static_cast<std::uint32_t>(index_.nodes);
  }

  void add_children(std::int64_t bh, int level, std::int32_t node, Candidates& to) const {
    const std::int64_t segment = segment_of(node), base = segment * index_.nodes;
    if (level == 2)
      return to.add_nodes(index_, bh, base + index_.clusters, index_.groups, log2_.data());
    const std::uint16_t* child = index_.children_of(bh, segment) + (node - base - index_.clusters);
    to.add_nodes(index_, bh, base + child[0], child[1] - child[0], log2_.data());
  }

  // s.chosen <- the candidates with most attention a key, within the limit; others may stand in.
  void choose(const Tile& tile, const Layout& x, const Candidates& c, std::int64_t limit,
              Scratch& s, TilePlan& out) const {
    const Candidates* read = nullptr;
    if (!s.estimator.started()) {
      s.estimator.start(in_.q, tile, options_.route_stride * tile.heads, products_);
      load_read(tile, x, s.read);
      read = &s.read;
    }
    const float scale = in_.scale * tile::kLog2E;
    out.products += s.estimator.estimate(c, read, scale, products_);
    const std::uint32_t threshold = products_.rows.threshold(
        s.estimator.rank.data(), c.count.data(), c.size, static_cast<float>(limit));
    // Above `worth` a node stands in: always or never, whatever the estimates, but for kAuto.
    const float worth = options_.standins == StandIns::kAuto   ? options_.standin_share
                        : options_.standins == StandIns::kNone ? 1e30f
                                                               : -2e30f;
    const auto n = static_cast<std::size_t>(c.size);
    const std::size_t before = out.nodes.size();
    s.chosen.resize(n + tile::kLanes);
    out.nodes.resize(before + n + tile::kLanes);
    int chosen = 0, standins = 0;
    products_.rows.partition(c.node.data(), s.estimator.rank.data(), s.estimator.share.data(),
                             c.size, threshold, worth, s.chosen.data(), &chosen,
                             out.nodes.data() + before, &standins);
    s.chosen.resize(static_cast<std::size_t>(chosen));
    out.nodes.resize(before + static_cast<std::size_t>(standins));
  }

  // Keys that are read anyway: all sinks, a sample of the window that the tile's first query sees.
  void load_read(const Tile& tile, const Layout& x, Candidates& to) const {
    to.clear();
    const std::int64_t h = tile.head / (in_.q.shape[1] / index_.h);
    for (std::int64_t j = 0; j < x.sinks; ++j) to.add_key(row(in_.k, tile.batch, h, j), 0.0f);
    const std::int64_t end = std::min(in_.visibility.end(tile.first), x.end);
    for (std::int64_t j = x.window; j < end; j += kSample)
      to.add_key(row(in_.k, tile.batch, h, j), log2_[kSample]);
    to.pack(products_);
  }

  void add_keys(std::int64_t bh, const std::vector<std::int32_t>& clusters, TilePlan& out) const {
    const std::int64_t size = index_.options.segment;
    const std::uint16_t *counts = index_.counts_of(bh), *begins = index_.begins_of(bh);
    std::size_t total = 0;
    for (const std::int32_t node : clusters) {
      __builtin_prefetch(index_.members_of(bh, segment_of(node)) + begins[node]);
      total += counts[node];
    }
    out.keys.resize(total);
    if (index_.options.packed) out.packed.resize(total);
    std::size_t at = 0;
    for (const std::int32_t node : clusters) {
      const std::int64_t segment = segment_of(node), begin = begins[node];
      const std::uint16_t* member = index_.members_of(bh, segment) + begin;
      const auto first = static_cast<std::int32_t>(segment * size);
      if (index_.options.packed)
        for (int j = 0; j < counts[node]; ++j)
          out.packed[at + static_cast<std::size_t>(j)] =
              static_cast<std::int32_t>(first + begin + j);
      for (int j = 0; j < counts[node]; ++j) out.keys[at++] = first + member[j];
    }
  }

  PlanInputs in_;
  PlanOptions options_;
  const KeyIndex::Impl& index_;
  RouteProducts products_;
  mutable std::vector<Scratch> scratch_;
  std::vector<float> log2_;
};

}  // namespace

std::unique_ptr<Planner> make_routed_planner(const PlanInputs& in, const PlanOptions& o) {
  check_visibility(in.visibility);
  check_plan_options(o);
  if (in.index == nullptr) fail("plan", "index of the routed planner", "null", "an index");
  return std::make_unique<RoutedPlanner>(in, o);
}

}  // namespace prescore
