// Sinks and the most recent keys: the baseline that every sparse method has to beat.
#include "plan/planners.h"

namespace prescore {
namespace {

class WindowPlanner final : public Planner {
 public:
  WindowPlanner(const PlanInputs& in, const PlanOptions& o)
      : visibility_(in.visibility), options_(o) {}

  void plan(const Tile& tile, int, TilePlan& out) const override {
    const PlanOptions& o = options_;  // without dense_until, which asks for a fallback
    add_ranges(window_layout(visibility_.end(tile.last - 1), {o.budget, 0, o.sinks, o.window}),
               out);
  }
  std::int64_t tile() const noexcept override {
    return tile_size(options_, options_.sinks, visibility_.causal);
  }
  bool shared_by_group() const noexcept override { return true; }

 private:
  Visibility visibility_;
  PlanOptions options_;
};

}  // namespace

std::unique_ptr<Planner> make_window_planner(const PlanInputs& in, const PlanOptions& o) {
  check_visibility(in.visibility);
  check_plan_options(o);
  return std::make_unique<WindowPlanner>(in, o);
}

}  // namespace prescore
