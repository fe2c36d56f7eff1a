// The experiment heads: its statistics, and a model with a planted head that looks far.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "common/fingerprint.h"
#include "heads_reader.h"
#include "heads_report.h"
#include "temporary.h"
#include "tiny_model.h"

namespace prescore::experiments {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
using Numbers = std::vector<double>;

TEST(HeadsReport, RankCorrelation) {
  EXPECT_DOUBLE_EQ(spearman(Numbers{1, 2, 3, 4}, Numbers{10, 20, 25, 400}), 1);
  EXPECT_DOUBLE_EQ(spearman(Numbers{1, 2, 3, 4}, Numbers{4, 3, 2, 1}), -1);
  EXPECT_DOUBLE_EQ(spearman(Numbers{1, 2, 3, kNan, 4}, Numbers{1, 3, 2, 9, 4}), 0.8);
  // Equal values have the mean of their ranks: 0, 1.5, 1.5, 3 against 0, 1, 2, 3.
  EXPECT_NEAR(spearman(Numbers{0, 5, 5, 7}, Numbers{1, 2, 3, 4}), std::sqrt(0.9), 1e-12);
  EXPECT_TRUE(std::isnan(spearman(Numbers{1, 2}, Numbers{1, 2})));
  EXPECT_TRUE(std::isnan(spearman(Numbers{1, 1, 1}, Numbers{1, 2, 3})));
}

TEST(HeadsReport, OverlapOfTheWorst) {
  Numbers a(100), b(100);
  for (std::size_t i = 0; i < a.size(); ++i) a[i] = b[i] = static_cast<double>(i);
  EXPECT_EQ(worst_overlap(a, b, 0.02).both, 2u);
  std::swap(b[99], b[0]);
  const Overlap one = worst_overlap(a, b, 0.02);
  EXPECT_EQ(one.both, 1u);
  EXPECT_EQ(one.of, 2u);
  b[98] = kNan;  // counts for neither
  EXPECT_EQ(worst_overlap(a, b, 0.02).both, 1u);
  EXPECT_EQ(worst_overlap(Numbers{1, 2}, Numbers{1, 2}, 0.02).of, 1u);
  EXPECT_EQ(worst_overlap(Numbers{kNan}, Numbers{1}, 0.02).of, 0u);
}

TEST(HeadsReport, PairedDifferences) {
  const Difference d = difference(Numbers{3, 5, 4, 8}, Numbers{1, 2, 3, 4});
  EXPECT_DOUBLE_EQ(d.mean, 2.5);
  EXPECT_NEAR(d.error, std::sqrt(5.0 / 3 / 4), 1e-12);
}

TEST(HeadsReport, TablesAndMapsNameHeadsThatWereMeasured) {
  HeadRows rows{2, 3, {}, {}};
  rows.predictors.emplace_back("score", 6).values = {0, 1, 2, 3, 4, 5};
  rows.damages.emplace_back("alone", 6, true);
  rows.damages[0].values[4] = 7.25, rows.damages[0].errors[4] = 0.5;
  rows.damages[0].values[1] = -1, rows.damages[0].errors[1] = 0.25;
  const std::string table = worst_heads(rows, 20);
  EXPECT_LT(table.find("| 1.1 "), table.find("| 0.1 "));
  EXPECT_NE(table.find("+7.25 (0.50)"), std::string::npos) << table;
  EXPECT_EQ(table.find("| 0.2 "), std::string::npos) << table;
  EXPECT_EQ(worst_heads(rows, 1).find("| 0.1 "), std::string::npos);
  EXPECT_NE(agreement(rows).find("-, 1 of 1"), std::string::npos) << agreement(rows);
  const std::string svg = heads_picture("title", rows);
  EXPECT_NE(svg.find("</svg>"), std::string::npos);
  EXPECT_EQ(svg.find("nan"), std::string::npos);
}

// Head 0.1 looks for its own token in a text of random tokens that comes again.
struct PlantedHead : testing::Test {
  PlantedHead() {
    test::TinyModel m;
    m.copying_head = 1;
    flags.model = folder / "planted.gguf";
    flags.threads = 1;
    test::write_model(m, flags.model);
    model.emplace(flags);
    std::mt19937 random(3);
    for (int i = 0; i < 512; ++i)
      text.push_back(i < 300 ? static_cast<llama_token>(random() % test::TinyModel::kVocab)
                             : text[static_cast<std::size_t>(i - 300)]);
  }
  HeadReader reader(std::int64_t budget) const {
    Options o;
    o.plan.method = Method::kWindow, o.plan.budget = budget;
    return HeadReader(*model, flags, {512, 128, 32}, host::identify(flags.model), text, o);
  }
  test::Temporary folder;
  cli::ModelFlags flags;
  std::optional<cli::Model> model;
  std::vector<llama_token> text;
};

TEST_F(PlantedHead, CertificatesSayWhatIsMissed) {
  HeadReader few = reader(64), more = reader(192), all = reader(512);
  const auto missing = [](HeadReader& r) {
    return r.certificate(Method::kWindow).at("missing").get<Numbers>();
  };
  const Numbers a = missing(few), b = missing(more), c = missing(all);
  ASSERT_EQ(a.size(), 8u);
  EXPECT_EQ(c, Numbers(8));
  for (std::size_t h = 0; h < a.size(); ++h) {
    EXPECT_GT(a[h], b[h]) << h;
    EXPECT_LT(a[h], 1) << h;
  }
  // A window below the distance of the copies does not help the planted head as it does others.
  for (std::size_t h = 0; h < a.size(); ++h) EXPECT_LE(b[h] / a[h], b[1] / a[1]) << h;
}

TEST_F(PlantedHead, RolesAreThoseThatWereAskedFor) {
  constexpr Roles kAlone{host::Need::kAsCalled, host::Need::kDense};
  constexpr Roles kBut{host::Need::kDense, host::Need::kAsCalled};
  HeadReader few = reader(64), all = reader(512);
  const Tails dense = few.dense(), sparse = few.sparse();
  ASSERT_EQ(dense.production.size(), 127u);
  EXPECT_EQ(dense.production, dense.strict);
  const auto distance = [](const Numbers& a, const Numbers& b) {
    double most = 0;
    for (std::size_t i = 0; i < a.size(); ++i) most = std::max(most, std::abs(a[i] - b[i]));
    return most;
  };
  EXPECT_GT(distance(sparse.strict, dense.strict), 1);
  EXPECT_GT(distance(sparse.production, sparse.strict), 1);
  // The planted head alone moves the losses, and so does all but it.
  const Tails alone = few.with(1, kAlone), but = few.with(1, kBut);
  EXPECT_GT(distance(alone.strict, dense.strict), 0.2);
  EXPECT_GT(distance(but.strict, dense.strict), 0.2);
  EXPECT_GT(distance(but.strict, sparse.strict), 0.2);
  // A budget for everything loses nothing, whatever the roles.
  const Tails whole = all.with(1, kAlone);
  EXPECT_LT(distance(whole.production, dense.production), 0.1);
  EXPECT_LT(distance(whole.strict, dense.strict), 0.1);
}

}  // namespace
}  // namespace prescore::experiments
