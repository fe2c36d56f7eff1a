// HyperAttention (2310.05869) and its prescored form (2505.11040): exact leaves, and of every span
// of earlier leaves the block of the query's hash bucket and a weighted sample of the rest.
//
// The recursion by halves is a binary counter: before leaf number m lie the spans that end at m, at
// m without its lowest bit, and so on, each as many leaves long as the bit that was removed. A span
// therefore depends on its end alone, and nothing on how long the text will be.
#include <algorithm>
#include <cmath>
#include <string>
#include <tuple>
#include <unordered_set>
#include <vector>

#include "common/check.h"
#include "common/random.h"
#include "common/views.h"
#include "plan/hyper_sizes.h"
#include "plan/lsh.h"
#include "plan/planners.h"
#include "plan/selection.h"

namespace prescore {
namespace {

/// Keys between two leaf boundaries.
struct Span {
  HashOrder order;
  std::vector<float> log_weights;  ///< of the keys in that order; empty: all zero
  std::int64_t padding = 0;        ///< PublishedFlaws: zero rows behind the last

  /// Adds key number i in that order, `log_weight` on top of its own.
  void add(std::int64_t i, float log_weight, TilePlan& out) const {
    const auto at = static_cast<std::size_t>(i);
    if (!log_weights.empty()) log_weight += log_weights[at];
    if (log_weight != 0.0f || !out.log_weights.empty()) {
      out.log_weights.resize(out.keys.size(), 0.0f);
      out.log_weights.push_back(log_weight);
    }
    out.keys.push_back(order.keys[at]);
  }
};

class HyperPlanner final : public Planner {
 public:
  HyperPlanner(const PlanInputs& in, const PlanOptions& o)
      : in_(in), options_(o), sizes_(o, in.visibility.causal, in.visibility.n_kv),
        heads_(in.q.shape[1] / in.k.shape[1]), hash_(o.hyper.projections, in.k.shape[3], o.seed) {
    const Visibility& v = in_.visibility;
    last_leaf_ = far_leaf(v.end(v.n_q - 1));  // ends do not decrease
    if (last_leaf_ == 0) return;
    make_spans();
    make_codes();
    const std::int64_t heads = in_.k.shape[0] * in_.k.shape[1];
    groups_.resize(static_cast<std::size_t>(most_spans_ * heads));
    each(most_spans_ * heads, [&](std::int64_t i) { make_group(i / heads, i % heads); });
  }

  std::int64_t tile() const noexcept override { return sizes_.size; }
  bool shared_by_group() const noexcept override { return true; }
  std::int64_t parts() const noexcept override { return 1 + most_spans_; }
  std::vector<Tile> part_tiles(std::int64_t part) const override {
    const std::int64_t heads = in_.k.shape[0] * in_.k.shape[1];
    std::vector<Tile> tiles;
    for (std::int64_t i = (part - 1) * heads; i < part * heads; ++i) {
      const std::vector<Tile>& group = groups_[static_cast<std::size_t>(i)].tiles;
      tiles.insert(tiles.end(), group.begin(), group.end());
    }
    return tiles;
  }

  void plan(const Tile& tile, int, TilePlan& out) const override {
    if (tile.part > 0) {
      plan_bucket(tile, out);
      if (options_.flaws.zeroed) count_zero_rows(out);
      return;
    }
    const std::int64_t end = in_.visibility.end(tile.last - 1);
    const std::int64_t leaf = far_leaf(in_.visibility.end(tile.first));
    const std::int64_t begin = far_end(leaf), sinks = std::min(sizes_.sinks, begin);
    if (leaf == 0 || sinks >= begin) {
      if (end > 0) out.ranges.push_back({0, end});
      return;
    }
    if (sinks > 0) out.ranges.push_back({0, sinks});
    if (begin < end) out.ranges.push_back({begin, end});
  }

 private:
  /// The tiles of one part and one key head.
  struct Group {
    std::vector<Lane> lanes;
    std::vector<Tile> tiles;
  };

  template <typename Work>
  void each(std::int64_t n, const Work& work) const {
    if (in_.executor != nullptr)
      in_.executor->run(n, [&](std::int64_t i, int) { work(i); });
    else
      for (std::int64_t i = 0; i < n; ++i) work(i);
  }
  /// Products of rows [0, n) of a head with the hash's directions, [n][bits].
  void project(const Tensor& x, std::int64_t b, std::int64_t h, std::int64_t n, float* out) const {
    constexpr std::int64_t kRows = 4096;
    each((n + kRows - 1) / kRows, [&](std::int64_t i) {
      hash_.project(x, b, h, i * kRows, std::min(n, (i + 1) * kRows),
                    out + i * kRows * hash_.bits());
    });
  }

  std::int64_t far_leaf(std::int64_t end) const noexcept { return sizes_.far_leaf(end); }
  std::int64_t far_end(std::int64_t leaf) const noexcept { return sizes_.far_end(leaf); }
  static std::int64_t before(std::int64_t leaf) noexcept { return HyperSizes::before(leaf); }

  Span& span(std::int64_t bh, std::int64_t leaf) {
    return spans_[static_cast<std::size_t>(bh * (last_leaf_ + 1) + leaf)];
  }
  const Span& span(std::int64_t bh, std::int64_t leaf) const {
    return spans_[static_cast<std::size_t>(bh * (last_leaf_ + 1) + leaf)];
  }

  void make_spans() {
    const Visibility& v = in_.visibility;
    std::vector<bool> wanted(static_cast<std::size_t>(last_leaf_ + 1));
    for (std::int64_t i = 0; i < v.n_q; ++i) {
      std::int64_t spans = 0;
      for (std::int64_t leaf = far_leaf(v.end(i)); leaf > 0; leaf = before(leaf), ++spans)
        wanted[static_cast<std::size_t>(leaf)] = true;
      most_spans_ = std::max(most_spans_, spans);
    }
    const std::int64_t h_kv = in_.k.shape[1], heads = in_.k.shape[0] * h_kv;
    spans_.resize(static_cast<std::size_t>(heads * (last_leaf_ + 1)));
    std::vector<float> products(static_cast<std::size_t>(far_end(last_leaf_) * hash_.bits()));
    for (std::int64_t bh = 0; bh < heads; ++bh) {
      project(in_.k, bh / h_kv, bh % h_kv, far_end(last_leaf_), products.data());
      each(last_leaf_, [&](std::int64_t i) {
        if (wanted[static_cast<std::size_t>(i + 1)]) sort_span(bh, i + 1, products);
      });
    }
  }

  void sort_span(std::int64_t bh, std::int64_t leaf, const std::vector<float>& products) {
    Span& s = span(bh, leaf);
    const Candidates c = candidates(bh, leaf);
    s.order = hash_order(c.keys, hash_, products.data(), options_.hyper.centred);
    s.log_weights.resize(c.log_weights.size());
    for (std::size_t i = 0; i < s.log_weights.size(); ++i) {
      const auto at = std::ranges::lower_bound(c.keys, s.order.keys[i]) - c.keys.begin();
      s.log_weights[i] = c.log_weights[static_cast<std::size_t>(at)];
    }
    const auto n = static_cast<std::int64_t>(s.order.keys.size());
    if (options_.flaws.padding && options_.hyper.block > 0)
      s.padding = round_up(n, options_.hyper.block) - n;
  }

  /// Keys, ascending, and their log-weights, or none: all zero.
  struct Candidates {
    std::vector<std::int32_t> keys;
    std::vector<float> log_weights;
  };

  /// The keys of a span: all, or those among the best of everything up to its end. Of spans that
  /// end before the first fit of the scores all.
  Candidates candidates(std::int64_t bh, std::int64_t leaf) const {
    const std::int64_t begin = std::max(far_end(before(leaf)), sizes_.sinks);
    const std::int64_t end = far_end(leaf), sinks = std::min(sizes_.sinks, end);
    Candidates out;
    if (options_.method == Method::kHyper || end - sinks <= options_.hyper.selected ||
        (in_.visibility.causal && end < in_.score_segment)) {
      for (std::int64_t j = begin; j < end; ++j) out.keys.push_back(static_cast<std::int32_t>(j));
      return out;
    }
    std::vector<Choosable> best =
        choose_keys({scores_until(in_, bh, end), static_cast<std::size_t>(end)}, sinks, end,
                    options_.hyper.selected, options_, bh);
    const auto n = std::min(best.size(), static_cast<std::size_t>(options_.hyper.selected));
    const double bar = best.size() > n ? best[n].rank : -HUGE_VAL;
    best.resize(n);
    std::ranges::sort(best, {}, &Choosable::key);
    for (const Choosable& c : best) {
      if (c.key < begin) continue;
      out.keys.push_back(c.key);
      if (weighs_draws(options_)) out.log_weights.push_back(draw_log_weight(c, bar));
    }
    if (options_.flaws.zeroed) {
      const std::size_t removed = static_cast<std::size_t>(end - begin) - out.keys.size();
      out.keys.insert(out.keys.begin(), removed, kNoKey);
      if (!out.log_weights.empty()) out.log_weights.insert(out.log_weights.begin(), removed, 0.0f);
    }
    return out;
  }

  // A query's bucket is the same in every span.
  void make_codes() {
    const std::int64_t n_q = in_.visibility.n_q, h_q = in_.q.shape[1];
    const auto bits = static_cast<std::size_t>(hash_.bits());
    std::vector<float> products(static_cast<std::size_t>(n_q) * bits);
    const std::vector<float> origin(bits, 0.0f);
    place_.resize(static_cast<std::size_t>(in_.q.shape[0] * h_q * n_q));
    for (std::int64_t bh = 0; bh < in_.q.shape[0] * h_q; ++bh) {
      project(in_.q, bh / h_q, bh % h_q, n_q, products.data());
      if (in_.scale < 0)  // attention then prefers the opposite direction
        for (float& x : products) x = -x;
      for (std::int64_t i = 0; i < n_q; ++i)
        place_[static_cast<std::size_t>(bh * n_q + i)] = static_cast<std::uint16_t>(hamming_place(
            hash_.code(products.data() + static_cast<std::size_t>(i) * bits, origin.data())));
    }
  }

  // Queries with the same span and bucket, of all heads of a group, are computed together.
  void make_group(std::int64_t number, std::int64_t bh) {
    struct Entry {
      std::int64_t leaf, step;
      std::uint16_t place;
      Lane lane;
      auto key() const { return std::tuple(leaf, step, place, lane.head, lane.query); }
    };
    const Visibility& v = in_.visibility;
    const std::int64_t h_q = in_.q.shape[1], h_kv = in_.k.shape[1], b = bh / h_kv;
    const std::int64_t head = bh % h_kv * heads_;
    std::vector<Entry> entries;
    for (std::int64_t i = 0; i < v.n_q; ++i) {
      std::int64_t leaf = far_leaf(v.end(i));
      const std::int64_t step = sizes_.step(v.end(i), far_end(leaf));
      for (std::int64_t n = 0; n < number; ++n) leaf = before(leaf);
      if (leaf == 0) continue;
      for (std::int64_t h = head; h < head + heads_; ++h)
        entries.push_back({leaf, step, place_[static_cast<std::size_t>((b * h_q + h) * v.n_q + i)],
                           Lane{static_cast<std::int32_t>(h), static_cast<std::int32_t>(i)}});
    }
    std::ranges::sort(entries, {}, &Entry::key);
    Group& group = groups_[static_cast<std::size_t>(number * in_.k.shape[0] * h_kv + bh)];
    group.lanes.reserve(entries.size());
    for (const Entry& e : entries) group.lanes.push_back(e.lane);
    constexpr std::size_t kMostLanes = 256;
    for (std::size_t first = 0, last = 0; first < entries.size(); first = last) {
      const Entry& e = entries[first];
      while (last < entries.size() && last - first < kMostLanes && entries[last].leaf == e.leaf &&
             entries[last].step == e.step && entries[last].place == e.place)
        ++last;
      group.tiles.push_back({b, head, static_cast<std::int64_t>(first),
                             static_cast<std::int64_t>(last), group.lanes.data(), number + 1,
                             (e.leaf * sizes_.steps + e.step) * hash_.buckets() + e.place});
    }
  }

  void plan_bucket(const Tile& tile, TilePlan& out) const {
    const std::int64_t place = tile.tag % hash_.buckets(), at = tile.tag / hash_.buckets();
    const std::int64_t leaf = at / sizes_.steps;
    const std::int64_t bh = tile.batch * in_.k.shape[1] + tile.head / heads_;
    const Span& s = span(bh, leaf);
    const HashOrder& order = s.order;
    // Of the spans before a query's leaf, part - 1 end behind this one.
    const SpanSizes size =
        sizes_.of_span(at % sizes_.steps, tile.part - 1 + HyperSizes::spans_before(leaf));
    const auto n = static_cast<std::int64_t>(order.keys.size());
    const std::int64_t most = std::min(size.block, n + s.padding);
    const auto c = static_cast<std::size_t>(place);
    const std::int64_t middle = (order.start[c] + order.start[c + 1]) / 2;
    const std::int64_t begin =
        std::min(n, std::clamp<std::int64_t>(middle - most / 2, 0, n + s.padding - most));
    const std::int64_t block = std::min(most, n - begin), rest = n - block;
    out.keys.assign(order.keys.begin() + begin, order.keys.begin() + begin + block);
    if (!s.log_weights.empty())
      out.log_weights.assign(s.log_weights.begin() + begin, s.log_weights.begin() + begin + block);
    out.zero_rows = static_cast<float>(most - block);
    if (size.samples == 0) return;
    if (options_.flaws.repeats) return sample_anything(s, size, stream_of(bh, tile), out);
    const bool all = size.samples >= rest;
    const float log_weight =
        all ? 0.0f : std::log(static_cast<float>(rest) / static_cast<float>(size.samples));
    const auto add = [&](std::int64_t i) { s.add(i < begin ? i : i + block, log_weight, out); };
    if (all)
      for (std::int64_t i = 0; i < rest; ++i) add(i);
    else
      sample(rest, size.samples, stream_of(bh, tile), add);
  }

  std::uint64_t stream_of(std::int64_t bh, const Tile& tile) const noexcept {
    return mix(mix(options_.seed) + static_cast<std::uint64_t>(bh)) +
           static_cast<std::uint64_t>(tile.tag);
  }

  // PublishedFlaws::repeats.
  static void sample_anything(const Span& s, const SpanSizes& size, std::uint64_t stream,
                              TilePlan& out) {
    const auto n = static_cast<std::int64_t>(s.order.keys.size());
    if (n <= size.block) return;
    const float log_weight = std::log(static_cast<float>(n) / static_cast<float>(size.samples));
    const std::uint64_t start = mix(stream);
    for (std::int64_t i = 0; i < size.samples; ++i) {
      const double at = unit(mix(start + static_cast<std::uint64_t>(i))) * static_cast<double>(n);
      s.add(std::min(n - 1, std::int64_t(at)), log_weight, out);
    }
  }

  // PublishedFlaws::zeroed: keys that are not there become zero rows of the plan.
  static void count_zero_rows(TilePlan& out) {
    std::size_t kept = 0;
    for (std::size_t i = 0; i < out.keys.size(); ++i) {
      const float weight = out.log_weights.empty() ? 0.0f : out.log_weights[i];
      if (out.keys[i] == kNoKey) {
        out.zero_rows += std::exp(weight);
        continue;
      }
      out.keys[kept] = out.keys[i];
      if (!out.log_weights.empty()) out.log_weights[kept] = weight;
      ++kept;
    }
    out.keys.resize(kept);
    if (!out.log_weights.empty()) out.log_weights.resize(kept);
  }

  // Without replacement, in as many draws as samples (Floyd; Bentley 1987).
  template <typename Add>
  static void sample(std::int64_t rest, std::int64_t samples, std::uint64_t stream,
                     const Add& add) {
    std::unordered_set<std::int64_t> drawn;
    const std::uint64_t start = mix(stream);
    for (std::int64_t i = rest - samples; i < rest; ++i) {
      const double u = unit(mix(start + static_cast<std::uint64_t>(i)));
      const auto t = std::min(i, static_cast<std::int64_t>(u * static_cast<double>(i + 1)));
      const std::int64_t pick = drawn.contains(t) ? i : t;
      drawn.insert(pick);
      add(pick);
    }
  }

  PlanInputs in_;
  PlanOptions options_;
  HyperSizes sizes_;
  std::int64_t heads_;  // query heads of a key head
  AngularHash hash_;
  std::int64_t last_leaf_ = 0, most_spans_ = 0;
  std::vector<Span> spans_;           // [batch and key head][leaf at which a span ends]
  std::vector<std::uint16_t> place_;  // [b][h_q][n_q]
  std::vector<Group> groups_;         // [part - 1][batch and key head]
};

}  // namespace

std::unique_ptr<Planner> make_hyper_planner(const PlanInputs& in, const PlanOptions& o) {
  check_visibility(in.visibility);
  if (o.method == Method::kPrescoredHyper && in.scores.empty() &&
      in.visibility.n_kv >= in.score_segment)
    fail("plan", "scores of the prescored hyper planner", "null", "scores of every key");
  if (o.method == Method::kPrescoredHyper && o.adaptive > 0)
    fail("plan", "adaptive of prescored hyper", std::to_string(o.adaptive), "0");
  return std::make_unique<HyperPlanner>(in, o);
}

}  // namespace prescore
