// What perplexity is measured of: the scored part, how it is read, and what the report calls it.
#include <gtest/gtest.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <string>

#include "errors.h"
#include "measure.h"
#include "svg.h"
#include "tiny_model.h"

namespace prescore::cli {
namespace {

constexpr std::int64_t kCtx = 1024;

ProtocolFlags parsed(const std::string& flags) {
  CLI::App app;
  ProtocolFlags protocol;
  protocol.add_to(app);
  app.parse(flags);
  return protocol;
}

Protocol protocol(const std::string& flags) { return parsed(flags).protocol(kCtx, 1, 64, 2); }

std::string refused(const std::string& flags) {
  try {
    protocol(flags);
  } catch (const std::exception& e) {
    return e.what();
  }
  return "";
}

TEST(Protocol, HasANameAndAPlaceWhereItBegins) {
  EXPECT_EQ(protocol("").name(), "tail dense");
  EXPECT_EQ(protocol("--tail strict").name(), "tail strict");
  EXPECT_EQ(protocol("--score half").name(), "half");
  EXPECT_EQ(protocol("").split(128), 768);
  EXPECT_EQ(protocol("--score half").split(128), 512);
  EXPECT_EQ(protocol("--tail-tokens 128").split(128), 896);
  EXPECT_EQ(protocol("--tail-tokens 129").split(128), 768) << "a whole tile more";
  EXPECT_EQ(protocol("--tail-tokens 1023").split(128), 1) << "something must be predicted from";
  EXPECT_EQ(scored_part(protocol("")), "last quarter");
  EXPECT_EQ(scored_part(protocol("--tail-tokens 128")), "last 128 tokens");
}

TEST(Protocol, WhatMakesNoSenseIsOneSentence) {
  EXPECT_EQ(refused("--tail magic"), "--tail, got \"magic\", want one of dense, strict");
  EXPECT_NE(refused("--score all").find("want one of tail, half"), std::string::npos);
  EXPECT_NE(refused("--score half --tail dense").find("half has no tail"), std::string::npos);
  EXPECT_NE(refused("--score half --tail-tokens 9").find("half has no tail"), std::string::npos);
  for (const char* bad : {"--tail-tokens 1024", "--tail-tokens -1"})
    EXPECT_NE(refused(bad).find("tail-tokens, got"), std::string::npos) << bad;
}

TEST(Protocol, EveryReportNamesIt) {
  for (const char* flags : {"", "--tail strict", "--score half"}) {
    Report report;
    report.protocol = protocol(flags);
    report.rows.push_back({});
    const std::string name = report.protocol.name();
    EXPECT_EQ(to_json(report).at("protocol"), name);
    EXPECT_NE(to_text(report).find("Perplexity (" + name + ")"), std::string::npos);
    EXPECT_NE(to_svg(report).find("(" + name + ")"), std::string::npos);
  }
}

class MeasureTest : public testing::Test {
 protected:
  void SetUp() override {
    flags.model = (std::filesystem::temp_directory_path() /
                   ("prescore_measure_" + std::to_string(getpid()) + ".gguf"))
                      .string();
    flags.threads = 2;
    test::detail::TinyWriter(test::TinyModel{}).write(flags.model);
    for (unsigned i = 0; i < kCtx; ++i)
      tokens.push_back(static_cast<llama_token>((i * 7919u + i * i * 31u) % 512u));
  }
  void TearDown() override { std::filesystem::remove(flags.model); }

  Row measured(const std::string& method, const std::string& words) {
    const Model model(flags);
    const Protocol p = protocol(words);
    Session session(model, flags, kCtx, p.batch(), p.outputs(128));
    Setting setting{method, {}, {}};
    setting.options.plan.budget = 256;
    setting.options.compute = Compute::kF32;
    if (method == "routed") setting.options.plan.method = Method::kRouted;
    if (method == "dense") setting.options.plan.method = Method::kDense;
    return Measurement(p, setting, model, session, tokens).run();
  }

  ModelFlags flags;
  std::vector<llama_token> tokens;
};

TEST_F(MeasureTest, ADenseMethodHasTheSameTailEitherWay) {
  const Row dense = measured("dense", "--tail dense"), strict = measured("dense", "--tail strict");
  EXPECT_NEAR(dense.ppl / strict.ppl, 1, 1e-5);
  EXPECT_NEAR(dense.ppl / measured("stock", "").ppl, 1, 1e-3);
  EXPECT_EQ(dense.scored.keys, strict.scored.keys);
}

TEST_F(MeasureTest, ADenseTailReadsEverythingAfterAPromptByTheMethod) {
  const Row dense = measured("routed", ""), strict = measured("routed", "--tail strict");
  EXPECT_EQ(dense.prefill.keys, strict.prefill.keys);
  EXPECT_LT(dense.prefill.keys, dense.prefill.visible);
  EXPECT_EQ(dense.scored.keys, dense.scored.visible);
  EXPECT_LT(strict.scored.keys, strict.scored.visible / 2);
  EXPECT_NE(dense.ppl, strict.ppl);
  // The prompt leaves its mark: not what a dense prompt gives.
  EXPECT_GT(std::abs(dense.ppl / measured("dense", "").ppl - 1), 1e-6);
  EXPECT_EQ(dense.took, "routed");
}

}  // namespace
}  // namespace prescore::cli
