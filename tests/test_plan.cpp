// Contract 1, exactly once, and that the right keys are chosen.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

#include "support/cases.h"

namespace prescore::test {
namespace {

std::int64_t draw(std::mt19937_64& random, std::int64_t low, std::int64_t high) {
  return std::uniform_int_distribution<std::int64_t>(low, high)(random);
}

// Keys behind a node.
std::vector<std::int64_t> keys_of(const KeyIndex& index, std::int64_t b, std::int64_t h,
                                  std::int64_t node) {
  const std::int64_t base = node / index.nodes_per_segment() * index.options().segment;
  std::vector<std::int64_t> keys;
  for (const std::uint16_t j : index.members(b, h, node)) keys.push_back(base + j);
  return keys;
}

struct Trial {
  Data data;
  KeyIndex index;
  std::vector<float> scores;
  PlanOptions options;
  Planned planned;
};

Trial random_trial(std::uint64_t seed, Method method) {
  std::mt19937_64 random(seed);
  Case c;
  c.b = draw(random, 1, 2), c.h_kv = draw(random, 1, 2), c.h_q = c.h_kv * draw(random, 1, 3);
  c.n_kv = draw(random, 1, 900), c.n_q = draw(random, 1, std::min<std::int64_t>(c.n_kv, 200));
  c.d = draw(random, 1, 40), c.d_v = draw(random, 1, 20);
  c.kv_type = static_cast<DType>(draw(random, 0, 2)), c.seed = seed;
  c.causal = draw(random, 0, 4) > 0;
  PlanOptions o = small_plan(method, draw(random, 1, 400));
  if (draw(random, 0, 3) > 0) o.budget = draw(random, 130, 400);
  o.tile = 16 * draw(random, 1, 4), o.window = draw(random, 1, 60);
  o.sinks = draw(random, 0, 4), o.route_stride = draw(random, 1, 5);
  o.routing = draw(random, 0, 2) == 0 ? Routing::kStrict : Routing::kTile;
  o.standins = static_cast<StandIns>(draw(random, 0, 2));
  o.open_groups = draw(random, 0, 2) * 150, o.open_segments = draw(random, 0, 2) * 300;
  IndexOptions shape = small_index();
  shape.sinks = draw(random, o.sinks, 20), shape.cluster = draw(random, 1, 8);
  shape.packed = draw(random, 0, 1) == 1;
  Trial s{Data(c), KeyIndex(shape), random_scores(c, seed), o, {}};
  s.index.extend(s.data.k.view(), s.data.v.view(), *make_serial_executor());
  s.planned = plan_all(s.data, o, &s.index, &s.scores);
  return s;
}

void check_exactly_once(const Trial& s) {
  const Case& c = s.data.shape;
  const Visibility see = s.data.visibility();
  std::vector<int> covered(static_cast<std::size_t>(c.b * c.h_q * c.n_q));
  for (std::size_t t = 0; t < s.planned.plan.tiles.size(); ++t) {
    const Tile& tile = s.planned.plan.tiles[t];
    const TilePlan& reads = s.planned.plan.reads[t];
    const std::int64_t group = c.h_q / c.h_kv, h_kv = tile.head / group;
    SCOPED_TRACE(testing::Message() << "tile of head " << tile.head << ", queries " << tile.first
                                    << " to " << tile.last);
    ASSERT_LT(tile.first, tile.last);
    ASSERT_LE(tile.last - tile.first, s.planned.tile);
    if (c.causal && tile.first > 0) {  // whatever chunk this is, tiles begin where they always do
      ASSERT_EQ((c.n_kv - c.n_q + tile.first) % s.planned.tile, 0);
    }
    for (std::int64_t h = tile.head; h < tile.head + tile.heads; ++h) {
      for (std::int64_t i = tile.first; i < tile.last; ++i) {
        ++covered[static_cast<std::size_t>((tile.batch * c.h_q + h) * c.n_q + i)];
      }
    }
    EXPECT_TRUE(reads.log_weights.empty() || reads.log_weights.size() == reads.keys.size());
    EXPECT_TRUE(reads.packed.empty() || reads.packed.size() == reads.keys.size());

    const std::int64_t end = see.end(tile.last - 1), first_end = see.end(tile.first);
    std::map<std::int64_t, int> times;
    for (const Range& r : reads.ranges) {
      EXPECT_LE(0, r.begin);
      EXPECT_LT(r.begin, r.end);
      for (std::int64_t j = r.begin; j < std::min(r.end, end); ++j) ++times[j];
    }
    for (const std::int32_t j : reads.keys) {
      EXPECT_LT(j, first_end) << "a key that the first query does not see";
      ++times[j];
    }
    EXPECT_LE(static_cast<std::int64_t>(times.size()), std::max(s.options.budget, std::int64_t{0}));
    for (const std::int32_t node : reads.nodes) {
      EXPECT_GT(s.index.count(tile.batch, h_kv, node), 0);
      for (const std::int64_t j : keys_of(s.index, tile.batch, h_kv, node)) {
        EXPECT_LT(j, first_end) << "a stand-in for a key that the first query does not see";
        ++times[j];
      }
    }
    for (const auto& [key, n] : times) {
      ASSERT_EQ(n, 1) << "key " << key;
      ASSERT_GE(key, 0);
      ASSERT_LT(key, end);
    }
    // Nothing is lost: with stand-ins every visible key is read or stands in, once the budget holds
    // sinks and window (which begins at a segment boundary).
    const std::int64_t whole = 20 + s.options.window + s.options.tile + 64;
    if (s.options.method == Method::kDense ||
        (s.options.method == Method::kRouted && s.options.standins == StandIns::kNodes &&
         s.options.budget >= whole)) {
      EXPECT_EQ(static_cast<std::int64_t>(times.size()), end);
    }
  }
  for (const int n : covered) ASSERT_EQ(n, 1) << "a query in no tile, or in two";
}

class PlanMethod : public testing::TestWithParam<Method> {};
INSTANTIATE_TEST_SUITE_P(All, PlanMethod,
                         testing::Values(Method::kDense, Method::kWindow, Method::kTopK,
                                         Method::kRouted),
                         [](const auto& param) { return to_string(param.param); });

TEST_P(PlanMethod, ReadsEveryKeyAtMostOnceAndKeepsTheBudget) {
  for (std::uint64_t seed = 1; seed <= 60; ++seed) {
    SCOPED_TRACE(testing::Message() << "seed " << seed);
    Trial s = random_trial(seed, GetParam());
    if (GetParam() == Method::kDense) s.options.budget = s.data.shape.n_kv;
    SCOPED_TRACE(testing::Message()
                 << s.data.shape << " budget " << s.options.budget << " tile " << s.options.tile
                 << " window " << s.options.window << " sinks " << s.options.sinks);
    check_exactly_once(s);
    if (HasFatalFailure()) return;
  }
}

// A budget of all keys makes every method dense.
TEST_P(PlanMethod, WholeBudgetIsDense) {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    std::mt19937_64 random(seed);
    Case c;
    c.b = 2, c.h_kv = 2, c.h_q = 4, c.n_kv = draw(random, 1, 400);
    c.n_q = draw(random, 1, std::min<std::int64_t>(c.n_kv, 90)), c.d = draw(random, 1, 70);
    c.d_v = draw(random, 1, 70), c.kv_type = static_cast<DType>(draw(random, 0, 2)), c.seed = seed;
    c.causal = draw(random, 0, 1) == 1;
    SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << c);
    Data data(c);
    Options o;
    o.plan = small_plan(GetParam(), c.n_kv + draw(random, 0, 1) * 1000);
    o.plan.routing = static_cast<Routing>(draw(random, 0, 1));
    o.plan.standins = static_cast<StandIns>(draw(random, 0, 2));
    o.index = small_index();
    o.causal = c.causal;
    const Report report = attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o);
    EXPECT_EQ(report.counters.keys, report.counters.visible);
    EXPECT_EQ(report.counters.standins, 0);
    expect_near_dense(data);
  }
}

TEST(PlanChoice, WindowIsSinksAndTheMostRecent) {
  for (std::uint64_t seed = 1; seed <= 20; ++seed) {
    const Trial s = random_trial(seed, Method::kWindow);
    const Visibility see = s.data.visibility();
    for (std::size_t t = 0; t < s.planned.plan.tiles.size(); ++t) {
      const std::int64_t end = see.end(s.planned.plan.tiles[t].last - 1);
      const auto reads = reference::reads_of(s.planned.plan.reads[t], end);
      EXPECT_EQ(std::set<std::int64_t>(reads.keys.begin(), reads.keys.end()),
                reference::window_keys(end, s.options.sinks, s.options.budget));
    }
  }
}

TEST(PlanChoice, TopKTakesTheBestScores) {
  std::int64_t sparse = 0;
  for (std::uint64_t seed = 1; seed <= 40; ++seed) {
    const Trial s = random_trial(seed, Method::kTopK);
    SCOPED_TRACE(testing::Message() << "seed " << seed << ": " << s.data.shape);
    const Case& c = s.data.shape;
    const Visibility see = s.data.visibility();
    for (std::size_t t = 0; t < s.planned.plan.tiles.size(); ++t) {
      const Tile& tile = s.planned.plan.tiles[t];
      const TilePlan& reads = s.planned.plan.reads[t];
      const std::int64_t end = see.end(tile.last - 1);
      const auto all = reference::reads_of(reads, end);
      EXPECT_EQ(static_cast<std::int64_t>(all.keys.size()), std::min(end, s.options.budget));
      if (reads.keys.empty()) continue;
      ++sparse;
      const std::int64_t before = c.causal ? see.end(tile.first) - s.options.window : end;
      const std::int64_t local = c.causal ? before / 512 * 512 : end;
      const auto head =
          static_cast<std::size_t>(tile.batch * c.h_kv + tile.head / (c.h_q / c.h_kv));
      const std::span<const float> scores(s.scores.data() + head * static_cast<std::size_t>(c.n_kv),
                                          static_cast<std::size_t>(c.n_kv));
      EXPECT_EQ(std::set<std::int64_t>(reads.keys.begin(), reads.keys.end()),
                reference::top_keys(scores, s.options.sinks, local,
                                    static_cast<std::int64_t>(reads.keys.size())));
    }
  }
  EXPECT_GT(sparse, 20) << "the shapes test nothing";
}

// Where no window moves with the queries, a small budget does not part them.
TEST(PlanTiles, NotCausalTheySharePlansThatLookAtPositions) {
  Case c;
  c.n_q = c.n_kv = 257, c.causal = false;
  Data data(c);
  const std::vector<float> scores(static_cast<std::size_t>(c.b * c.h_kv * c.n_kv), 1.0f);
  for (const Method m : {Method::kWindow, Method::kTopK}) {
    PlanOptions o = small_plan(m, 64);
    o.sinks = o.window = 1, o.tile = 128;
    const Planned planned = plan_all(data, o, nullptr, &scores);
    for (const Tile& t : planned.plan.tiles) EXPECT_EQ(t.last - t.first, t.first < 256 ? 128 : 1);
  }
}

// Without levels the clusters read are those whose keys hold most attention: nothing left out
// deserves its place more than anything read, as far as roundings allow.
TEST(PlanChoice, RoutedTakesTheClustersThatHoldMostAttention) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const Routing routing : {Routing::kTile, Routing::kStrict}) {
      for (const auto& [stride, together] : {std::tuple{1, false}, {1, true}, {4, true}}) {
        Case c;
        c.h_q = 4, c.h_kv = 2, c.n_q = 64, c.n_kv = 1024, c.d = 32, c.kv_type = type, c.peak = 3;
        Data data(c);
        KeyIndex index(small_index());
        index.extend(data.k.view(), data.v.view(), *make_serial_executor());
        PlanOptions o = small_plan(Method::kRouted, 300);
        o.routing = routing, o.route_stride = stride, o.heads_together = together;
        o.open_groups = o.open_segments = 1 << 20;  // one level
        const Planned planned = plan_all(data, o, &index);
        const reference::Problem p = data.problem();
        double agreement = 0, chosen = 0;
        for (std::size_t t = 0; t < planned.plan.tiles.size(); ++t) {
          const Tile& tile = planned.plan.tiles[t];
          const TilePlan& reads = planned.plan.reads[t];
          const std::int64_t h = tile.head / 2;
          std::vector<const double*> queries;
          const std::int64_t heads = together ? 2 : 1;
          for (std::int64_t i = tile.last - 1; i >= tile.first; i -= stride * heads)
            for (std::int64_t j = 0; j < heads; ++j)
              queries.push_back(p.q.row(0, tile.head + j, i));
          ASSERT_EQ(reads.ranges.size(), 2u);
          std::vector<reference::Entry> read;  // the sinks, and every eighth key of the window
          for (std::int64_t j = 0; j < 4; ++j) read.push_back({p.k.row(0, h, j), nullptr, 0});
          for (std::int64_t j = reads.ranges[1].begin; j < data.visibility().end(tile.first);
               j += 8) {
            read.push_back({p.k.row(0, h, j), nullptr, std::log(8.0)});
          }
          std::vector<std::int64_t> nodes;
          std::set<std::int64_t> got;
          const std::set<std::int32_t> keys_read(reads.keys.begin(), reads.keys.end());
          const std::int64_t segments = reads.ranges[1].begin / 64;
          for (std::int64_t node = 0; node < segments * index.nodes_per_segment(); ++node) {
            if (node % index.nodes_per_segment() >= index.nodes_per_segment(0)) continue;
            if (index.count(0, h, node) == 0) continue;
            nodes.push_back(node);
            const auto keys = keys_of(index, 0, h, node);
            const bool in = keys_read.count(static_cast<std::int32_t>(keys[0])) > 0;
            for (const std::int64_t j : keys) {  // clusters are read whole
              ASSERT_EQ(keys_read.count(static_cast<std::int32_t>(j)) > 0, in);
            }
            if (in) got.insert(node);
          }
          const auto shares =
              reference::node_shares(queries, index, 0, h, nodes, read, double{data.scale()});
          const std::int64_t far = 300 - 4 - (reads.ranges[1].end - reads.ranges[1].begin);
          const auto want = reference::routed_nodes(shares.key, index, 0, h, nodes, far);
          double worst_in = 1, best_out = 0;
          for (std::size_t i = 0; i < nodes.size(); ++i) {
            double& bound = got.count(nodes[i]) > 0 ? worst_in : best_out;
            const double share = shares.key[i];
            bound = got.count(nodes[i]) > 0 ? std::min(bound, share) : std::max(bound, share);
            // Left out, it stands in where its share of the attention is worth it.
            const double worth = shares.node[i] / double{o.standin_share};
            if (got.count(nodes[i]) == 0 && std::abs(worth - 1) > 0.1) {
              EXPECT_EQ(std::ranges::count(reads.nodes, nodes[i]), worth > 1 ? 1 : 0) << worth;
            }
            agreement += got.count(nodes[i]) > 0 && want.count(nodes[i]) > 0;
          }
          chosen += static_cast<double>(got.size());
          EXPECT_GE(worst_in, best_out * 0.9) << c << " tile " << t;
          EXPECT_GT(static_cast<std::int64_t>(reads.keys.size()), far - 40) << "the budget is used";
        }
        EXPECT_GT(agreement / chosen, 0.9);
      }
    }
  }
}

TEST(PlanChoice, LevelsKeepMostOfTheMass) {
  Case c;
  c.n_q = 64, c.n_kv = 4096, c.d = 32, c.peak = 3;
  Data data(c);
  KeyIndex index(small_index());
  index.extend(data.k.view(), data.v.view(), *make_serial_executor());
  PlanOptions flat = small_plan(Method::kRouted, 500), levels = flat;
  flat.open_groups = flat.open_segments = 1 << 20;
  const reference::Problem p = data.problem();
  const auto kept = [&](const PlanOptions& o, std::int64_t& products) {
    const Planned planned = plan_all(data, o, &index);
    for (const TilePlan& reads : planned.plan.reads) products += reads.products;
    double sum = 0;
    reference::Result all = reference::dense(p);
    Plan keys_only = planned.plan;
    for (TilePlan& reads : keys_only.reads) reads.nodes.clear();
    const reference::Result part = reference::attend(p, keys_only, &index);
    for (std::size_t i = 0; i < all.lse.size(); ++i) sum += std::exp(part.lse[i] - all.lse[i]);
    return sum / static_cast<double>(all.lse.size());
  };
  std::int64_t products_flat = 0, products_levels = 0;
  const double of_flat = kept(flat, products_flat), of_levels = kept(levels, products_levels);
  EXPECT_GT(of_levels, 0.8 * of_flat);
  EXPECT_LT(products_levels, products_flat);
}

TEST(PlanChoice, AutoIsAFunctionOfTheShapeAndSaysWhy) {
  PlanOptions o;
  const Choice few = choose_method(512, 600, 7, false, o);
  const Choice many = choose_method(8192, 131072, 7, false, o);
  EXPECT_EQ(few.method, Method::kDense);
  EXPECT_EQ(many.method, Method::kRouted);
  EXPECT_FALSE(few.reason.empty());
  EXPECT_FALSE(many.reason.empty());
  EXPECT_NE(few.reason, many.reason);
  // The index pays later where fewer heads use it, and where dense is faster.
  EXPECT_GT(choose_method(8192, 8192, 1, true, o).crossover, many.crossover);
  EXPECT_GT(choose_method(8192, 8192, 1, true, o).crossover,
            choose_method(8192, 8192, 1, false, o).crossover);
}

// A report says what `dense_until` made exact, and the output is then dense.
TEST(PlanChoice, DenseUntilIsReported) {
  Case c;
  c.n_q = c.n_kv = 300;
  Data data(c);
  Options o;
  o.plan = small_plan(Method::kDense, 50);
  const auto run = [&](Method method, std::int64_t until) {
    o.plan.method = method, o.plan.dense_until = until;
    return attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o).choice.reason;
  };
  for (const Method method :
       {Method::kTopK, Method::kRouted, Method::kHyper, Method::kPrescoredHyper}) {
    EXPECT_EQ(run(method, 0), "as asked");
    EXPECT_EQ(run(method, 50), "as asked") << "the budget reads them anyway";
    EXPECT_NE(run(method, 200).find("tiles that see no more than the 200 keys"), std::string::npos);
    EXPECT_NE(run(method, 300).find("all is exact"), std::string::npos);
    expect_near_dense(data);
  }
  EXPECT_EQ(run(Method::kWindow, 300), "as asked");
}

// A window smaller than a tile still holds the query itself.
TEST(PlanChoice, TinyBudgetsReadTheNearestKeys) {
  for (const Method method : {Method::kWindow, Method::kRouted, Method::kTopK}) {
    Case c;
    c.h_q = 2, c.h_kv = 1, c.n_q = c.n_kv = 300, c.d = 16, c.d_v = 16;
    Data data(c);
    Options o;
    o.index = small_index();
    o.plan.method = method, o.plan.budget = 8, o.plan.sinks = o.index.sinks = 0;
    const Report report = attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o);
    // Query i of a head reads min(i + 1, 8) keys.
    EXPECT_EQ(report.counters.keys, 2 * (8 * 300 - 28));
  }
}

// The packed copy holds the same rows.
TEST(PlanChoice, PackedKeysGiveTheSameBits) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const std::int64_t n_q : {1, 50}) {
      Case c;
      c.b = 2, c.h_q = 4, c.h_kv = 2, c.n_q = n_q, c.n_kv = 500, c.d = 24, c.d_v = 40;
      c.kv_type = type, c.order = Order::kTokens;
      Data loose(c), packed(c);
      Options o;
      o.plan = small_plan(Method::kRouted, 220);
      o.index = small_index();
      attention(loose.q.view(), loose.k.view(), loose.v.view(), loose.state(), o);
      o.index.packed = true;
      attention(packed.q.view(), packed.k.view(), packed.v.view(), packed.state(), o);
      EXPECT_TRUE(loose.o.same_bits(packed.o));
      EXPECT_TRUE(loose.lse.same_bits(packed.lse));
    }
  }
}

}  // namespace
}  // namespace prescore::test
