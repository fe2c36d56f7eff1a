// Contract 2 of HyperAttention, with and without scores: how a prompt arrives and what comes later
// change nothing that a query reads. (Bits of outputs may differ: lanes change company.)
#include <gtest/gtest.h>

#include <tuple>
#include <vector>

#include "support/reads.h"

namespace prescore::test {
namespace {

constexpr std::int64_t kN = 640;

Case prompt() {
  Case c;
  c.h_q = 4, c.h_kv = 2, c.n_q = c.n_kv = kN, c.kv_type = DType::kF16;
  return c;
}

/// What queries [0, kN) read in calls of so many queries each, with scores that live on.
std::map<Query, Reads> reads_in_chunks(const Data& data, const Options& o,
                                       const std::vector<std::int64_t>& chunks) {
  const auto serial = make_serial_executor();
  KeyScores scores(score_options(o));
  std::map<Query, Reads> all;
  std::int64_t begin = 0;
  for (const std::int64_t chunk : chunks) {
    Case part = data.shape;
    part.n_q = chunk, part.n_kv = begin + chunk;
    Visibility see;
    see.n_q = part.n_q, see.n_kv = part.n_kv;
    const Prepared call = prepare(data.q.slice(begin, part.n_kv), data.k.slice(0, part.n_kv),
                                  data.v.slice(0, part.n_kv), see, {nullptr, &scores}, o, *serial);
    all.merge(reads_by_query(part, see, make_plan(call.in, *call.planner, *serial)));
    begin += chunk;
  }
  return all;
}

class HyperCausal : public testing::TestWithParam<std::tuple<Method, Score>> {
 protected:
  /// With sizes of its own and with those of the budget, in tiles and strict.
  static std::vector<Options> options() {
    std::vector<Options> all;
    for (const Routing routing : {Routing::kTile, Routing::kStrict})
      for (const std::int64_t leaf : {64, 0}) {
        Options o;
        o.plan = small_plan(std::get<0>(GetParam()), leaf > 0 ? 40 : 150);
        o.plan.score = std::get<1>(GetParam());
        o.plan.routing = routing;
        o.plan.hyper = {.projections = 4, .block = 12, .samples = 9, .leaf = leaf, .selected = 100};
        o.score.segment = 64, o.score.iterations = 3;
        all.push_back(o);
      }
    return all;
  }
};
INSTANTIATE_TEST_SUITE_P(All, HyperCausal,
                         testing::Values(std::tuple{Method::kHyper, Score::kKeyNorm},
                                         std::tuple{Method::kPrescoredHyper, Score::kLeverage},
                                         std::tuple{Method::kPrescoredHyper, Score::kKMeans},
                                         std::tuple{Method::kPrescoredHyper, Score::kReceived}),
                         [](const auto& param) {
                           return to_string(std::get<0>(param.param)) +
                                  std::to_string(static_cast<int>(std::get<1>(param.param)));
                         });

// Chunks are whole tiles, or, where each query chooses for itself, any.
TEST_P(HyperCausal, ChunksReadTheSame) {
  const Data data(prompt());
  for (const Options& o : options()) {
    const auto whole = reads_in_chunks(data, o, {kN});
    ASSERT_EQ(whole.size(), static_cast<std::size_t>(4 * kN));
    std::vector<std::vector<std::int64_t>> cuts{{160, 160, 160, 160}, {96, 32, 352, 160}};
    if (o.plan.routing == Routing::kStrict) cuts.push_back({333, 1, 1, 171, 134});
    for (const auto& chunks : cuts)
      EXPECT_EQ(reads_in_chunks(data, o, chunks), whole)
          << chunks.size() << " chunks, leaf " << o.plan.hyper.leaf;
  }
}

TEST_P(HyperCausal, NothingLaterChangesAnything) {
  const Data before(prompt());
  for (const Options& o : options()) {
    const auto want = reads_in_chunks(before, o, {kN});
    for (const std::int64_t cut : {250, 400, 611}) {
      Data after(prompt());
      std::mt19937_64 random(99);
      for (Storage* x : {&after.q, &after.k, &after.v}) x->fill_normal_rows(random, cut, kN, 5);
      const auto got = reads_in_chunks(after, o, {kN});
      EXPECT_NE(got, want) << "the test changes nothing";
      for (const auto& [query, reads] : want)
        if (std::get<2>(query) < cut) {
          ASSERT_EQ(got.at(query), reads) << "position " << std::get<2>(query) << ", cut " << cut;
        }
    }
  }
}

}  // namespace
}  // namespace prescore::test
