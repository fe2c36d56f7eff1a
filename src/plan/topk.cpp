// Sinks, window and the far keys with the best query-independent score (2505.11040).
#include <cmath>
#include <mutex>
#include <vector>

#include "common/check.h"
#include "plan/planners.h"
#include "plan/selection.h"

namespace prescore {
namespace {

class TopKPlanner final : public Planner {
 public:
  TopKPlanner(const PlanInputs& in, const PlanOptions& o)
      : in_(in), options_(o), h_kv_(in.k.shape[1]),
        // Not causal: no query knows less than all keys.
        segment_(in.visibility.causal ? in.score_segment
                                      : std::max<std::int64_t>(1, in.visibility.n_kv)),
        boundaries_(in.visibility.n_kv / segment_ + 1),
        best_(static_cast<std::size_t>(in.k.shape[0] * h_kv_ * boundaries_)) {}

  void plan(const Tile& tile, int, TilePlan& out) const override {
    const Layout x = make_layout(in_.visibility, tile, options_, segment_, in_.visibility.n_kv);
    add_ranges(x, out);
    if (x.all() || x.far == 0) return;
    const std::int64_t h = tile.head / (in_.q.shape[1] / h_kv_);
    const std::vector<Choosable>& best = order(tile.batch * h_kv_ + h, x);
    const std::int64_t n = options_.adaptive > 0
                               ? competed(tile.batch, h, x)
                               : std::min(x.far, static_cast<std::int64_t>(best.size()));
    add_keys(best, n, out);
  }
  std::int64_t tile() const noexcept override {
    return tile_size(options_, options_.sinks, in_.visibility.causal);
  }
  bool shared_by_group() const noexcept override { return true; }

 private:
  /// Of one boundary: chosen once, by the first tile that asks. May be empty.
  struct Best {
    std::once_flag chosen;
    std::vector<Choosable> keys;
  };

  // The best far keys before one boundary, best first; all tiles up to the next boundary share
  // them.
  const std::vector<Choosable>& order(std::int64_t bh, const Layout& x) const {
    Best& best = best_[static_cast<std::size_t>(bh * boundaries_ + x.local / segment_)];
    std::call_once(best.chosen, [&] {
      const float* scores = scores_until(in_, bh, x.local);
      const std::int64_t most = options_.adaptive > 0 ? options_.budget * h_kv_ : options_.budget;
      best.keys = choose_keys({scores, static_cast<std::size_t>(x.local)}, x.sinks, x.local, most,
                              options_, bh);
    });
    return best.keys;
  }

  // Far keys of head h where all key heads compete (Ada-KV, 2407.11550): a part is the same for
  // all, the rest goes to the largest shares of the own head's sum of scores, which count from the
  // lowest of them where that is negative.
  std::int64_t competed(std::int64_t b, std::int64_t h, const Layout& x) const {
    const auto floor = static_cast<std::int64_t>(
        std::ceil(static_cast<double>(x.far) * (1.0 - double{options_.adaptive})));
    struct Bid {
      double share;
      std::int64_t place, head;  // place: in the head's order, so that equal bids take turns
    };
    std::vector<Bid> bids;
    std::vector<std::int64_t> count(static_cast<std::size_t>(h_kv_));
    std::int64_t open = h_kv_ * x.far;
    for (std::int64_t i = 0; i < h_kv_; ++i) {
      const std::vector<Choosable>& best = order(b * h_kv_ + i, x);
      double lowest = 0, total = 0;
      for (const Choosable& c : best)
        if (std::isfinite(c.score)) lowest = std::min(lowest, double{c.score});
      for (const Choosable& c : best)
        if (std::isfinite(c.score)) total += double{c.score} - lowest;
      const auto n = static_cast<std::int64_t>(best.size());
      count[static_cast<std::size_t>(i)] = std::min(floor, n);
      open -= std::min(floor, n);
      for (std::int64_t j = floor; j < n; ++j)
        bids.push_back({total > 0 ? (best[static_cast<std::size_t>(j)].rank - lowest) / total
                                  : 1.0 / static_cast<double>(n),
                        j, i});
    }
    const auto won = static_cast<std::size_t>(
        std::clamp<std::int64_t>(open, 0, static_cast<std::int64_t>(bids.size())));
    std::stable_sort(bids.begin(), bids.end(), [](const Bid& a, const Bid& c) {
      return a.share != c.share ? a.share > c.share : a.place < c.place;
    });
    for (std::size_t i = 0; i < won; ++i) ++count[static_cast<std::size_t>(bids[i].head)];
    return count[static_cast<std::size_t>(h)];
  }

  void add_keys(const std::vector<Choosable>& best, std::int64_t n, TilePlan& out) const {
    for (std::int64_t i = 0; i < n; ++i) out.keys.push_back(best[static_cast<std::size_t>(i)].key);
    if (weighs_draws(options_)) {
      sample_log_weights(best, n, out.log_weights);
      return;  // in the order of the draw
    }
    std::sort(out.keys.begin(), out.keys.end());
  }

  PlanInputs in_;
  PlanOptions options_;
  std::int64_t h_kv_, segment_, boundaries_;
  mutable std::vector<Best> best_;  // [batch and key head][boundary]
};

}  // namespace

std::unique_ptr<Planner> make_topk_planner(const PlanInputs& in, const PlanOptions& o) {
  check_visibility(in.visibility);
  check_plan_options(o);
  if (in.scores.empty() && in.visibility.n_kv >= (in.visibility.causal ? in.score_segment : 1))
    fail("plan", "scores of the top-k planner", "null", "scores of every key");
  if (o.adaptive > 0 && o.selection == Selection::kSample)
    fail("plan", "adaptive budgets with drawn keys", "both", "one of them");
  return std::make_unique<TopKPlanner>(in, o);
}

}  // namespace prescore
