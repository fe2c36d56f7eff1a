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
          const std::int32_t* list = r.list.data() + plan * r.call.plan.capacity;
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
    for (std::int64_t head = 0; head < r.c.h_q && tile.rows > 0; head += view.share) {
      const std::int64_t kv = head / 2, plan = r.plan_of(head, t), b = tile.batch;
      const cuda::Reads& reads = r.reads[static_cast<std::size_t>(plan)];
      if (reads.keys == 0) continue;
      const std::int32_t* list = r.list.data() + plan * view.capacity;
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
      const int room = view.share == 1 ? cuda::kFewColumns : cuda::kManyColumns;
      const int step = (r.call.problem.tile * view.share + room - 1) / room;
      for (std::int64_t h = head; h < head + view.share; ++h)
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

// What the routing queries of a tile and list think of its far groups, in float64.
struct Opinion {
  std::vector<double> total;  // of each query: log2 of its attention to all keys
  std::vector<double> rank;   // of each group: log2 of the mean share of one of its keys
  std::vector<int> keys;
};
Opinion opinion_of(const Routed& r, const Data& data, int t, int list) {
  const cuda::Problem& p = r.call.problem;
  const cuda::PlanView& plan = r.call.plan;
  const cuda::IndexView& x = r.call.index;
  const cuda::TileInfo& tile = r.tiles[static_cast<std::size_t>(t)];
  const int room = r.call.route.columns, heads = std::min(plan.share, room);
  const int step = (p.tile * heads + room - 1) / room;
  const std::int64_t b = tile.batch, head = list * plan.share, kv = head / (p.h_q / p.h_kv);
  const auto end = [&](int row) -> std::int64_t {
    return p.causal ? tile.first_end + row : tile.n_kv;
  };
  const Layout layout = make_layout(p.causal, end(0), end(tile.rows - 1), r.call.route.rule,
                                    cuda::kSegment, tile.segments * cuda::kSegment);
  Opinion o;
  if (layout.all()) return o;
  const auto groups = layout.local / cuda::kSegment * x.groups;
  std::vector<std::vector<double>> mean;
  for (std::int64_t j = 0; j < groups; ++j) {
    const std::int64_t i = r.at(kv, b, j / x.groups * x.nodes + x.clusters + j % x.groups);
    mean.push_back(r.mean(r.node_k, r.c.d, i));
    o.keys.push_back(r.count[static_cast<std::size_t>(i)]);
  }
  o.rank.assign(mean.size(), 0);
  for (int i = 0; i < heads * ((tile.rows + step - 1) / step); ++i) {
    const std::int64_t at = tile.q + tile.rows - 1 - i / heads * step;
    const auto product = [&](const auto& key) {
      double sum = 0;
      for (std::int64_t e = 0; e < r.c.d; ++e)
        sum += data.q.get(b, head + i % heads, at, e) * key(e);
      return sum * p.scale;
    };
    std::vector<double> of_group, all;  // logarithms
    for (std::size_t j = 0; j < mean.size(); ++j) {
      of_group.push_back(
          product([&](std::int64_t e) { return mean[j][static_cast<std::size_t>(e)]; }));
      if (o.keys[j] > 0) all.push_back(of_group.back() + std::log2(o.keys[j]));
    }
    const auto add = [&](std::int64_t key, double weight) {
      all.push_back(product([&](std::int64_t e) { return data.k.get(b, kv, key, e); }) +
                    std::log2(weight));
    };
    for (std::int64_t j = 0; j < layout.sinks; ++j) add(j, 1);
    for (std::int64_t j = layout.window; j < std::min(end(0), layout.end); j += 8) add(j, 8);
    const double top = *std::max_element(all.begin(), all.end());
    double sum = 0;
    for (const double a : all) sum += std::exp2(a - top);
    o.total.push_back(top + std::log2(sum));
    for (std::size_t j = 0; j < mean.size(); ++j)
      o.rank[j] += std::exp2(of_group[j] - o.total.back());
  }
  for (double& share : o.rank) share = std::log2(share / static_cast<double>(o.total.size()));
  return o;
}

// Groups of 12 a segment or of 4, heads apart or together, tiles of few rows, scores upside down.
TEST_P(CudaPlan, GroupsAreRankedByTheirShares) {
  constexpr bool kApart = false;
  for (const auto& [n_q, n_kv, d, group, together, scale, type] :
       {std::tuple{300, 5000, 64, 32, kApart, 0.0, DType::kBF16},
        {300, 5000, 64, 32, true, 0.0, DType::kBF16},
        {1100, 5000, 128, 32, kApart, 0.0, DType::kBF16},
        {300, 5000, 128, 40, true, 0.0, DType::kF16},
        {300, 5000, 128, 40, kApart, -0.05, DType::kBF16},
        {1100, 9000, 80, 128, kApart, 0.0, DType::kF16},
        {5, 9000, 96, 64, true, 0.0, DType::kBF16},
        {40, 3000, 256, 32, kApart, 0.0, DType::kBF16}}) {
    SCOPED_TRACE(testing::Message() << n_q << " of " << n_kv << ", d " << d << ", groups of "
                                    << group << together << scale << to_string(type));
    Case shape = clustered_case(n_q, n_kv, d);
    shape.q_type = shape.kv_type = shape.o_type = type;
    Data data(shape);
    cluster_keys(data, 5);
    Options o = routed(1000);
    o.index.group = group;
    o.plan.heads_together = together;
    if (scale != 0) o.scale = static_cast<float>(scale);
    const Routed r(data, o);
    const cuda::Route& route = r.call.route;
    const int tiles = r.call.plan.tiles, lists = r.call.plan.lists;
    const auto pairs = std::int64_t{tiles} * lists;
    const auto code = fetch(route.code, pairs * route.groups);
    const auto total = fetch(route.total, pairs * route.columns);
    std::size_t seen = 0;
    for (int t = 0; t < tiles; ++t)
      for (int list = 0; list < lists && r.tiles[static_cast<std::size_t>(t)].rows > 0; ++list) {
        const Opinion want = opinion_of(r, data, t, list);
        const auto at = static_cast<std::size_t>(list * tiles + t);
        for (std::size_t i = 0; i < want.total.size(); ++i)
          ASSERT_NEAR(total[at * static_cast<std::size_t>(route.columns) + i], want.total[i], 0.01)
              << t << " " << list << " " << i;
        for (std::size_t j = 0; j < want.rank.size(); ++j) {
          const std::uint32_t got = code[at * static_cast<std::size_t>(route.groups) + j];
          ASSERT_EQ(got & 0xffff, static_cast<std::uint32_t>(want.keys[j])) << t << " " << j;
          if (want.keys[j] > 0)
            ASSERT_NEAR(got >> 16, std::clamp((want.rank[j] + 96) * 512, 1.0, 65535.0), 8)
                << t << " " << list << " " << j;
          ++seen;
        }
      }
    EXPECT_GT(seen, 100u);
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
    const std::int32_t* list = r.list.data() + static_cast<std::int64_t>(i) * r.call.plan.capacity;
    EXPECT_GT(reads.keys, 0);
    for (int j = 0; j < reads.keys; ++j) {
      EXPECT_GE(list[j], kBegin) << i;
      EXPECT_LT(list[j], kEnd) << i;
    }
  }
}

}  // namespace
}  // namespace prescore::test
