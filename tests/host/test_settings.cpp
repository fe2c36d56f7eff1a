// Flags of a method become options.
#include <gtest/gtest.h>

#include <CLI/CLI.hpp>

#include "errors.h"
#include "settings.h"

namespace prescore::cli {
namespace {

Options parsed(const std::string& flags) {
  CLI::App app;
  MethodFlags method;
  method.add_to(app);
  app.parse(flags);
  return method.options();
}

TEST(MethodFlags, DefaultsAreThoseOfTheLibrary) {
  const Options o = parsed("");
  EXPECT_EQ(score_options(o), score_options(Options{}));
  EXPECT_EQ(o.plan.selection, Selection::kTopK);
}

TEST(MethodFlags, EveryVariantOfAScoreCanBeAskedFor) {
  EXPECT_EQ(parsed("--leverage exact").score.leverage, Leverage::kExact);
  const ScoreOptions sketch = parsed("--leverage sketched --sketch-rows 99").score;
  EXPECT_EQ(sketch.leverage, Leverage::kSketched);
  EXPECT_EQ(sketch.sketch_rows, 99);
  EXPECT_EQ(parsed("--leverage ridge --ridge 0.5").score.ridge, 0.5);
  const ScoreOptions kernel =
      parsed("--key-score kernel_kmeans --kernel distance --sigma 2.5 --iterations 3").score;
  EXPECT_EQ(kernel.score, Score::kKernelKMeans);
  EXPECT_EQ(kernel.kernel, KernelKMeans::kDistance);
  EXPECT_EQ(kernel.sigma, 2.5);
  EXPECT_EQ(kernel.iterations, 3);
  EXPECT_EQ(parsed("--features 32").score.features, 32);
  const Options universal = parsed("--key-score universal --degree 6 --eps 0.25");
  EXPECT_EQ(universal.score.degree, 6);
  EXPECT_EQ(universal.plan.selection, Selection::kThreshold);
  EXPECT_EQ(universal.plan.least_score, 0.25f);
}

TEST(MethodFlags, OneSeedIsOfThePlanAndOfTheScore) {
  const Options o = parsed("--plan-seed 7");
  EXPECT_EQ(o.plan.seed, 7u);
  EXPECT_EQ(score_options(o).seed, 7u);
}

TEST(MethodFlags, WhatIsOutOfRangeIsRefused) {
  for (const char* bad : {"--leverage some", "--kernel some", "--degree 5", "--features 1000",
                          "--sigma -1", "--sketch-rows -1"})
    EXPECT_THROW(parsed(bad), Error) << bad;
  EXPECT_THROW(parsed("--eps -1"), BadInput);
}

}  // namespace
}  // namespace prescore::cli
