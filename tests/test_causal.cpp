// Contract 2, causal honesty: nothing later changes a choice, however the prompt arrives.
#include <gtest/gtest.h>

#include <map>
#include <tuple>

#include "support/cases.h"

namespace prescore::test {
namespace {

using Place = std::tuple<std::int64_t, std::int64_t, std::int64_t>;  // batch, head, position

// Plans by the position of the tile's first query.
using Placed = std::map<Place, TilePlan>;

void add_plan(const Plan& plan, std::int64_t offset, Placed& out) {
  for (std::size_t t = 0; t < plan.tiles.size(); ++t) {
    const Tile& tile = plan.tiles[t];
    const bool fresh =
        out.emplace(Place{tile.batch, tile.head, tile.first + offset}, plan.reads[t]).second;
    ASSERT_TRUE(fresh) << "two tiles begin at " << tile.first + offset;
  }
}

void expect_same(const Placed& a, const Placed& b) {
  ASSERT_EQ(a.size(), b.size());
  for (const auto& [place, plan] : a) {
    const auto it = b.find(place);
    ASSERT_NE(it, b.end());
    ASSERT_EQ(plan.ranges, it->second.ranges) << "position " << std::get<2>(place);
    ASSERT_EQ(plan.keys, it->second.keys) << "position " << std::get<2>(place);
    ASSERT_EQ(plan.log_weights, it->second.log_weights);
    ASSERT_EQ(plan.nodes, it->second.nodes) << "position " << std::get<2>(place);
  }
}

// Queries [0, n) in calls of `chunks` queries each, with an index that grows; the plans of all.
Placed plan_in_chunks(const Data& data, const PlanOptions& options, const IndexOptions& shape,
                      const std::vector<std::int64_t>& chunks) {
  Placed placed;
  KeyIndex index(shape);
  const auto executor = make_serial_executor();
  std::int64_t begin = 0;
  for (const std::int64_t chunk : chunks) {
    const std::int64_t end = begin + chunk;
    PlanInputs in = data.plan_inputs();
    in.q = data.q.slice(begin, end), in.k = data.k.slice(0, end);
    in.visibility.n_q = chunk, in.visibility.n_kv = end;
    index.extend(in.k, data.v.slice(0, end), *executor);
    in.index = &index;
    AttendInputs attend_in = data.inputs();
    attend_in.q = in.q, attend_in.k = in.k, attend_in.visibility = in.visibility;
    const auto planner = make_planner(in, options);
    add_plan(make_plan(attend_in, *planner, *executor), begin, placed);
    begin = end;
  }
  return placed;
}

// Outputs of the same, from the one call, with an index that lives on, and scores if they are kept.
void attend_in_chunks(Data& data, const Options& options, const std::vector<std::int64_t>& chunks,
                      bool keep_scores = true) {
  KeyIndex index(options.index);
  KeyScores scores(score_options(options));
  const auto executor = make_serial_executor();
  std::int64_t begin = 0;
  for (const std::int64_t chunk : chunks) {
    const std::int64_t end = begin + chunk;
    Visibility see;
    see.n_q = chunk, see.n_kv = end;
    MutTensor o = data.o.out();
    const Tensor part = data.o.slice(begin, end);
    o.data = const_cast<void*>(part.data), o.shape = part.shape;
    std::vector<float> lse(static_cast<std::size_t>(data.shape.b * data.shape.h_q * chunk));
    attention(data.q.slice(begin, end), data.k.slice(0, end), data.v.slice(0, end), see,
              {&index, keep_scores ? &scores : nullptr}, {o, lse.data()}, options, *executor);
    std::size_t at = 0;
    for (std::int64_t b = 0; b < data.shape.b; ++b) {
      for (std::int64_t h = 0; h < data.shape.h_q; ++h) {
        for (std::int64_t i = begin; i < end; ++i) {
          data.lse.set(b, h, i, 0, double{lse[at++]});
        }
      }
    }
    begin = end;
  }
}

Case prompt(std::int64_t n) {
  Case c;
  c.h_q = 4, c.h_kv = 2, c.n_q = c.n_kv = n, c.d = 24, c.d_v = 16, c.kv_type = DType::kF16;
  return c;
}

TEST(Causal, SamePlanForOneCallAndForSixteen) {
  Case c = prompt(8192);
  c.h_q = 2, c.h_kv = 1;
  const Data data(c);
  const std::vector<std::int64_t> sixteen(16, 512);
  for (const StandIns standins : {StandIns::kAuto, StandIns::kNodes}) {
    PlanOptions o;
    o.method = Method::kRouted, o.standins = standins;
    expect_same(plan_in_chunks(data, o, {}, {8192}), plan_in_chunks(data, o, {}, sixteen));
  }
}

// Whether `auto` reads a tile densely depends on its position, not on how much of the prompt a call
// brings: the first nine of the sixteen calls are below the crossover, the one call is above it.
TEST(Causal, AutoReadsTheSameForOneCallAndForSixteen) {
  Case c = prompt(8192);
  c.h_q = 2, c.h_kv = 1;
  Data whole(c), chunked(c);
  const Options o;
  ASSERT_EQ(o.plan.method, Method::kAuto);
  ASSERT_EQ(choose_method(512, 9 * 512, 2, false, o.plan).method, Method::kDense);
  ASSERT_EQ(choose_method(8192, 8192, 2, false, o.plan).method, Method::kRouted);
  attend_in_chunks(whole, o, {8192});
  attend_in_chunks(chunked, o, std::vector<std::int64_t>(16, 512));
  EXPECT_TRUE(whole.o.same_bits(chunked.o));
  EXPECT_TRUE(whole.lse.same_bits(chunked.lse));
}

TEST(Causal, SamePlanUnderRandomChunks) {
  for (std::uint64_t seed = 1; seed <= 8; ++seed) {
    std::mt19937_64 random(seed);
    Case c = prompt(768);
    c.seed = seed, c.kv_type = seed % 2 == 0 ? DType::kF32 : DType::kBF16;
    const Data data(c);
    for (const Routing routing : {Routing::kTile, Routing::kStrict}) {
      PlanOptions o = small_plan(Method::kRouted, 250);
      o.routing = routing;
      std::vector<std::int64_t> chunks;
      const std::int64_t unit = routing == Routing::kTile ? o.tile : 1;
      for (std::int64_t left = 768; left > 0; left -= chunks.back()) {
        chunks.push_back(std::min(
            left, unit * std::uniform_int_distribution<std::int64_t>(1, 200 / unit)(random)));
      }
      SCOPED_TRACE(testing::Message() << "seed " << seed);
      const Placed whole = plan_in_chunks(data, o, small_index(), {768});
      expect_same(whole, plan_in_chunks(data, o, small_index(), chunks));
    }
  }
}

class CausalMethod : public testing::TestWithParam<std::tuple<Method, Score>> {};

// The oracle alone knows later queries.
std::vector<std::tuple<Method, Score>> causal_methods() {
  std::vector<std::tuple<Method, Score>> all;
  for (const Method m : {Method::kDense, Method::kWindow, Method::kRouted})
    all.emplace_back(m, Score::kKeyNorm);
  for (int s = 0; s < static_cast<int>(Score::kOracle); ++s)
    all.emplace_back(Method::kTopK, static_cast<Score>(s));
  return all;
}
INSTANTIATE_TEST_SUITE_P(All, CausalMethod, testing::ValuesIn(causal_methods()),
                         [](const auto& param) {
                           return to_string(std::get<0>(param.param)) +
                                  std::to_string(static_cast<int>(std::get<1>(param.param)));
                         });

Options options_of(const std::tuple<Method, Score>& param) {
  Options o;
  o.plan = small_plan(std::get<0>(param), 300);
  o.plan.score = std::get<1>(param);
  o.score.segment = 128, o.score.iterations = 3;
  o.score.centred = true;  // norms too then learn from keys
  o.index = small_index();
  return o;
}

// Chunks are whole tiles, which of dense are larger. Scores of keys alone can be computed anew in
// each call; those that learn from queries must have seen them all.
TEST_P(CausalMethod, SameOutputForAnyChunks) {
  const Options o = options_of(GetParam());
  Data whole(prompt(1536));
  attend_in_chunks(whole, o, {1536});
  const std::vector<std::int64_t> chunks =
      o.plan.method == Method::kDense ? std::vector<std::int64_t>{512, 256, 256, 512}
                                      : std::vector<std::int64_t>{512, 256, 32, 224, 352, 160};
  const bool learns = o.plan.score == Score::kExpected || o.plan.score == Score::kReceived;
  for (const bool keep_scores : {true, false}) {
    if (learns && !keep_scores) continue;
    Data chunked(prompt(1536));
    attend_in_chunks(chunked, o, chunks, keep_scores);
    EXPECT_TRUE(whole.o.same_bits(chunked.o)) << keep_scores;
    EXPECT_TRUE(whole.lse.same_bits(chunked.lse)) << keep_scores;
  }
}

// Later queries, keys and values are replaced: what ends before is the same bit for bit. In tiles
// "before" is whole tiles; strict, and in dense attention, single queries.
TEST_P(CausalMethod, NothingLaterChangesAnything) {
  constexpr std::int64_t kN = 1300;
  for (const Routing routing : {Routing::kTile, Routing::kStrict}) {
    Options o = options_of(GetParam());
    o.plan.routing = routing;
    const bool single = routing == Routing::kStrict || o.plan.method == Method::kDense;
    for (const std::int64_t from : {640, 1088, 1291}) {
      const std::int64_t cut = single ? from : from / o.plan.tile * o.plan.tile;
      Data before(prompt(kN)), after(prompt(kN));
      std::mt19937_64 random(99);
      after.q.fill_normal_rows(random, cut, kN, 5);
      after.k.fill_normal_rows(random, cut, kN, 5);
      after.v.fill_normal_rows(random, cut, kN, 5);
      for (Data* data : {&before, &after}) {
        attention(data->q.view(), data->k.view(), data->v.view(), data->state(), o,
                  *make_serial_executor());
      }
      for (std::int64_t h = 0; h < 4; ++h) {
        for (std::int64_t i = 0; i < cut; ++i) {
          ASSERT_TRUE(before.o.same_row(after.o, 0, h, i)) << "query " << i << ", cut " << cut;
          ASSERT_TRUE(before.lse.same_row(after.lse, 0, h, i)) << "query " << i;
        }
        EXPECT_FALSE(before.o.same_row(after.o, 0, h, kN - 1)) << "the test changes nothing";
      }
    }
  }
}

// A tile's company is that of absolute positions, also when only its end is asked for.
TEST(Causal, StrictQueryIsTheSameInAnyCompany) {
  Data whole(prompt(700));
  Options o = options_of({Method::kRouted, Score::kKeyNorm});
  o.plan.routing = Routing::kStrict;
  attend_in_chunks(whole, o, {700});
  for (const std::int64_t begin : {333, 640, 699}) {
    Case c = prompt(700);
    c.n_q = 700 - begin;
    Data tail(c);
    attention(whole.q.slice(begin, 700), whole.k.view(), whole.v.view(), tail.state(), o);
    for (std::int64_t h = 0; h < 4; ++h) {
      for (std::int64_t i = begin; i < 700; ++i) {
        for (std::int64_t x = 0; x < c.d_v; ++x) {
          ASSERT_EQ(whole.o.get(0, h, i, x), tail.o.get(0, h, i - begin, x)) << i;
        }
      }
    }
  }
}

}  // namespace
}  // namespace prescore::test
