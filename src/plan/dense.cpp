// Every visible key.
#include "plan/planners.h"

namespace prescore {
namespace {

class DensePlanner final : public Planner {
 public:
  DensePlanner(const PlanInputs& in, const PlanOptions&)
      : visibility_(in.visibility), tile_(dense_tile_size(in.q.shape[1] / in.k.shape[1])) {}
  void plan(const Tile& tile, int, TilePlan& out) const override {
    const std::int64_t end = visibility_.end(tile.last - 1);
    if (end > 0) out.ranges.push_back({0, end});
  }
  std::int64_t tile() const noexcept override { return tile_; }
  bool shared_by_group() const noexcept override { return true; }

 private:
  Visibility visibility_;
  std::int64_t tile_;
};

}  // namespace

std::unique_ptr<Planner> make_dense_planner(const PlanInputs& in, const PlanOptions& o) {
  check_visibility(in.visibility);
  return std::make_unique<DensePlanner>(in, o);
}

}  // namespace prescore
