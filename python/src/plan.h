// What a call would read, to look at from Python.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <vector>

#include "index.h"
#include "prescore/attention.h"

namespace prescore::python {

/// A plan that owns all that it refers to.
class OwnedPlan {
 public:
  /// Copies the lanes and listed heads of the tiles out of the planner. `index`: the caller's, or
  /// null.
  OwnedPlan(Prepared&& call, Plan&& plan, SharedIndexPtr index);

  const Choice& choice() const { return choice_; }
  /// [b, h_q, h_kv, n_q, n_kv]
  std::array<std::int64_t, 5> shape() const { return {b_, h_q_, h_kv_, n_q_, n_kv_}; }
  std::size_t size() const { return tiles_.size(); }
  const Tile& tile(std::size_t i) const { return tiles_[i]; }
  const TilePlan& reads(std::size_t i) const { return reads_[i]; }
  /// The (head, query) pairs that tile i serves.
  std::vector<Lane> lanes(std::size_t i) const;
  /// Keys that query i sees.
  std::int64_t end(std::int64_t query) const { return ends_[static_cast<std::size_t>(query)]; }
  /// Keys behind a node of the index, ascending.
  std::vector<std::int32_t> members(std::int64_t batch, std::int64_t head, std::int64_t node) const;
  /// Of the q and k that it was made for: share of the attention read, [b, h_q, n_q].
  std::vector<float> mass(const Tensor& q, const Tensor& k, Executor&) const;

 private:
  Choice choice_;
  std::int64_t b_, h_q_, h_kv_, n_q_, n_kv_;
  float scale_;
  std::vector<std::int64_t> ends_;
  std::vector<Tile> tiles_;  // neither `lanes` nor `head_list` is used where lanes_ has some
  std::vector<std::vector<Lane>> lanes_;
  std::vector<TilePlan> reads_;
  SharedIndexPtr shared_index_;
  std::unique_ptr<KeyIndex> own_index_;
};

void bind_plan(nb::module_& m);

}  // namespace prescore::python
