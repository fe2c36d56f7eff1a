// Scores that grow with a cache: against the oracle, whole against in pieces, blind to the future.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/cases.h"

namespace prescore::test {
namespace {

Tensor rows_of(Tensor x, std::int64_t begin, std::int64_t end) {
  x.data = static_cast<const std::byte*>(x.data) + begin * x.stride[2] * size_of(x.dtype);
  x.shape[2] = end - begin;
  return x;
}

/// Keys and queries [begin, end) of a prompt.
ScoreInputs piece(const Data& data, std::int64_t begin, std::int64_t end) {
  ScoreInputs in{rows_of(data.q.view(), begin, end),
                 rows_of(data.k.view(), 0, end),
                 rows_of(data.v.view(), 0, end),
                 {},
                 data.scale()};
  in.visibility.n_q = end - begin, in.visibility.n_kv = end;
  return in;
}

Case prompt(std::int64_t n, DType type = DType::kF16) {
  return {.b = 2,
          .h_q = 4,
          .h_kv = 2,
          .n_q = n,
          .n_kv = n,
          .d = 8,
          .d_v = 8,
          .q_type = type,
          .kv_type = type,
          .o_type = type};
}

ScoreOptions small(Score score) {
  ScoreOptions o;
  o.score = score, o.segment = 64, o.query_stride = 3, o.iterations = 3, o.clusters = 4;
  o.rotation.dims = 8;  // of no matter to scores that ignore it
  return o;
}

/// Scores that a causal cache may grow with: all but the oracle, which knows later queries.
std::vector<ScoreOptions> growing() {
  std::vector<ScoreOptions> all;
  for (int score = 0; score < static_cast<int>(Score::kOracle); ++score)
    all.push_back(small(static_cast<Score>(score)));
  all.push_back(small(Score::kKernelKMeans));
  all.back().kernel = KernelKMeans::kDistance;
  for (const Score score : {Score::kExpected, Score::kReceived}) {
    all.push_back(small(score));
    all.back().value_weighted = true;
  }
  return all;
}

std::string name(const ScoreOptions& o) {
  return "score " + std::to_string(static_cast<int>(o.score)) + ", kernel " +
         std::to_string(static_cast<int>(o.kernel)) + (o.value_weighted ? ", value-weighted" : "");
}

void expect_equal(const KeyScores& a, const KeyScores& b, std::int64_t until, const char* what) {
  const auto x = a.levels(), y = b.levels();
  for (std::size_t l = 0; l < std::min(x.size(), y.size()); ++l) {
    if (x[l].fit > until) break;
    ASSERT_EQ(x[l].fit, y[l].fit) << what;
    for (std::int64_t bh = 0; bh < 4; ++bh)
      for (std::int64_t j = 0; j < std::min(until, x[l].stride); ++j)
        ASSERT_EQ(x[l].scores[bh * x[l].stride + j], y[l].scores[bh * y[l].stride + j])
            << what << ", level " << l << ", head " << bh << ", key " << j;
  }
}

TEST(KeyScores, LevelsHaveTheScoresOfTheirPrefix) {
  const Data data(prompt(400));
  const auto serial = make_serial_executor();
  for (ScoreOptions o : growing()) {
    if (o.score >= Score::kExpected) continue;  // not of keys alone
    KeyScores scores(o);
    scores.extend(piece(data, 0, 400), *serial);
    ASSERT_EQ(scores.levels().size(), 3u);  // 64, 128, 256
    std::int64_t fit = 64;
    for (const ScoreLevel& level : scores.levels()) {
      EXPECT_EQ(level.fit, fit);
      const std::int64_t scored = std::min<std::int64_t>(400, 2 * fit);
      std::vector<float> want(static_cast<std::size_t>(4 * scored));
      o.fit = fit;
      score_keys(data.k.view(), scored, o, want.data(), *serial);
      for (std::int64_t i = 0; i < 4 * scored; ++i)
        ASSERT_EQ(level.scores[i / scored * level.stride + i % scored],
                  want[static_cast<std::size_t>(i)])
            << name(o) << ", key " << i;
      fit *= 2;
    }
  }
}

TEST(KeyScores, PiecesGiveTheScoresOfTheWhole) {
  const Data data(prompt(500));
  const auto serial = make_serial_executor();
  for (const ScoreOptions& o : growing()) {
    KeyScores whole(o);
    whole.extend(piece(data, 0, 500), *serial);
    EXPECT_GT(whole.bytes(), 0);
    for (const std::int64_t step : {1, 37, 64, 250}) {
      KeyScores grown(o);
      for (std::int64_t n = 0; n < 500; n += step)
        grown.extend(piece(data, n, std::min<std::int64_t>(500, n + step)), *serial);
      ASSERT_EQ(grown.levels().size(), whole.levels().size());
      EXPECT_EQ(grown.size(), 500);
      expect_equal(whole, grown, 500, name(o).c_str());
    }
    KeyScores threaded(o);
    threaded.extend(piece(data, 0, 500), *make_executor(3));
    expect_equal(whole, threaded, 500, "threads");
  }
}

TEST(KeyScores, KnowNothingBehindTheirFit) {
  const Data data(prompt(500));
  Data other(prompt(500));
  std::mt19937_64 later(2);
  other.q.fill_normal_rows(later, 300, 500, 3);
  other.k.fill_normal_rows(later, 300, 500, 3);
  other.v.fill_normal_rows(later, 300, 500, 3);
  const auto serial = make_serial_executor();
  for (const ScoreOptions& o : growing()) {
    KeyScores a(o), b(o);
    a.extend(piece(data, 0, 500), *serial);
    b.extend(piece(other, 0, 500), *serial);
    expect_equal(a, b, 300, name(o).c_str());
  }
}

TEST(KeyScores, TruncateForgets) {
  const Data data(prompt(500));
  Data other(prompt(500));
  std::mt19937_64 later(2);
  other.q.fill_normal_rows(later, 300, 500, 3);
  other.k.fill_normal_rows(later, 300, 500, 3);
  other.v.fill_normal_rows(later, 300, 500, 3);
  const auto serial = make_serial_executor();
  for (const ScoreOptions& o : growing()) {
    KeyScores a(o), b(o);
    a.extend(piece(data, 0, 500), *serial);
    b.extend(piece(other, 0, 500), *serial);
    a.truncate(300), b.truncate(300);
    EXPECT_EQ(a.size(), 300);
    a.extend(piece(data, 300, 450), *serial);
    b.extend(piece(data, 300, 450), *serial);
    expect_equal(a, b, 450, name(o).c_str());
    a.truncate(0);
    EXPECT_EQ(a.size(), 0);
    EXPECT_TRUE(a.levels().empty());
    a.extend(piece(data, 0, 64), *serial);
    EXPECT_EQ(a.levels().size(), 1u);
  }
}

TEST(KeyScores, ValidateFindsRewrittenKeys) {
  Data data(prompt(500));
  const auto serial = make_serial_executor();
  KeyScores scores(small(Score::kLeverage));
  scores.extend(piece(data, 0, 500), *serial);
  EXPECT_EQ(scores.validate(data.k.view()), 500);
  data.k.set(1, 1, 200, 3, 9);
  EXPECT_EQ(scores.validate(data.k.view()), 192);
  scores.extend(piece(data, 192, 500), *serial);
  KeyScores fresh(small(Score::kLeverage));
  fresh.extend(piece(data, 0, 500), *serial);
  expect_equal(scores, fresh, 500, "after validate");
}

/// NaN and infinity in queries that teach, of one head each.
void spoil_queries(Data& data) {
  data.q.set(0, 0, 66, 3, std::nan(""));
  data.q.set(0, 1, 72, 3, HUGE_VAL);
  data.q.fill_row(1, 2, 90, std::nan(""));
}

TEST(KeyScores, ExpectedAttentionAgreesWithTheOracle) {
  for (const auto& [causal, spoilt] : {std::pair{true, false}, {false, false}, {true, true}}) {
    Data data(prompt(320, DType::kF32));
    if (spoilt) spoil_queries(data);
    ScoreOptions o = small(Score::kExpected);
    o.query_stride = 2;
    KeyScores scores(o);
    ScoreInputs in = piece(data, 0, 320);
    in.visibility.causal = causal;
    scores.extend(in, *make_serial_executor());
    const ScoreLevel& level = scores.levels().back();
    const std::int64_t fit = causal ? level.fit : 320;
    const reference::Array q = reference::load(data.q.view()), k = reference::load(data.k.view());
    for (std::int64_t bh = 0; bh < 4; ++bh) {
      std::vector<std::vector<double>> queries(2);
      for (std::int64_t g = 0; g < 2; ++g)
        for (std::int64_t i = 0; i < fit; i += 2) {
          const double* x = q.row(bh / 2, bh % 2 * 2 + g, i);
          auto& rows = queries[static_cast<std::size_t>(g)];
          if (std::all_of(x, x + 8, [](double y) { return std::isfinite(y); }))
            rows.insert(rows.end(), x, x + 8);
        }
      const std::vector<double> keys(k.row(bh / 2, bh % 2, 0), k.row(bh / 2, bh % 2, 0) + 320 * 8);
      const auto want = reference::expected_attention(keys, 8, queries, double{in.scale}, fit);
      for (std::int64_t j = 0; j < 320; ++j)
        ASSERT_NEAR(level.scores[bh * level.stride + j], want[static_cast<std::size_t>(j)],
                    1e-4 * want[static_cast<std::size_t>(j)]);
    }
  }
}

TEST(KeyScores, ReceivedAttentionAgreesWithTheOracle) {
  for (const bool spoilt : {false, true})
    for (const auto& [score, distance] : {std::pair{Score::kReceived, 0},
                                          {Score::kReceived, 50},
                                          {Score::kOracle, 0},
                                          {Score::kOracle, 100},
                                          {Score::kOracle, 1000}}) {
      Data data(prompt(320, DType::kF32));
      if (spoilt) spoil_queries(data);
      ScoreOptions o = small(score);
      o.distance = distance;
      KeyScores scores(o);
      scores.extend(piece(data, 0, 320), *make_serial_executor());
      const ScoreLevel& level = scores.levels().back();
      const bool oracle = score == Score::kOracle;
      const std::int64_t until = oracle ? 320 : level.fit;
      for (std::int64_t bh = 0; bh < 4; ++bh) {
        const auto want = reference::received_attention(data.problem(), bh / 2, bh % 2, until,
                                                        oracle ? 1 : 3, distance);
        for (std::int64_t j = 0; j < until; ++j) {
          const double x = want[static_cast<std::size_t>(j)];
          if (x > 0) {
            ASSERT_NEAR(level.scores[bh * level.stride + j], x, 1e-4 * x + 1e-7);
          }
        }
      }
    }
}

// A NaN key: of scores of keys and expected attention it alone is +inf, and the fit is without it.
// Whoever sees it teaches nothing about what keys receive.
TEST(KeyScores, BadKeysTeachNothing) {
  Data data(prompt(320, DType::kF32));
  data.k.set(1, 1, 200, 2, std::nan(""));
  const auto serial = make_serial_executor();
  KeyScores expected(small(Score::kExpected)), received(small(Score::kReceived));
  expected.extend(piece(data, 0, 320), *serial), received.extend(piece(data, 0, 320), *serial);
  const ScoreLevel &e = expected.levels().back(), &r = received.levels().back();
  ASSERT_GT(e.fit, 200);
  double sum = 0;
  for (std::int64_t j = 0; j < e.fit; ++j) {
    const double x = double{e.scores[3 * e.stride + j]};
    if (j == 200)
      EXPECT_EQ(x, HUGE_VAL);
    else
      sum += x;
  }
  EXPECT_NEAR(sum, 1, 1e-5) << "shares of the other keys";
  const auto want = reference::received_attention(data.problem(), 1, 1, r.fit, 3);
  double unseen = 0;  // the last query that teaches is 198
  for (std::size_t j = 199 - 64; j < 199; ++j) unseen += want[j] / 64;
  for (std::int64_t j = 0; j < 320; ++j) {
    const double x = j < 199 ? want[static_cast<std::size_t>(j)] : unseen;
    ASSERT_NEAR(r.scores[3 * r.stride + j], x, 1e-4 * x) << "key " << j;
  }
}

// What it knew of queries stays where their text is forgotten: here those from 200 on.
TEST(KeyScores, TheOracleRemembersWhatComes) {
  const Data data(prompt(320));
  const auto serial = make_serial_executor();
  KeyScores knows(small(Score::kOracle)), fresh(small(Score::kOracle));
  knows.extend(piece(data, 0, 320), *serial);
  knows.truncate(200);
  knows.extend(piece(data, 200, 210), *serial), fresh.extend(piece(data, 0, 210), *serial);
  ASSERT_EQ(knows.size(), 210);
  const ScoreLevel &a = knows.levels().back(), &b = fresh.levels().back();
  double change = 0;
  for (std::int64_t j = 0; j < 64; ++j)
    change += std::abs(double{a.scores[j]} - double{b.scores[j]});
  EXPECT_GT(change, 0);
}

TEST(KeyScores, ScoresOfValuesAreTimesTheirNorm) {
  for (const Score score : {Score::kValueNorm, Score::kExpected, Score::kReceived, Score::kOracle})
    for (const DType type : {DType::kF32, DType::kBF16}) {
      Case c = prompt(320, type);
      c.d_v = 5;
      Data data(c);
      data.v.set(1, 0, 70, 2, std::nan(""));
      data.v.set(1, 0, 71, 2, -HUGE_VAL);
      ScoreOptions o = small(score);
      KeyScores plain(o);
      o.value_weighted = true;
      KeyScores weighted(o);
      const auto serial = make_serial_executor();
      plain.extend(piece(data, 0, 320), *serial), weighted.extend(piece(data, 0, 320), *serial);
      const reference::Array v = reference::load(data.v.view());
      ASSERT_EQ(plain.levels().size(), weighted.levels().size());
      for (std::size_t l = 0; l < plain.levels().size(); ++l) {
        const ScoreLevel &a = plain.levels()[l], &b = weighted.levels()[l];
        for (std::int64_t bh = 0; bh < 4; ++bh) {
          const double* values = v.row(bh / 2, bh % 2, 0);
          const auto norm = reference::key_norms({values, values + 320 * 5}, 5);
          for (std::int64_t j = 0; j < std::min<std::int64_t>(320, a.stride); ++j) {
            const double factor =
                score == Score::kValueNorm ? 1 : double{a.scores[bh * a.stride + j]};
            const double want = factor * norm[static_cast<std::size_t>(j)];
            const float got = b.scores[bh * b.stride + j];
            if (std::isfinite(want))
              ASSERT_NEAR(got, want, 1e-6 * want) << name(o) << ", key " << j;
            else
              ASSERT_EQ(got, HUGE_VALF) << name(o) << ", key " << j;
          }
        }
      }
    }
}

// Several chunks of keys, and the products of every dtype.
TEST(KeyScores, ReceivedAttentionOfALongPrompt) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    Case c = prompt(4500, type);
    c.b = 1, c.h_kv = 1, c.d = 64;
    const Data data(c);
    ScoreOptions o = small(Score::kReceived);
    o.query_stride = 97, o.segment = 512;
    KeyScores whole(o), pieces(o);
    const auto executor = make_executor(3);
    whole.extend(piece(data, 0, 4500), *executor);
    for (const std::int64_t end : {700, 2049, 4500})
      pieces.extend(piece(data, pieces.size(), end), *make_serial_executor());
    const ScoreLevel &level = whole.levels().back(), &other = pieces.levels().back();
    const auto want = reference::received_attention(data.problem(), 0, 0, level.fit, 97);
    const double tolerance = type == DType::kF32 ? 1e-4 : 2e-2;
    ASSERT_EQ(level.fit, other.fit);
    for (std::int64_t j = 0; j < level.fit; ++j) {
      const double x = want[static_cast<std::size_t>(j)];
      ASSERT_EQ(level.scores[j], other.scores[j]) << "key " << j;
      if (x > 0) {
        ASSERT_NEAR(level.scores[j], x, tolerance * x + 1e-7) << "key " << j;
      }
    }
  }
}

TEST(KeyScores, BadInputIsAnError) {
  EXPECT_THROW(KeyScores({.distance = -1}), Error);
  const Data data(prompt(100));
  const auto serial = make_serial_executor();
  EXPECT_THROW(KeyScores({.segment = 0}), Error);
  EXPECT_THROW(KeyScores({.growth = 0.5}), Error);
  EXPECT_THROW(KeyScores({.growth = std::nan("")}), Error);
  EXPECT_THROW(KeyScores({.query_stride = 0}), Error);
  KeyScores scores;
  scores.extend(piece(data, 0, 100), *serial);
  EXPECT_THROW(scores.extend(piece(data, 0, 50), *serial), Error);
  ScoreInputs in = piece(data, 0, 100);
  in.k.shape[1] = 1, in.v.shape[1] = 1;
  EXPECT_THROW(scores.extend(in, *serial), Error);
  in = piece(data, 0, 100);
  in.v.shape[2] = 99;
  EXPECT_THROW(scores.extend(in, *serial), Error);
}

}  // namespace
}  // namespace prescore::test
