#include "plan.h"

#include <nanobind/stl/array.h>
#include <nanobind/stl/pair.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "arrays.h"
#include "call.h"
#include "common/check.h"
#include "common/names.h"

namespace prescore::python {

OwnedPlan::OwnedPlan(Prepared&& call, Plan&& plan, SharedIndexPtr index)
    : choice_(std::move(call.choice)), b_(call.in.q.shape[0]), h_q_(call.in.q.shape[1]),
      h_kv_(call.in.k.shape[1]), n_q_(call.in.visibility.n_q), n_kv_(call.in.visibility.n_kv),
      scale_(call.in.scale), tiles_(std::move(plan.tiles)), lanes_(tiles_.size()),
      reads_(std::move(plan.reads)), shared_index_(std::move(index)),
      own_index_(std::move(call.index)) {
  for (std::int64_t i = 0; i < n_q_; ++i) ends_.push_back(call.in.visibility.end(i));
  for (std::size_t i = 0; i < tiles_.size(); ++i)
    if (Tile& t = tiles_[i]; t.lanes != nullptr) {
      lanes_[i].assign(t.lanes + t.first, t.lanes + t.last);
      t.lanes = nullptr;
    } else if (t.head_list != nullptr) {
      lanes_[i] = lanes(i);
      t.head_list = nullptr;
    }
}

std::vector<Lane> OwnedPlan::lanes(std::size_t i) const {
  if (!lanes_[i].empty()) return lanes_[i];
  const Tile& t = tiles_[i];
  std::vector<Lane> lanes;
  for (std::int64_t h = 0; h < t.heads; ++h)
    for (std::int64_t q = t.first; q < t.last; ++q)
      lanes.push_back({static_cast<std::int32_t>(t.head_at(h)), static_cast<std::int32_t>(q)});
  return lanes;
}

std::vector<std::int32_t> OwnedPlan::members(std::int64_t batch, std::int64_t head,
                                             std::int64_t node) const {
  const std::int64_t key_head = head / (h_q_ / h_kv_);
  if (own_index_) return node_members(*own_index_, batch, key_head, node);
  if (!shared_index_) fail("python", "nodes of this plan", "none", "a plan with an index (routed)");
  const auto lock = shared_index_->lock();
  return node_members(shared_index_->index, batch, key_head, node);
}

std::vector<float> OwnedPlan::mass(const Tensor& q, const Tensor& k, Executor& executor) const {
  const std::array<std::int64_t, 3> heads{b_, h_q_, n_q_}, key_heads{b_, h_kv_, n_kv_};
  for (std::size_t i = 0; i < 3; ++i)
    if (q.shape[i] != heads[i] || k.shape[i] != key_heads[i])
      fail("python", "shapes of q and k", "others", "those that the plan was made for");
  Visibility visibility;
  visibility.n_q = n_q_, visibility.n_kv = n_kv_, visibility.causal = true;
  std::vector<std::int32_t> positions;
  for (const std::int64_t end : ends_) positions.push_back(static_cast<std::int32_t>(end - 1));
  visibility.positions = positions;
  Plan plan{tiles_, reads_};
  for (std::size_t i = 0; i < plan.tiles.size(); ++i)
    if (!lanes_[i].empty()) {
      plan.tiles[i].lanes = lanes_[i].data();
      plan.tiles[i].first = 0, plan.tiles[i].last = static_cast<std::int64_t>(lanes_[i].size());
    }
  std::vector<float> mass(static_cast<std::size_t>(b_ * h_q_ * n_q_));
  captured_mass({q, k, k, visibility, scale_}, plan, mass.data(), executor);
  return mass;
}

namespace {

void check_below(const char* what, std::int64_t value, std::int64_t n) {
  check(value >= 0 && value < n, "python", what, value, "0 to " + std::to_string(n - 1));
}

std::size_t checked(const OwnedPlan& plan, std::int64_t i) {
  check_below("tile", i, static_cast<std::int64_t>(plan.size()));
  return static_cast<std::size_t>(i);
}

// visit(key) for each key of a tile's plan that a query with that sight reads.
template <typename Visit>
void each_key(const TilePlan& reads, std::int64_t end, Visit&& visit) {
  for (const Range& r : reads.ranges)
    for (std::int64_t k = r.begin; k < std::min(r.end, end); ++k) visit(k);
  for (const std::int32_t k : reads.keys) visit(k);
}

// visit(batch, lane, reads) for each tile that serves a query, all parts.
template <typename Visit>
void each_lane(const OwnedPlan& plan, Visit&& visit) {
  for (std::size_t i = 0; i < plan.size(); ++i)
    for (const Lane& lane : plan.lanes(i)) visit(plan.tile(i).batch, lane, plan.reads(i));
}

// One number a query, [b, h_q, n_q].
template <typename Count>
nb::object per_query(const OwnedPlan& plan, Count&& count) {
  const auto [b, h, h_kv, n, n_kv] = plan.shape();
  std::vector<std::int64_t> sums(static_cast<std::size_t>(b * h * n), 0);
  each_lane(plan, [&, h = h, n = n](std::int64_t batch, const Lane& lane, const TilePlan& reads) {
    sums[static_cast<std::size_t>((batch * h + lane.head) * n + lane.query)] +=
        count(reads, plan.end(lane.query));
  });
  const auto size = [](std::int64_t x) { return static_cast<std::size_t>(x); };
  return to_numpy(std::move(sums), {size(b), size(h), size(n)});
}

nb::object keys_per_query(const OwnedPlan& plan) {
  return per_query(plan, [](const TilePlan& reads, std::int64_t end) {
    auto keys = static_cast<std::int64_t>(reads.keys.size());
    for (const Range& r : reads.ranges)
      keys += std::max<std::int64_t>(0, std::min(r.end, end) - r.begin);
    return keys;
  });
}

nb::object standins_per_query(const OwnedPlan& plan) {
  return per_query(plan, [](const TilePlan& reads, std::int64_t) {
    return static_cast<std::int64_t>(reads.nodes.size());
  });
}

template <typename Visit>
void each_plan_of(const OwnedPlan& plan, std::int64_t batch, std::int64_t head, std::int64_t query,
                  Visit&& visit) {
  const auto [b, h, h_kv, n, n_kv] = plan.shape();
  check_below("batch", batch, b);
  check_below("head", head, h);
  check_below("query", query, n);
  each_lane(plan, [&](std::int64_t of, const Lane& lane, const TilePlan& reads) {
    if (of == batch && lane.head == head && lane.query == query) visit(reads);
  });
}

nb::object keys(const OwnedPlan& plan, std::int64_t batch, std::int64_t head, std::int64_t query) {
  std::vector<std::int32_t> all;
  each_plan_of(plan, batch, head, query, [&](const TilePlan& reads) {
    each_key(reads, plan.end(query),
             [&](std::int64_t k) { all.push_back(static_cast<std::int32_t>(k)); });
  });
  std::sort(all.begin(), all.end());
  return to_numpy(std::move(all));
}

nb::object nodes(const OwnedPlan& plan, std::int64_t batch, std::int64_t head, std::int64_t query) {
  std::vector<std::int32_t> all;
  each_plan_of(plan, batch, head, query, [&](const TilePlan& reads) {
    all.insert(all.end(), reads.nodes.begin(), reads.nodes.end());
  });
  return to_numpy(std::move(all));
}

// [rows, columns]: how much of each block of queries x keys of a head is read, 0 to 1 of all.
nb::object picture(const OwnedPlan& plan, std::int64_t batch, std::int64_t head, std::int64_t rows,
                   std::int64_t columns) {
  const auto [b, h, h_kv, n, n_kv] = plan.shape();
  check_below("batch", batch, b);
  check_below("head", head, h);
  check(rows >= 1 && rows <= n, "python", "rows", rows, "1 to the number of queries");
  check(columns >= 1 && columns <= n_kv, "python", "columns", columns, "1 to the number of keys");
  std::vector<float> cells(static_cast<std::size_t>(rows * columns), 0.0f);
  const float whole = static_cast<float>(n) / static_cast<float>(rows) * static_cast<float>(n_kv) /
                      static_cast<float>(columns);
  each_lane(plan, [&, n = n, n_kv = n_kv](std::int64_t of, const Lane& lane,
                                          const TilePlan& reads) {
    if (of != batch || lane.head != head) return;
    float* row = cells.data() + lane.query * rows / n * columns;
    each_key(reads, plan.end(lane.query), [&](std::int64_t k) { row[k * columns / n_kv] += 1; });
  });
  for (float& cell : cells) cell = std::min(1.0f, cell / whole);
  return to_numpy(std::move(cells),
                  {static_cast<std::size_t>(rows), static_cast<std::size_t>(columns)});
}

nb::object mass(const OwnedPlan& plan, const View& q, const View& k, int threads) {
  const auto [b, h, h_kv, n, n_kv] = plan.shape();
  if (all_on_cuda({&q, &k})) fail("python", "device of q", "cuda", "the CPU");
  const Tensor queries = q.tensor(), keys = k.tensor();
  std::vector<float> found = run_without_gil(
      threads, [&](Executor& executor) { return plan.mass(queries, keys, executor); });
  const auto size = [](std::int64_t x) { return static_cast<std::size_t>(x); };
  return to_numpy(std::move(found), {size(b), size(h), size(n)});
}

nb::dict tile(const OwnedPlan& plan, std::int64_t number) {
  const std::size_t i = checked(plan, number);
  const TilePlan& reads = plan.reads(i);
  std::vector<std::int32_t> lanes;
  for (const Lane& lane : plan.lanes(i)) lanes.insert(lanes.end(), {lane.head, lane.query});
  std::vector<std::pair<std::int64_t, std::int64_t>> ranges;
  for (const Range& r : reads.ranges) ranges.emplace_back(r.begin, r.end);
  nb::dict d;
  d["batch"] = plan.tile(i).batch;
  d["part"] = plan.tile(i).part;
  d["queries"] = to_numpy(std::move(lanes), {lanes.size() / 2, 2});
  d["ranges"] = ranges;
  d["keys"] = to_numpy(std::vector(reads.keys));
  if (reads.log_weights.empty())
    d["log_weights"] = nb::none();
  else
    d["log_weights"] = to_numpy(std::vector(reads.log_weights));
  d["nodes"] = to_numpy(std::vector(reads.nodes));
  return d;
}

}  // namespace

void bind_plan(nb::module_& m) {
  nb::class_<OwnedPlan>(m, "Plan")
      .def_prop_ro("shape", &OwnedPlan::shape)
      .def_prop_ro("reason", [](const OwnedPlan& p) { return p.choice().reason; })
      .def_prop_ro("method", [](const OwnedPlan& p) { return host::name_of(p.choice().method); })
      .def("__len__", &OwnedPlan::size)
      .def("tile", &tile)
      .def("keys", &keys)
      .def("nodes", &nodes)
      .def("members", [](const OwnedPlan& p, std::int64_t batch, std::int64_t head,
                         std::int64_t node) { return to_numpy(p.members(batch, head, node)); })
      .def("keys_per_query", &keys_per_query)
      .def("standins_per_query", &standins_per_query)
      .def("mass", &mass)
      .def("picture", &picture);
}

}  // namespace prescore::python
