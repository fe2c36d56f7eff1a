// Tasks of one call: each plans a tile and executes it.
#include "prescore/attend.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <span>

#include "attend/certificate.h"
#include "attend/tile_runner.h"
#include "common/check.h"
#include "plan/planners.h"

namespace prescore {
void check_qkv(const Tensor& tq, const Tensor& tk, const Tensor& tv) {
  check_tensor(tq, "attend", "q");
  check_tensor(tk, "attend", "k");
  check_tensor(tv, "attend", "v");
  const auto &q = tq.shape, &k = tk.shape, &v = tv.shape;
  const auto want = [](bool ok, const char* what, const std::array<std::int64_t, 4>& got,
                       const std::string& wanted) {
    if (!ok) fail("attend", what, to_string(got), wanted);
  };
  want(k[0] == q[0] && q[1] % k[1] == 0 && k[3] == q[3], "k shape", k,
       "batch and head size of q " + to_string(q) + " and a number of heads that divides its");
  want(v[0] == k[0] && v[1] == k[1] && v[2] == k[2], "v shape", v,
       "batch, heads and keys of k " + to_string(k));
  check(q[3] <= tile::kMaxDim && v[3] <= tile::kMaxDim, "attend", "head size", std::max(q[3], v[3]),
        "at most 512");
  constexpr std::int64_t kMost = std::int64_t{1} << 31;  // positions and key ids have 32 bits
  check(q[2] < kMost && k[2] < kMost, "attend", "queries or keys", std::max(q[2], k[2]),
        "below 2^31");
  constexpr std::int64_t kRows = std::int64_t{1} << 40;  // so that no sum of bytes overflows
  check(q[0] < kMost && q[1] < kMost && q[0] * q[1] < kMost, "attend", "batch times heads of q",
        std::max(q[0], q[1]), "below 2^31");
  check(q[0] * q[1] * std::max(q[2], k[2]) < kRows, "attend", "rows of q or k",
        q[0] * q[1] * std::max(q[2], k[2]), "below 2^40 over all heads");
  if (tk.dtype != tv.dtype) fail("attend", "dtypes of k and v", "different ones", "the same");
}

void check_attend_inputs(const AttendInputs& in) {
  check_qkv(in.q, in.k, in.v);
  check(in.visibility.n_q == in.q.shape[2], "attend", "queries in the visibility",
        in.visibility.n_q, "those of q");
  check(in.visibility.n_kv <= in.k.shape[2], "attend", "keys in the visibility", in.visibility.n_kv,
        "at most those of k");
  if (!std::isfinite(in.scale))
    fail("attend", "scale", std::to_string(in.scale), "a finite number");
  check_visibility(in.visibility);
}

void check_attend_inputs(const AttendInputs& in, const State& out) {
  check_attend_inputs(in);
  check_tensor(out.o, "attend", "o");
  const auto &q = in.q.shape, &o = out.o.shape;
  const std::array<std::int64_t, 4> wanted{q[0], q[1], q[2], in.v.shape[3]};
  if (o != wanted) fail("attend", "o shape", to_string(o), to_string(wanted));
  check_apart(out.o, "attend", "o");
}

namespace {

using Clock = std::chrono::steady_clock;
double seconds(Clock::duration d) { return std::chrono::duration<double>(d).count(); }

void check_parts(std::int64_t parts, const State& out) {
  if (parts <= 1) return;
  check(out.o.dtype == DType::kF32, "attend", "dtype of o for a plan of several parts",
        static_cast<int>(out.o.dtype), "0 (f32)");
  if (out.lse == nullptr) fail("attend", "lse for a plan of several parts", "null", "a pointer");
}

struct Worker {
  Worker(const AttendInputs& in, const State& out, const tile::Kernels& k) : runner(in, out, k) {}
  TileRunner runner;
  TilePlan plan;
  Counters counters;
};

// Runs `task(tile number, worker number, worker)` over all tiles, part by part, and adds up the
// counters.
template <typename Task>
Counters run_tiles(const AttendInputs& in, const State& out, std::span<const Tile> tiles,
                   Executor& executor, const Task& task) {
  const auto begin = Clock::now();
  check_parts(tiles.empty() ? 1 : tiles.back().part + 1, out);
  const tile::Kernels& kernels = tile::kernels(in.compute, in.k.dtype);
  std::vector<std::unique_ptr<Worker>> workers(static_cast<std::size_t>(executor.width()));
  for (std::size_t first = 0, last = 0; first < tiles.size(); first = last) {
    while (last < tiles.size() && tiles[last].part == tiles[first].part) ++last;
    executor.run(static_cast<std::int64_t>(last - first), [&](std::int64_t i, int w) {
      auto& worker = workers[static_cast<std::size_t>(w)];
      if (!worker) worker = std::make_unique<Worker>(in, out, kernels);
      task(first + static_cast<std::size_t>(i), w, *worker);
    });
  }
  Counters total;
  for (const auto& worker : workers)
    if (worker) total += worker->counters;
  total.total_s = seconds(Clock::now() - begin);
  return total;
}

void append_later_parts(const Planner& planner, std::vector<Tile>& tiles) {
  for (std::int64_t part = 1; part < planner.parts(); ++part) {
    const std::vector<Tile> more = planner.part_tiles(part);
    tiles.insert(tiles.end(), more.begin(), more.end());
  }
}

}  // namespace

Counters attend(const AttendInputs& in, const Planner& planner, const State& out,
                Executor& executor) {
  return attend(in, planner, out, executor, nullptr);
}

Counters attend(const AttendInputs& in, const Planner& planner, const State& out,
                Executor& executor, Certificate* certificate) {
  check_attend_inputs(in, out);
  const std::int64_t b = in.q.shape[0], h = in.q.shape[1], h_kv = in.k.shape[1];
  const bool cut = !planner.own_tiles().empty();
  std::vector<Tile> made;  // those that see most first
  const std::int64_t n_q = in.visibility.n_q, dense_queries = cut ? 0 : planner.dense_queries();
  if (!cut && dense_queries < n_q)
    made = make_tiles(in.visibility, b, h, h_kv, planner, dense_queries, n_q);
  const std::size_t planned = cut ? planner.own_tiles().size() : made.size();
  std::unique_ptr<Planner> dense;
  if (dense_queries > 0) {
    dense = make_dense_planner({in.q, in.k, in.visibility, in.scale}, {});
    const std::vector<Tile> more = make_tiles(in.visibility, b, h, h_kv, *dense, 0, dense_queries);
    made.insert(made.end(), more.begin(), more.end());
  }
  append_later_parts(planner, made);
  const std::span<const Tile> tiles = cut ? planner.own_tiles() : made;
  return run_tiles(in, out, tiles, executor, [&](std::size_t i, int w, Worker& worker) {
    const Tile& tile = tiles[i];
    const bool own = i < planned || tile.part > 0;
    const auto t0 = Clock::now();
    worker.plan.clear();
    (own ? planner : *dense).plan(tile, w, worker.plan);
    const auto t1 = Clock::now();
    worker.runner.run(tile, worker.plan);
    worker.counters.plan_s += seconds(t1 - t0);
    const auto t2 = Clock::now();
    worker.counters.attend_s += seconds(t2 - t1);
    if (certificate != nullptr && certificate->wants(tile)) {
      certificate->measure(tile, worker.plan, worker.runner);
      worker.counters.certify_s += seconds(Clock::now() - t2);
    }
    Counters read;
    TileRunner::count(in.visibility, tile, worker.plan, read);
    if (certificate != nullptr) certificate->note(tile, read);
    worker.counters += read;
  });
}

Counters attend(const AttendInputs& in, const Plan& plan, const State& out, Executor& executor) {
  check_attend_inputs(in, out);
  check(plan.tiles.size() == plan.reads.size(), "attend", "reads of the plan",
        static_cast<std::int64_t>(plan.reads.size()), "one a tile");
  return run_tiles(in, out, plan.tiles, executor, [&](std::size_t i, int, Worker& worker) {
    const auto t0 = Clock::now();
    worker.runner.run(plan.tiles[i], plan.reads[i]);
    worker.counters.attend_s += seconds(Clock::now() - t0);
    TileRunner::count(in.visibility, plan.tiles[i], plan.reads[i], worker.counters);
  });
}

Plan make_plan(const AttendInputs& in, const Planner& planner, Executor& executor) {
  Plan plan;
  plan.tiles.assign(planner.own_tiles().begin(), planner.own_tiles().end());
  if (plan.tiles.empty())
    plan.tiles = make_tiles(in.visibility, in.q.shape[0], in.q.shape[1], in.k.shape[1], planner, 0,
                            in.visibility.n_q);
  append_later_parts(planner, plan.tiles);
  plan.reads.resize(plan.tiles.size());
  executor.run(static_cast<std::int64_t>(plan.tiles.size()), [&](std::int64_t i, int worker) {
    const auto t = static_cast<std::size_t>(i);
    planner.plan(plan.tiles[t], worker, plan.reads[t]);
  });
  return plan;
}

}  // namespace prescore
