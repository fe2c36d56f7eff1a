// Routed plans on the GPU, looked at from inside.
#include <cmath>
#include <map>
#include <set>

#include "cuda/routed.cuh"

namespace prescore::test {
namespace {

class CudaPlan : public EachKernel {};
PRESCORE_WITH_EACH_KERNEL(CudaPlan);

void expect_best(const Routed&, Data&);

// Exactly once, in the past, within the budget, the best; and the output is that of the plan.
TEST_P(CudaPlan, ReadsTheBestClustersOnceAndAttendsToThem) {
  constexpr bool kFull = false, kApart = false, kStrict = true;
  for (const auto& [n_q, n_kv, d, causal, together, strict, type] :
       {std::tuple{300, 3000, 64, true, true, false, DType::kBF16},
        {300, 3000, 64, true, kApart, false, DType::kF16},
        {40, 5000, 128, true, true, false, DType::kBF16},
        {200, 2500, 64, kFull, true, false, DType::kBF16},
        {200, 2500, 128, kFull, kApart, false, DType::kBF16},
        {1, 4000, 80, true, true, false, DType::kBF16},
        {130, 2500, 96, true, true, false, DType::kF16},
        {130, 2500, 256, true, true, false, DType::kBF16},
        {20, 3000, 64, true, true, kStrict, DType::kBF16},
        {20, 3000, 128, true, kApart, kStrict, DType::kF16}}) {
    SCOPED_TRACE(testing::Message() << n_q << " of " << n_kv << ", d " << d << causal << together
                                    << strict << to_string(type));
    Case shape = clustered_case(n_q, n_kv, d);
    shape.causal = causal;
    shape.q_type = shape.kv_type = shape.o_type = type;
    Data data(shape);
    cluster_keys(data, 7);
    Options o = routed(1000);
    o.plan.standin_share = 1e-4f;
    o.plan.open_groups = 1 << 20;  // all of them
    o.plan.heads_together = together;
    if (strict) o.plan.routing = Routing::kStrict;
    const Routed r(data, o);
    std::int64_t standins = 0;
    const auto visit = [&](const reference::Problem& p, const reference::VisitRow& row) {
      for (int t = 0; t < r.call.plan.tiles; ++t) {
        const cuda::TileInfo& tile = r.tiles[static_cast<std::size_t>(t)];
        for (std::int64_t h = 0; h < r.c.h_q && tile.rows > 0; ++h) {
          const std::int64_t kv = h / 2, plan = r.plan_of(h, t), b = tile.batch;
          const cuda::Reads& reads = r.reads[static_cast<std::size_t>(plan)];
          const std::int32_t* list = r.list.data() + plan * r.capacity();
          std::set<std::int64_t> far, behind;
          for (int j = 0; j < reads.keys; ++j) {
            ASSERT_GE(list[j], reads.sinks);
            ASSERT_LT(list[j], reads.window);
            ASSERT_TRUE(far.insert(list[j]).second) << "twice: " << list[j];
          }
          ASSERT_LE(reads.end - reads.window + reads.sinks + reads.keys, 1000);
          std::vector<std::vector<double>> mean_k, mean_v;
          std::vector<double> log_count;
          for (int j = reads.keys; j < reads.keys + reads.nodes; ++j) {
            const std::int64_t node = ~list[j], i = r.at(kv, b, node);
            for (const auto key : r.members(kv, b, node))
              ASSERT_TRUE(far.count(key) == 0 && behind.insert(key).second) << "twice: " << key;
            mean_k.push_back(r.mean(r.node_k, r.c.d, i));
            mean_v.push_back(r.mean(r.node_v, r.c.d_v, i));
            log_count.push_back(std::log(r.count[static_cast<std::size_t>(i)]));
          }
          standins += reads.nodes;
          for (int q = 0; q < tile.rows; ++q) {
            const std::int64_t end = r.c.causal ? tile.first_end + q : r.c.n_kv;
            std::vector<reference::Entry> entries;
            const auto add = [&](std::int64_t key) {
              entries.push_back({p.k.row(b, kv, key), p.v.row(b, kv, key), 0});
            };
            for (std::int64_t key = 0; key < reads.sinks; ++key) add(key);
            for (std::int64_t key = reads.window; key < std::min<std::int64_t>(end, reads.end);
                 ++key)
              add(key);
            for (const auto key : far) add(key);
            for (std::size_t j = 0; j < mean_k.size(); ++j)
              entries.push_back({mean_k[j].data(), mean_v[j].data(), log_count[j]});
            row(b, h, tile.q + q, entries);
          }
        }
      }
    };
    expect_near_oracle(data, visit);
    EXPECT_GT(standins, 0);

    expect_best(r, data);
  }
}

// Rank of every far cluster in float64: those read are no worse than those left out, but for the
// steps of a code and roundings.
void expect_best(const Routed& r, Data& data) {
  const cuda::IndexView& x = r.call.index;
  const cuda::PlanView& view = r.call.plan;
  const reference::Problem p = data.problem();
  for (int t = 0; t < view.tiles; ++t) {
    const cuda::TileInfo& tile = r.tiles[static_cast<std::size_t>(t)];
    for (std::int64_t head = 0; head < r.c.h_q && tile.rows > 0; head += r.share()) {
      const std::int64_t kv = head / 2, plan = r.plan_of(head, t), b = tile.batch;
      const cuda::Reads& reads = r.reads[static_cast<std::size_t>(plan)];
      if (reads.keys == 0) continue;
      const std::int32_t* list = r.list.data() + plan * r.capacity();
      const std::set<std::int64_t> read(list, list + reads.keys);
      std::vector<std::int64_t> groups, clusters;
      for (std::int64_t s = 0; s < reads.window / cuda::kSegment; ++s) {
        for (int c = 0; c < x.clusters; ++c) clusters.push_back(s * x.nodes + c);
        for (int g = 0; g < x.groups; ++g) groups.push_back(s * x.nodes + x.clusters + g);
      }
      const auto counted = [&](std::int64_t node) {
        return r.count[static_cast<std::size_t>(r.at(kv, b, node))];
      };
      std::map<std::int64_t, double> share;  // of one key
      const int room = r.share() == 1 ? cuda::kFewColumns : cuda::kManyColumns;
      const int step = (r.call.problem.tile * r.share() + room - 1) / room;
      for (std::int64_t h = head; h < head + r.share(); ++h)
        for (int q = tile.rows - 1; q >= 0; q -= step) {
          const double* query = p.q.row(b, h, tile.q + q);
          const auto weight = [&](const double* k) {
            double sum = 0;
            for (std::int64_t e = 0; e < r.c.d; ++e) sum += query[e] * k[e];
            return std::exp(p.scale * sum);
          };
          const auto node_weight = [&](std::int64_t node) {
            return weight(r.mean(r.node_k, r.c.d, r.at(kv, b, node)).data());
          };
          double total = 0;
          for (const auto g : groups)
            if (counted(g) > 0) total += counted(g) * node_weight(g);
          for (int key = 0; key < reads.sinks; ++key) total += weight(p.k.row(b, kv, key));
          const int end = r.c.causal ? std::min(tile.first_end, reads.end) : reads.end;
          for (int key = reads.window; key < end; key += 8)
            total += 8 * weight(p.k.row(b, kv, key));
          for (const auto c : clusters) share[c] += node_weight(c) / total;
        }
      double worst_read = INFINITY, best_left = -INFINITY;
      std::int64_t smallest_left = 512;
      for (const auto c : clusters) {
        const auto keys = r.members(kv, b, c);
        if (keys.empty()) continue;
        const bool in = read.count(keys[0]) != 0;
        for (const auto key : keys) ASSERT_EQ(read.count(key) != 0, in) << "part of a cluster";
        const double rank = std::max(std::log(share[c]), -60.0);  // codes end somewhere
        if (in)
          worst_read = std::min(worst_read, rank);
        else if (rank > best_left)
          best_left = rank, smallest_left = static_cast<std::int64_t>(keys.size());
      }
      EXPECT_GT(worst_read, best_left - 0.08) << t << ' ' << head;
      EXPECT_GT(reads.keys + smallest_left + reads.sinks + reads.end - reads.window, 1000 - 64);
    }
  }
}

// Keys that are all alike leave nothing to choose by: the budget is still used, deterministically.
TEST_P(CudaPlan, EqualKeysFillTheBudget) {
  Data data(clustered_case(100, 4000, 64));
  for (std::int64_t b = 0; b < 2; ++b)
    for (std::int64_t h = 0; h < 2; ++h)
      for (std::int64_t i = 0; i < 4000; ++i) data.k.fill_row(b, h, i, 0.5);
  const Routed r(data, routed(1200));
  for (const auto& reads : r.reads)
    EXPECT_LE(reads.end - reads.window + reads.sinks + reads.keys, 1200);
  for (std::int64_t i = 0; i < 100; ++i)
    for (std::int64_t e = 0; e < 64; ++e) EXPECT_TRUE(std::isfinite(data.o.get(0, 0, i, e)));
}

// Where the clusters of the opened groups have no room, the best groups keep theirs, not the first.
TEST_P(CudaPlan, LittleRoomIsForTheBestGroups) {
  constexpr std::int64_t kBegin = 3072, kEnd = 3584;  // keys that queries want
  Data data(clustered_case(100, 5000, 64));
  for (std::int64_t b = 0; b < 2; ++b) {
    for (std::int64_t h = 0; h < 4; ++h)
      for (std::int64_t i = 0; i < 100; ++i) data.q.set(b, h, i, 0, 8);
    for (std::int64_t h = 0; h < 2; ++h)
      for (std::int64_t i = kBegin; i < kEnd; ++i) data.k.set(b, h, i, 0, 8);
  }
  Options o = routed(1000);
  o.plan.open_groups = 1 << 20;
  const Routed r(data, o, /*room=*/64);
  for (std::size_t i = 0; i < r.reads.size(); ++i) {
    const cuda::Reads& reads = r.reads[i];
    if (reads.end == 0) continue;  // a tile without queries
    const std::int32_t* list = r.list.data() + static_cast<std::int64_t>(i) * r.capacity();
    EXPECT_GT(reads.keys, 0);
    for (int j = 0; j < reads.keys; ++j) {
      EXPECT_GE(list[j], kBegin) << i;
      EXPECT_LT(list[j], kEnd) << i;
    }
  }
}

}  // namespace
}  // namespace prescore::test
