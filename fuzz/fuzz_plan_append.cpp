// Sequences of appending, truncating, rewriting and planning: an index that lived through them is
// the one built afresh, and every plan reads a key at most once and none that it must not see.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <map>
#include <vector>

#include "input.h"
#include "prescore/attention.h"

namespace {

using prescore::fuzz::Input;
using namespace prescore;

constexpr std::int64_t kMost = 400, kDim = 6;

#define REQUIRE(ok)                                                  \
  do {                                                               \
    if (!(ok)) {                                                     \
      std::fprintf(stderr, "line %d: %s is false\n", __LINE__, #ok); \
      std::abort();                                                  \
    }                                                                \
  } while (0)

struct Cache {
  std::vector<float> k = std::vector<float>(kMost * kDim), v = k, q = k, o = k;
  std::int64_t n = 0;

  Tensor view(const std::vector<float>& x, std::int64_t first, std::int64_t last) const {
    return Tensor::contiguous(x.data() + first * kDim, DType::kF32, 1, 1, last - first, kDim);
  }
  Tensor keys() const { return view(k, 0, n); }
  Tensor values() const { return view(v, 0, n); }
};

void check_plan(const Plan& plan, const Visibility& see, const KeyIndex& index,
                const PlanOptions& options) {
  std::int64_t queries = 0;
  for (std::size_t t = 0; t < plan.tiles.size(); ++t) {
    const Tile& tile = plan.tiles[t];
    const TilePlan& reads = plan.reads[t];
    queries += tile.last - tile.first;
    const std::int64_t end = see.end(tile.last - 1);
    std::map<std::int64_t, int> times;
    for (const Range& r : reads.ranges) {
      REQUIRE(r.begin >= 0);
      for (std::int64_t j = r.begin; j < r.end && j < end; ++j) ++times[j];
    }
    for (const std::int32_t j : reads.keys) ++times[j];
    REQUIRE(static_cast<std::int64_t>(times.size()) <= options.budget ||
            options.method == Method::kDense);
    for (const std::int32_t node : reads.nodes) {
      REQUIRE(index.count(0, 0, node) > 0);
      const std::int64_t base = node / index.nodes_per_segment() * index.options().segment;
      for (const std::uint16_t j : index.members(0, 0, node)) ++times[base + j];
    }
    for (const auto& [key, n] : times) {
      REQUIRE(n == 1);
      REQUIRE(key >= 0 && key < end);
    }
  }
  REQUIRE(queries == see.n_q);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  IndexOptions shape;
  shape.segment = 16 * in.between(1, 4), shape.cluster = in.between(1, 8);
  shape.group = in.between(shape.cluster, 16), shape.iterations = in.between(1, 3);
  shape.sinks = in.between(0, 6), shape.packed = in.chance(2);
  KeyIndex index(shape);
  const auto executor = make_serial_executor();
  Cache cache;
  std::uint64_t state = in.take<std::uint32_t>();
  const auto random = [&] {
    state = state * 6364136223846793005u + 1442695040888963407u;
    return static_cast<float>(static_cast<std::int32_t>(state >> 32)) * 0x1p-30f;
  };
  const auto write = [&](std::int64_t first, std::int64_t last) {
    for (std::int64_t i = first * kDim; i < last * kDim; ++i) {
      const auto at = static_cast<std::size_t>(i);
      cache.k[at] = random(), cache.v[at] = random(), cache.q[at] = random();
    }
    if (first < last && in.chance(8)) {
      cache.k[static_cast<std::size_t>(first * kDim)] = in.take<float>();
    }
  };

  for (int step = 0; step < 12 && !in.empty(); ++step) {
    switch (in.between(0, 4)) {
      case 0: {  // append
        const std::int64_t to = std::min(kMost, cache.n + in.between(1, 150));
        write(cache.n, to);
        cache.n = to;
        index.extend(cache.keys(), cache.values(), *executor);
        REQUIRE(index.size() == cache.n / shape.segment * shape.segment);
        break;
      }
      case 1: {  // remove the end
        cache.n = in.between(0, cache.n);
        index.truncate(cache.n);
        REQUIRE(index.size() <= cache.n);
        break;
      }
      case 2: {  // rewrite a part behind the index's back
        if (cache.n == 0) break;
        const std::int64_t first = in.between(0, cache.n - 1);
        write(first, std::min(cache.n, first + in.between(1, 30)));
        const std::int64_t kept = index.validate(cache.keys());
        REQUIRE(kept == index.size() && kept <= cache.n);
        index.extend(cache.keys(), cache.values(), *executor);
        break;
      }
      default: {  // the end of the prompt, by any method
        if (cache.n == 0) break;
        const std::int64_t n_q = in.between(1, std::min<std::int64_t>(cache.n, 70));
        PlanOptions o;
        o.method = static_cast<Method>(in.between(1, 4));
        o.budget = in.between(1, 200), o.sinks = in.between(0, shape.sinks);
        o.window = in.between(1, 60), o.tile = 16 * in.between(1, 3);
        o.routing = static_cast<Routing>(in.between(0, 1));
        o.standins = static_cast<StandIns>(in.between(0, 2));
        o.open_groups = in.between(0, 80), o.open_segments = in.between(0, 150);
        o.route_stride = in.between(1, 5);
        index.extend(cache.keys(), cache.values(), *executor);
        std::vector<float> scores(static_cast<std::size_t>(cache.n));
        for (float& s : scores) s = random();
        AttendInputs attend_in;
        attend_in.q = cache.view(cache.q, cache.n - n_q, cache.n);
        attend_in.k = cache.keys(), attend_in.v = cache.values();
        attend_in.visibility.n_q = n_q, attend_in.visibility.n_kv = cache.n;
        attend_in.visibility.causal = !in.chance(4);
        attend_in.scale = 0.5f, attend_in.index = &index;
        PlanInputs plan_in;
        plan_in.q = attend_in.q, plan_in.k = attend_in.k;
        plan_in.visibility = attend_in.visibility, plan_in.scale = 0.5f;
        const ScoreLevel level{0, scores.data(), cache.n};
        plan_in.index = &index, plan_in.scores = {&level, 1};
        plan_in.score_segment = shape.segment;
        const auto planner = make_planner(plan_in, o);
        const Plan plan = make_plan(attend_in, *planner, *executor);
        check_plan(plan, attend_in.visibility, index, o);
        attend(attend_in, plan,
               {MutTensor::contiguous(cache.o.data(), DType::kF32, 1, 1, n_q, kDim), nullptr},
               *executor);
        break;
      }
    }
  }

  // The index that lived through all this is the one built at once.
  if (cache.n == 0) return 0;
  index.extend(cache.keys(), cache.values(), *executor);
  KeyIndex fresh(shape);
  fresh.extend(cache.keys(), cache.values(), *executor);
  REQUIRE(index.size() == fresh.size());
  if (fresh.size() == 0) return 0;
  for (std::int64_t node = 0; node < fresh.node_keys().shape[2]; ++node) {
    const auto a = index.members(0, 0, node), b = fresh.members(0, 0, node);
    REQUIRE(std::vector(a.begin(), a.end()) == std::vector(b.begin(), b.end()));
  }
  return 0;
}
