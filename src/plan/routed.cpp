// Clusters of keys as an index: a tile descends the tree of each segment and reads the clusters in
// which its queries would spend most of their attention; nodes that it does not open stand in.
#include <cmath>
#include <vector>

#include "common/check.h"
#include "common/views.h"
#include "index/index_impl.h"
#include "plan/planners.h"
#include "tile/tile.h"

namespace prescore {
namespace {

using tile::kLanes;

// Nodes that compete, as rows of a product.
struct Candidates {
  std::vector<std::int32_t> node;
  std::vector<float> count, weight;  // keys, and their log2
  std::vector<const void*> row;      // mean key
  Buffer<std::byte> block;           // the rows, converted
  int n_pad = 0;
  std::int64_t keys = 0;

  void clear() {
    node.clear(), count.clear(), weight.clear(), row.clear();
    keys = 0;
  }
};

struct Scratch {
  // The uppermost candidates depend on the head and on where the far keys end alone; they are kept
  // for the next tile, which mostly has the same.
  Candidates top;
  std::int64_t top_head = -1, top_end = -1;
  Candidates below, chosen;
  Candidates read;  // keys that are read anyway
  Buffer<float> query, score, read_score, dot;
  Buffer<std::byte> packed;
  std::vector<float> mean;                         // of candidates
  std::vector<float> peak, sum, far_total, total;  // of lanes
  std::vector<std::uint32_t> rank;
  std::int64_t lanes = 0;  // queries that route; 0: not loaded yet
  int fitted = 0;          // of them, from the first on, those whose `total` is known
};

// Every kSample-th key of the window takes part in the estimate of a query's whole attention.
constexpr std::int64_t kSample = 8;
// More candidates than this (far keys beyond 32,768 in groups of 32) are searched by one lane
// vector of the routing queries only, so that planning stays below reading.
constexpr std::size_t kManyCandidates = 1024;

class RoutedPlanner final : public Planner {
 public:
  RoutedPlanner(const PlanInputs& in, const PlanOptions& o)
      : in_(in), options_(o), index_(in.index->impl()),
        kernels_(tile::kernels(in.k.dtype != DType::kF32)), rows_(tile::row_kernels()),
        scratch_(static_cast<std::size_t>(std::max(1, in.workers))),
        log2_(static_cast<std::size_t>(index_.options.segment + 1)) {
    options_.sinks = index_.options.sinks;  // they are in no cluster
    d_pad_ = round_up(index_.d, kernels_.d_multiple);
    for (std::size_t c = 1; c < log2_.size(); ++c) log2_[c] = std::log2(static_cast<float>(c));
  }

  std::int64_t tile() const noexcept override { return tile_size(options_, options_.sinks); }

  bool single() const noexcept { return tile_size(options_, options_.sinks) == 1; }

  void plan(const Tile& tile, int worker, TilePlan& out) const override {
    const Layout x =
        make_layout(in_.visibility, tile, options_, index_.options.segment, in_.index->size());
    add_ranges(x, out);
    if (x.all()) return;
    Scratch& s = scratch_[static_cast<std::size_t>(worker)];
    s.lanes = 0;
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
    load_top(bh, x, level, s);
    const Candidates* candidates = &s.top;
    for (;; --level) {
      if (candidates->keys > limit[level])
        choose(tile, x, *candidates, limit[level], s, out);
      else
        s.chosen.node.assign(candidates->node.begin(), candidates->node.end());
      if (level == 0) break;
      s.below.clear();
      for (const std::int32_t node : s.chosen.node) add_children(bh, level, node, s.below);
      load_block(s.below);
      candidates = &s.below;
    }
    add_keys(bh, s.chosen.node, out);
  }

  void load_top(std::int64_t bh, const Layout& x, int level, Scratch& s) const {
    const std::int64_t end = x.local * KeyIndex::kLevels + level;
    if (s.top_head == bh && s.top_end == end) return;
    s.top_head = bh;
    s.top_end = end;
    s.top.clear();
    const std::int64_t first = in_.index->first_node(level);
    const std::int64_t nodes = in_.index->nodes_per_segment(level);
    for (std::int64_t segment = 0; segment < x.local / index_.options.segment; ++segment)
      add_nodes(bh, segment * index_.nodes + first, nodes, s.top);
    load_block(s.top);
  }

  void add_nodes(std::int64_t bh, std::int64_t first, std::int64_t n, Candidates& to) const {
    const std::uint16_t* counts = index_.counts_of(bh);
    for (std::int64_t node = first; node < first + n; ++node) {
      const std::uint16_t count = counts[node];
      if (count == 0) continue;
      to.node.push_back(static_cast<std::int32_t>(node));
      to.count.push_back(count);
      to.weight.push_back(log2_[count]);
      to.row.push_back(index_.key_of(bh, node));
      to.keys += count;
    }
  }

  void add_children(std::int64_t bh, int level, std::int64_t node, Candidates& to) const {
    const std::int64_t segment = node / index_.nodes, base = segment * index_.nodes;
    if (level == 2) return add_nodes(bh, base + index_.clusters, index_.groups, to);
    const std::uint16_t* child = index_.children_of(bh, segment) + (node - base - index_.clusters);
    add_nodes(bh, base + child[0], child[1] - child[0], to);
  }

  // Converts the rows for tiles; single queries read them as they lie.
  void load_block(Candidates& c) const {
    if (single() || c.row.empty()) return;
    const auto n = static_cast<int>(c.row.size());
    c.n_pad = static_cast<int>(round_up(n, kernels_.block_multiple));
    kernels_.load_k(c.row.data(), index_.k_type, n, c.n_pad, static_cast<int>(index_.d),
                    static_cast<int>(d_pad_),
                    c.block.reserve(c.n_pad * d_pad_ * (kernels_.bf16 ? 2 : 4)));
  }

  // s.chosen <- the candidates with most attention a key, within the limit; others may stand in.
  void choose(const Tile& tile, const Layout& x, const Candidates& c, std::int64_t limit,
              Scratch& s, TilePlan& out) const {
    const std::size_t n = c.node.size();
    const auto count = static_cast<int>(n);
    const bool everything = options_.standins == StandIns::kNodes;
    const float worth = options_.standins == StandIns::kAuto ? options_.standin_share : 2.0f;
    out.products += estimate(tile, x, c, worth, s);
    float left = static_cast<float>(limit);
    const std::uint32_t threshold = rows_.threshold(s.rank.data(), c.count.data(), count, &left);
    for (std::size_t i = 0; i < n && left > 0; ++i)  // ties just below: the earliest that fit
      if (s.rank[i] == threshold - 1 && c.count[i] <= left) {
        s.rank[i] = threshold;
        left -= c.count[i];
      }
    // Both lists are written always and advanced by the outcome: which way a node goes is as good
    // as random, and a branch would be mispredicted.
    s.chosen.node.resize(n);
    const std::size_t before = out.nodes.size();
    out.nodes.resize(before + n);
    std::int32_t *kept = s.chosen.node.data(), *stand_in = out.nodes.data() + before;
    for (std::size_t i = 0; i < n; ++i) {
      const bool keep = s.rank[i] >= threshold;
      *kept = *stand_in = c.node[i];
      kept += keep;
      stand_in += static_cast<int>(!keep) & static_cast<int>(everything || s.mean[i] > worth);
    }
    s.chosen.node.resize(static_cast<std::size_t>(kept - s.chosen.node.data()));
    out.nodes.resize(static_cast<std::size_t>(stand_in - out.nodes.data()));
  }

  // s.rank <- how much the query that wants a candidate most would attend to it, among the
  // candidates: every query has the same say, however little it looks far back. s.mean <- its share
  // of the whole attention, averaged over the queries; the whole is estimated at the first level of
  // a tile, from its candidates, the sinks and a sample of the window. Returns the number of
  // products.
  std::int64_t estimate(const Tile& tile, const Layout& x, const Candidates& c, float worth,
                        Scratch& s) const {
    const bool first = s.lanes == 0;
    if (first) load_queries(tile, s);
    const std::int64_t wanted =
        c.row.size() > kManyCandidates ? std::min<std::int64_t>(s.lanes, kLanes) : s.lanes;
    const auto n = static_cast<int>(c.row.size()), lanes = static_cast<int>(wanted);
    if (first) s.fitted = lanes;
    const auto vecs = static_cast<int>(round_up(lanes, kLanes) / kLanes);
    s.rank.resize(static_cast<std::size_t>(n));
    s.mean.resize(static_cast<std::size_t>(n));
    const std::ptrdiff_t s_vec = round_up(n, kernels_.block_multiple) * kLanes;
    float* score = s.score.reserve(vecs * s_vec);
    const float scale = in_.scale * 1.44269504f;
    std::int64_t products = std::int64_t{n} * lanes;

    // In pieces whose scores are still in cache when their total is taken.
    constexpr int kPiece = 128;
    std::fill(s.peak.begin(), s.peak.end(), tile::kEmptyMax);
    std::fill(s.sum.begin(), s.sum.end(), 0.0f);
    for (int j = 0; j < n; j += kPiece) {
      const int rows = std::min(kPiece, n - j);
      multiply(c, j, rows, vecs, score + j * kLanes, s_vec, s);
      rows_.add_totals(score + j * kLanes, s_vec, rows, lanes, scale, c.weight.data() + j,
                       s.peak.data(), s.sum.data());
    }
    const auto take_total = [&](std::vector<float>& total) {
      for (std::size_t i = 0; i < static_cast<std::size_t>(lanes); ++i)
        total[i] = s.peak[i] + std::log2(s.sum[i]);
    };
    take_total(s.far_total);
    if (first) {
      add_read_keys(tile, x, s.read);
      load_block(s.read);
      const auto rows = static_cast<int>(s.read.row.size());
      const std::ptrdiff_t read_vec = round_up(rows, kernels_.block_multiple) * kLanes;
      float* read = s.read_score.reserve(vecs * read_vec);
      multiply(s.read, 0, rows, vecs, read, read_vec, s);
      rows_.add_totals(read, read_vec, rows, lanes, scale, s.read.weight.data(), s.peak.data(),
                       s.sum.data());
      take_total(s.total);
      products += std::int64_t{rows} * lanes;
    }
    rows_.rank_rows(score, s_vec, n, lanes, std::min(lanes, s.fitted), scale, c.weight.data(),
                    s.far_total.data(), s.total.data(), worth, s.rank.data(), s.mean.data());
    return products;
  }

  // Scores of rows [first, first + n) of the candidates.
  void multiply(const Candidates& c, int first, int n, int vecs, float* score, std::ptrdiff_t s_vec,
                Scratch& s) const {
    if (n == 0) return;
    if (single()) {
      float* dot = s.dot.reserve(n);
      rows_.dots(s.query.data(), c.row.data() + first, index_.k_type, n, static_cast<int>(index_.d),
                 dot);
      for (int j = 0; j < n; ++j) score[j * kLanes] = dot[j];
      return;
    }
    const std::int64_t width = kernels_.bf16 ? 2 : 4;
    kernels_.scores(c.block.data() + first * d_pad_ * width,
                    static_cast<int>(round_up(n, kernels_.block_multiple)), s.packed.data(), vecs,
                    static_cast<int>(d_pad_), score, s_vec);
  }

  // Keys that are read anyway: all sinks, a sample of the window that the tile's first query sees.
  void add_read_keys(const Tile& tile, const Layout& x, Candidates& to) const {
    to.clear();
    const std::int64_t h = tile.head / (in_.q.shape[1] / index_.h);
    const auto add = [&](std::int64_t j, float weight) {
      to.row.push_back(row(in_.k, tile.batch, h, j));
      to.weight.push_back(weight);
    };
    for (std::int64_t j = 0; j < x.sinks; ++j) add(j, 0.0f);
    const std::int64_t end = std::min(in_.visibility.end(tile.first), x.end);
    for (std::int64_t j = x.window; j < end; j += kSample) add(j, log2_[kSample]);
  }

  // Every route_stride-th query of the tile, counted back from its last; first every second of
  // them.
  void load_queries(const Tile& tile, Scratch& s) const {
    const std::int64_t stride = options_.route_stride;
    s.lanes = (tile.last - tile.first + stride - 1) / stride;
    const std::int64_t lanes_pad = round_up(s.lanes, kLanes);
    s.peak.assign(static_cast<std::size_t>(lanes_pad), tile::kEmptyMax);
    s.sum.assign(static_cast<std::size_t>(lanes_pad), 0.0f);
    s.far_total.assign(static_cast<std::size_t>(lanes_pad), 0.0f);
    s.total.assign(static_cast<std::size_t>(lanes_pad), 0.0f);
    float* q = s.query.reserve(lanes_pad * d_pad_);
    std::fill_n(q, lanes_pad * d_pad_, 0.0f);
    std::int64_t lane = 0;
    for (const std::int64_t phase : {0, 2, 1, 3})
      for (std::int64_t i = tile.last - 1 - phase * stride; i >= tile.first;
           i -= 4 * stride, ++lane)
        rows_.to_f32(row(in_.q, tile.batch, tile.head, i), in_.q.dtype, static_cast<int>(index_.d),
                     q + lane * d_pad_);
    if (!single())
      kernels_.pack_q(q, static_cast<int>(lanes_pad / kLanes), static_cast<int>(d_pad_),
                      s.packed.reserve(lanes_pad * d_pad_ * (kernels_.bf16 ? 2 : 4)));
  }

  void add_keys(std::int64_t bh, const std::vector<std::int32_t>& clusters, TilePlan& out) const {
    const std::int64_t size = index_.options.segment;
    const std::uint16_t *counts = index_.counts_of(bh), *begins = index_.begins_of(bh);
    std::size_t total = 0;
    for (const std::int32_t node : clusters) total += counts[node];
    out.keys.resize(total);
    if (index_.options.packed) out.packed.resize(total);
    std::size_t at = 0;
    for (const std::int32_t node : clusters) {
      const std::int64_t segment = node / index_.nodes, begin = begins[node];
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
  const tile::Kernels& kernels_;
  const tile::RowKernels& rows_;
  std::int64_t d_pad_ = 0;
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
