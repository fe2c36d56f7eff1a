#include "coverage_reads.h"

#include <algorithm>
#include <cstring>
#include <iterator>

#include "prescore/attention.h"
#include "reference/reference.h"

namespace prescore::experiments {
namespace {

Tensor own(const Tensor& t, std::vector<std::byte>& bytes) {
  const std::int64_t size = size_of(t.dtype), d = t.shape[3];
  bytes.resize(static_cast<std::size_t>(t.shape[1] * t.shape[2] * d * size));
  for (std::int64_t h = 0; h < t.shape[1]; ++h)
    for (std::int64_t i = 0; i < t.shape[2]; ++i)
      std::memcpy(
          bytes.data() + (h * t.shape[2] + i) * d * size,
          static_cast<const std::byte*>(t.data) + (h * t.stride[1] + i * t.stride[2]) * size,
          static_cast<std::size_t>(d * size));
  return Tensor::contiguous(bytes.data(), t.dtype, 1, t.shape[1], t.shape[2], d);
}

// The queries at these positions, gathered into `bytes`.
Tensor pick(const Captured& c, std::span<const std::int32_t> at, std::vector<std::byte>& bytes) {
  const std::int64_t h_q = c.tq.shape[1], n = static_cast<std::int64_t>(at.size()),
                     d = c.tq.shape[3];
  const std::int64_t row = d * size_of(c.tq.dtype);
  bytes.resize(static_cast<std::size_t>(h_q * n * row));
  for (std::int64_t h = 0; h < h_q; ++h)
    for (std::int64_t i = 0; i < n; ++i)
      std::memcpy(bytes.data() + (h * n + i) * row,
                  c.q.data() + (h * c.tq.shape[2] + at[static_cast<std::size_t>(i)]) * row,
                  static_cast<std::size_t>(row));
  return Tensor::contiguous(bytes.data(), c.tq.dtype, 1, h_q, n, d);
}

// Keys of every (head, query) of a plan.
Reads spread(const Plan& plan, const PlanInputs& in) {
  const std::int64_t h_q = in.q.shape[1];
  Reads out(static_cast<std::size_t>(h_q),
            std::vector<std::vector<std::int64_t>>(static_cast<std::size_t>(in.q.shape[2])));
  const auto mark = [&](std::int64_t h, std::int64_t i, const TilePlan& p) {
    std::vector<std::int64_t>& keys = out[static_cast<std::size_t>(h)][static_cast<std::size_t>(i)];
    for (const std::int64_t j : reference::reads_of(p, in.visibility.end(i)).keys)
      keys.push_back(j);
  };
  for (std::size_t t = 0; t < plan.tiles.size(); ++t) {
    const Tile& tile = plan.tiles[t];
    for (std::int64_t i = tile.first; i < tile.last; ++i) {
      if (tile.lanes != nullptr) {
        mark(tile.lanes[i].head, tile.lanes[i].query, plan.reads[t]);
        continue;
      }
      for (std::int64_t g = 0; g < tile.heads; ++g) mark(tile.head_at(g), i, plan.reads[t]);
    }
  }
  for (auto& head : out)
    for (auto& keys : head) std::sort(keys.begin(), keys.end());
  return out;
}

}  // namespace

Captured::Captured(const Tensor& tq_, const Tensor& tk_, const Tensor& tv_, float scale_)
    : tq(own(tq_, q)), tk(own(tk_, k)), tv(own(tv_, v)), scale(scale_) {}

Reads reads_of(const Captured& c, const Options& options, std::span<const std::int32_t> positions,
               Executor& executor) {
  Options o = options;
  o.plan.routing = Routing::kStrict;
  o.index.sinks = o.plan.sinks;
  Visibility whole;
  whole.n_q = whole.n_kv = c.tk.shape[2];
  KeyScores scores(score_options(o));
  KeyIndex index(o.index);
  PlanInputs in{c.tq, c.tk, whole, c.scale};
  in.workers = executor.width();
  if (o.plan.method == Method::kTopK || o.plan.method == Method::kPrescoredHyper) {
    scores.extend({c.tq, c.tk, c.tv, whole, c.scale}, executor);
    in.scores = scores.levels(), in.score_segment = o.score.segment;
  } else if (o.plan.method == Method::kRouted) {
    index.extend(c.tk, c.tv, executor);
    in.index = &index;
  }
  std::vector<std::byte> picked;
  in.q = pick(c, positions, picked);
  in.visibility.n_q = in.q.shape[2], in.visibility.positions = positions;
  const auto planner = make_planner(in, o.plan);
  const AttendInputs attend_in{in.q, c.tk, c.tv, in.visibility, c.scale, in.index, o.compute};
  return spread(make_plan(attend_in, *planner, executor), in);
}

Overlaps::Overlaps(std::size_t methods)
    : far_(methods), sum_(methods, std::vector<double>(methods)), count_(sum_) {}

void Overlaps::add(const std::vector<const std::vector<std::int64_t>*>& reads, std::int64_t end) {
  const PlanOptions plan;
  const std::int64_t last =
      std::max(plan.sinks, std::max<std::int64_t>(0, end - plan.window) / kFarStep * kFarStep);
  for (std::size_t m = 0; m < reads.size(); ++m) {
    far_[m].assign(std::ranges::lower_bound(*reads[m], plan.sinks),
                   std::ranges::lower_bound(*reads[m], last));
    for (std::size_t o = 0; o < m; ++o) add_pair(m, o);
  }
}

void Overlaps::add_pair(std::size_t m, std::size_t o) {
  std::vector<std::int64_t> both;
  std::ranges::set_intersection(far_[m], far_[o], std::back_inserter(both));
  const std::size_t either = far_[m].size() + far_[o].size() - both.size();
  if (either == 0) return;
  sum_[m][o] += static_cast<double>(both.size()) / static_cast<double>(either);
  ++count_[m][o];
}

nlohmann::json Overlaps::means() const {
  nlohmann::json rows = nlohmann::json::array();
  for (std::size_t m = 0; m < far_.size(); ++m) {
    rows.push_back(nlohmann::json::array());
    for (std::size_t o = 0; o < far_.size(); ++o) {
      const std::size_t a = std::max(m, o), b = std::min(m, o);
      nlohmann::json mean;
      if (count_[a][b] > 0) mean = sum_[a][b] / count_[a][b];
      rows.back().push_back(a == b ? nlohmann::json(1.0) : mean);
    }
  }
  return rows;
}

}  // namespace prescore::experiments
