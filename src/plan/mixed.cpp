// Budgets by head: heads with the same budget are a class with a planner of its own.
#include <algorithm>
#include <array>
#include <map>
#include <tuple>
#include <vector>

#include "common/check.h"
#include "plan/planners.h"

namespace prescore {

ResolvedBudgets resolve_heads(const PlanOptions& o, std::int64_t h_q, std::int64_t h_kv) {
  check(static_cast<std::int64_t>(o.heads.size()) == h_q, "plan", "budgets by head",
        static_cast<std::int64_t>(o.heads.size()), "one a query head, " + std::to_string(h_q));
  ResolvedBudgets all(o.heads.size());
  for (std::size_t i = 0; i < all.size(); ++i) {
    const HeadBudget& asked = o.heads[i];
    all[i].method = asked.method == Method::kAuto ? o.method : asked.method;
    const bool counted = all[i].method != Method::kDense;
    all[i].keys = !counted ? 0 : asked.keys > 0 ? asked.keys : o.budget;
  }
  const auto group = static_cast<std::size_t>(h_q / h_kv);
  for (std::size_t first = 0; first < all.size(); first += group) {
    std::int64_t least = 0;
    for (std::size_t i = first; i < first + group; ++i)
      if (all[i].method == Method::kRouted && (least == 0 || all[i].keys < least))
        least = all[i].keys;
    for (std::size_t i = first; i < first + group; ++i)
      all[i].alone = all[i].method == Method::kRouted && (!o.heads_together || all[i].keys > least);
  }
  return all;
}

void settle(PlanOptions& plan, Method chosen, std::int64_t h_q, std::int64_t h_kv) {
  if (!plan.heads.empty()) (void)resolve_heads(plan, h_q, h_kv);
  if (chosen == Method::kDense && plan.method == Method::kAuto) plan.heads.clear();
  plan.method = chosen;
}

std::string own_budgets(const PlanOptions& plan, std::int64_t h_q, std::int64_t h_kv) {
  std::int64_t own = 0;
  for (const ResolvedBudget& b : resolve_heads(plan, h_q, h_kv))
    own += b.method != plan.method || (b.keys != plan.budget && b.method != Method::kDense);
  return "; " + std::to_string(own) + " of " + std::to_string(h_q) +
         " heads have budgets of their own";
}

bool takes(const PlanOptions& o, Method method) noexcept {
  if (o.heads.empty()) return o.method == method;
  return std::any_of(o.heads.begin(), o.heads.end(), [&](const HeadBudget& h) {
    return (h.method == Method::kAuto ? o.method : h.method) == method;
  });
}

bool longer(const ResolvedBudget& a, const ResolvedBudget& b) noexcept {
  const auto rank = [](const ResolvedBudget& x) {
    return std::tuple(x.method != Method::kDense, -x.keys, x.method, x.alone);
  };
  return rank(a) < rank(b);
}

namespace {

class MixedPlanner final : public Planner {
 public:
  MixedPlanner(const PlanInputs& in, const PlanOptions& o)
      : visibility_(in.visibility), batches_(in.q.shape[0]), group_(in.q.shape[1] / in.k.shape[1]) {
    const ResolvedBudgets heads = resolve_heads(o, in.q.shape[1], in.k.shape[1]);
    // The first class is dense: it also has what every head reads within dense_until.
    classes_.push_back({{Method::kDense, 0, false}, {}, {}});
    for (const ResolvedBudget& b : heads)
      if (find(b) == classes_.end()) classes_.push_back({b, {}, {}});
    std::sort(classes_.begin() + 1, classes_.end(),
              [](const Class& a, const Class& b) { return longer(a.budget, b.budget); });
    for (Class& c : classes_) {
      c.heads.resize(static_cast<std::size_t>(in.k.shape[1]));
      PlanOptions own = o;
      own.heads.clear();
      own.method = c.budget.method, own.heads_together = !c.budget.alone;
      if (c.budget.method != Method::kDense) own.budget = c.budget.keys;
      c.planner = make_planner(in, own);
    }
    for (std::size_t h = 0; h < heads.size(); ++h)
      find(heads[h])->heads[h / static_cast<std::size_t>(group_)].push_back(
          static_cast<std::int32_t>(h));
    cut(o.dense_until);
  }

  void plan(const Tile& tile, int worker, TilePlan& out) const override {
    classes_[static_cast<std::size_t>(tile.tag)].planner->plan(tile, worker, out);
  }
  std::int64_t tile() const noexcept override { return classes_.back().planner->tile(); }
  std::span<const Tile> own_tiles() const override { return tiles_; }

 private:
  struct Class {
    ResolvedBudget budget;
    std::unique_ptr<Planner> planner;
    std::vector<std::vector<std::int32_t>> heads;  // by key head
  };

  std::vector<Class>::iterator find(const ResolvedBudget& b) {
    return std::find_if(classes_.begin(), classes_.end(),
                        [&](const Class& c) { return c.budget == b; });
  }

  void cut(std::int64_t dense_until) {
    Cuts known;
    std::int64_t tiles = 0;
    for (const bool count : {true, false}) {  // growing would take three times the memory
      if (!count) tiles_.reserve(static_cast<std::size_t>(tiles));
      for (std::size_t i = 0; i < classes_.size(); ++i)
        cut(i, dense_until, known, count ? &tiles : nullptr);
    }
  }

  // By size, first and last: key heads with as many heads of a class are cut alike.
  using Cuts = std::map<std::array<std::int64_t, 3>, std::vector<std::int64_t>>;

  // The tiles of a class, or only their number.
  void cut(std::size_t i, std::int64_t dense_until, Cuts& known, std::int64_t* number) {
    const Class& c = classes_[i];
    const std::int64_t n = visibility_.n_q, size = c.planner->tile();
    const std::int64_t exact = i == 0 ? 0 : queries_within(visibility_, dense_until / size * size);
    for (const std::vector<std::int32_t>& heads : c.heads) {
      if (heads.empty()) continue;
      const std::int64_t dense = dense_tile_size(static_cast<std::int64_t>(heads.size()));
      if (exact < n) add(i, heads, i == 0 ? dense : size, exact, n, known, number);
      if (exact > 0) add(0, heads, dense, 0, exact, known, number);
    }
  }

  // Tiles of some heads of one key head, of class i.
  void add(std::size_t i, const std::vector<std::int32_t>& heads, std::int64_t size,
           std::int64_t first, std::int64_t last, Cuts& known, std::int64_t* number) {
    const auto count = static_cast<std::int64_t>(heads.size());
    const std::int64_t step = classes_[i].budget.alone ? 1 : count;
    std::vector<std::int64_t>& cuts = known[{size, first, last}];
    if (cuts.empty()) cuts = cut_queries(visibility_, size, first, last);
    if (number != nullptr) {
      *number += (static_cast<std::int64_t>(cuts.size()) - 1) * batches_ * (count / step);
      return;
    }
    each_tile(cuts, size, batches_, 1,
              [&](std::int64_t b, std::int64_t, std::int64_t from, std::int64_t to) {
                for (std::int64_t h = 0; h < count; h += step) {
                  const std::int32_t* list = heads.data() + h;
                  Tile& tile = tiles_.emplace_back(Tile{b, *list, from, to});
                  tile.tag = static_cast<std::int64_t>(i);
                  tile.heads = step, tile.head_list = list;
                }
              });
  }

  Visibility visibility_;
  std::int64_t batches_, group_;
  std::vector<Class> classes_;
  std::vector<Tile> tiles_;
};

}  // namespace

std::unique_ptr<Planner> make_mixed_planner(const PlanInputs& in, const PlanOptions& o) {
  check_visibility(in.visibility);
  check_plan_options(o);
  return std::make_unique<MixedPlanner>(in, o);
}

}  // namespace prescore
