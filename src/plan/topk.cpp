// Sinks, window and the far keys with the best query-independent score (2505.11040).
#include <functional>
#include <mutex>
#include <vector>

#include "common/check.h"
#include "plan/planners.h"

namespace prescore {
namespace {

class TopKPlanner final : public Planner {
 public:
  TopKPlanner(const PlanInputs& in, const PlanOptions& o) : in_(in), options_(o) {
    const std::int64_t boundaries = in.visibility.n_kv / in.score_segment + 1;
    order_.resize(static_cast<std::size_t>(in.k.shape[0] * in.k.shape[1] * boundaries));
  }

  void plan(const Tile& tile, int, TilePlan& out) const override {
    const Layout x =
        make_layout(in_.visibility, tile, options_, in_.score_segment, in_.visibility.n_kv);
    add_ranges(x, out);
    if (x.all() || x.far == 0) return;
    const std::int64_t h_kv = in_.k.shape[1];
    const std::int64_t bh = tile.batch * h_kv + tile.head / (in_.q.shape[1] / h_kv);
    const std::vector<std::int32_t>& best = order(bh, x);
    const auto n = static_cast<std::size_t>(std::min(x.far, x.local - x.sinks));
    out.keys.assign(best.begin(), best.begin() + static_cast<std::ptrdiff_t>(n));
    std::sort(out.keys.begin(), out.keys.end());
  }
  std::int64_t tile() const noexcept override { return tile_size(options_, options_.sinks); }
  bool shared_by_group() const noexcept override { return true; }

 private:
  // The best far keys before one boundary, best first; all tiles up to the next boundary share
  // them.
  const std::vector<std::int32_t>& order(std::int64_t bh, const Layout& x) const {
    const std::int64_t boundaries = in_.visibility.n_kv / in_.score_segment + 1;
    std::vector<std::int32_t>& best =
        order_[static_cast<std::size_t>(bh * boundaries + x.local / in_.score_segment)];
    const std::scoped_lock lock(mutex_);
    if (best.empty()) {
      std::vector<std::uint64_t> keys = order_keys(in_, bh, x.sinks, x.local);
      const std::int64_t n =
          std::min<std::int64_t>(static_cast<std::int64_t>(keys.size()), options_.budget);
      std::partial_sort(keys.begin(), keys.begin() + n, keys.end(), std::greater<>());
      for (std::int64_t i = 0; i < n; ++i)
        best.push_back(order_id(keys[static_cast<std::size_t>(i)]));
    }
    return best;
  }

  PlanInputs in_;
  PlanOptions options_;
  mutable std::mutex mutex_;
  mutable std::vector<std::vector<std::int32_t>> order_;
};

}  // namespace

std::unique_ptr<Planner> make_topk_planner(const PlanInputs& in, const PlanOptions& o) {
  check_visibility(in.visibility);
  check_plan_options(o);
  if (in.scores == nullptr || in.score_levels < 1)
    fail("plan", "scores of the top-k planner", "null", "scores of every key");
  return std::make_unique<TopKPlanner>(in, o);
}

}  // namespace prescore
