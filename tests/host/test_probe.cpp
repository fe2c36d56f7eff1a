// Which heads copy: the rule on constructed scores, the probe on models with a planted head, the
// command.
#include "llama/probe.h"

#include <gtest/gtest.h>

#include <cmath>
#include <fstream>
#include <random>
#include <set>

#include "command.h"
#include "common/fingerprint.h"
#include "common/profile_files.h"
#include "common/profile_rule.h"
#include "temporary.h"
#include "tiny_model.h"

namespace prescore::test {
namespace {

using host::HeadScores;

std::vector<std::string> names(const std::vector<host::CopyingHead>& heads) {
  std::vector<std::string> out;
  for (const host::CopyingHead& h : heads)
    out.push_back(std::to_string(h.layer) + "." + std::to_string(h.head));
  return out;
}

HeadScores scores(std::int64_t layers, std::int64_t heads) {
  HeadScores s(layers, heads);
  s.duplicate.assign(s.duplicate.size(), 0.02);
  s.induction.assign(s.induction.size(), 0.01);
  return s;
}

TEST(ProfileRule, TakesHeadsAboveTheirThresholdTheClearestFirst) {
  HeadScores s = scores(10, 10);
  s.duplicate[3 * 10 + 5] = 0.97, s.duplicate[4 * 10] = 0.26, s.duplicate[5 * 10] = 0.24;
  s.induction[9 * 10 + 8] = 0.99, s.induction[1] = 0.29;
  host::RuleOptions rule;
  rule.most = 1;
  EXPECT_EQ(names(host::copying_heads(s, rule)), (std::vector<std::string>{"3.5", "9.8", "4.0"}));
  rule.most = 0.02;
  EXPECT_EQ(names(host::copying_heads(s, rule)), (std::vector<std::string>{"3.5", "9.8"}));
  rule.most = 0.009;  // not even one of 100
  EXPECT_TRUE(host::copying_heads(s, rule).empty());
  rule.most = 1, rule.duplicate = 0.2, rule.induction = 0.999;
  EXPECT_EQ(names(host::copying_heads(s, rule)), (std::vector<std::string>{"3.5", "4.0", "5.0"}));
  rule.most = 1.5;
  EXPECT_THROW(host::copying_heads(s, rule), Error);
  EXPECT_TRUE(host::copying_heads(scores(10, 10)).empty());
}

TEST(ProfileRule, MakesAProfile) {
  HeadScores s = scores(10, 10);
  s.duplicate[35] = 0.97, s.induction[98] = 0.99;
  host::ModelIdentity m{"m", "llama", 10, 10, 5, 64, "0123456789abcdef"};
  const host::HeadProfile p = host::profile_by_rule(m, s);
  EXPECT_EQ(p.prompt[3], ".....d....");
  EXPECT_EQ(p.decode[3], ".....d....");
  EXPECT_EQ(p.prompt[9], "..........") << "prompts need copying heads of the first layers only";
  EXPECT_EQ(p.decode[9], "........d.");
  EXPECT_EQ(p.prompt[0], "mmmmmmmmmm");
  EXPECT_EQ(p.decode[0], "mmmmmmmmmm");
  host::RuleOptions rule;
  rule.prompt_layers = 1, rule.first_layer = false;
  const host::HeadProfile all = host::profile_by_rule(m, s, rule);
  EXPECT_EQ(all.prompt, all.decode);
  EXPECT_EQ(all.prompt[0], "..........");
  EXPECT_EQ(all.prompt[9], "........d.");
  m.heads = 5;
  EXPECT_THROW(host::profile_by_rule(m, s), Error);
}

// Keys are random directions, the same for the same token; queries look for what they must find.
TEST(ProfileRule, ScoresSayWhatAHeadLooksAt) {
  constexpr std::int64_t kFirst = 1, kPeriod = 40, kHeads = 4, kKvHeads = 2, kDim = 32;
  for (const std::int64_t repeated : {kPeriod, std::int64_t{10}}) {
    const std::int64_t n = kFirst + kPeriod + repeated;
    std::mt19937 random(5);
    std::normal_distribution<float> normal;
    std::vector<float> q(static_cast<std::size_t>(kHeads * n * kDim));
    std::vector<float> k(static_cast<std::size_t>(kKvHeads * n * kDim));
    const auto key = [&](std::int64_t h, std::int64_t i) { return k.data() + (h * n + i) * kDim; };
    for (float& x : q) x = 0.1f * normal(random);
    for (std::int64_t h = 0; h < kKvHeads; ++h)
      for (std::int64_t i = 0; i < n; ++i)
        for (std::int64_t c = 0; c < kDim; ++c)
          key(h, i)[c] = i < kFirst + kPeriod ? normal(random) : key(h, i - kPeriod)[c];
    for (std::int64_t i = kFirst + kPeriod; i < n; ++i)
      for (std::int64_t c = 0; c < kDim; ++c) {
        q[static_cast<std::size_t>((1 * n + i) * kDim + c)] = 2 * key(0, i - kPeriod)[c];
        q[static_cast<std::size_t>((2 * n + i) * kDim + c)] = 2 * key(1, i - kPeriod + 1)[c];
      }
    double duplicate[kHeads], induction[kHeads];
    host::score_copying(Tensor::contiguous(q.data(), DType::kF32, 1, kHeads, n, kDim),
                        Tensor::contiguous(k.data(), DType::kF32, 1, kKvHeads, n, kDim),
                        1 / std::sqrt(static_cast<float>(kDim)), kFirst, kPeriod, duplicate,
                        induction);
    // A query weighs its own key as much as the one of the first copy.
    EXPECT_GT(duplicate[1], 0.4);
    EXPECT_LT(induction[1], 0.1);
    EXPECT_GT(induction[2], 0.8);
    EXPECT_LT(duplicate[2], 0.1);
    for (const int other : {0, 3}) {
      EXPECT_LT(duplicate[other], 0.1);
      EXPECT_LT(induction[other], 0.1);
    }
    EXPECT_THROW(
        host::score_copying(Tensor::contiguous(q.data(), DType::kF32, 1, kHeads, n, kDim),
                            Tensor::contiguous(k.data(), DType::kF32, 1, kKvHeads, n, kDim), 1,
                            kFirst, repeated / 3, duplicate, induction),
        Error);
  }
}

TEST(Probe, FindsThePlantedHead) {
  const Temporary folder;
  for (const int head : {1, 2}) {
    TinyModel m;
    m.copying_head = head;
    write_model(m, folder / "planted.gguf");
    const Llama model = load(folder / "planted.gguf");
    const host::ModelIdentity identity = host::identify(folder / "planted.gguf");
    host::RuleOptions rule;
    rule.most = 1;
    int layers = 0;
    const HeadScores s =
        host::probe_heads(model.get(), identity, {200, 100}, 3, 2, [&] { ++layers; });
    EXPECT_EQ(layers, TinyModel::kLayers);
    EXPECT_EQ(names(host::copying_heads(s, rule)),
              (std::vector<std::string>{"0." + std::to_string(head)}));
    const HeadScores again = host::probe_heads(model.get(), identity, {200, 100}, 3, 1);
    EXPECT_EQ(s.duplicate, again.duplicate);
    EXPECT_NE(s.duplicate, host::probe_heads(model.get(), identity, {200, 100}, 4, 1).duplicate);

    host::ModelIdentity wrong = identity;
    wrong.heads = 8;
    EXPECT_THROW(host::probe_heads(model.get(), wrong, {200, 100}, 3, 2), Error);
  }
}

TEST(Probe, TakesAtMostATwentiethOfThePrompt) {
  const Llama model = make_model({});
  EXPECT_FALSE(host::quick_probe(model.get(), 0));
  EXPECT_FALSE(host::quick_probe(model.get(), 3000));
  for (const std::int64_t n : {4096, 8192, 32768, 1 << 20}) {
    const auto size = host::quick_probe(model.get(), n);
    ASSERT_TRUE(size);
    EXPECT_LE(20 * (1 + size->period + size->repeated), n);
    EXPECT_LE(size->repeated, size->period);
  }
}

TEST(Probe, TokensAreOrdinary) {
  if (!std::filesystem::exists(PRESCORE_TEST_MODEL)) GTEST_SKIP() << "no model";
  const Llama model = load(PRESCORE_TEST_MODEL);
  const llama_vocab* vocab = llama_model_get_vocab(model.get());
  const host::ProbeText text = host::probe_text(vocab, {300, 100}, 1);
  ASSERT_EQ(static_cast<std::int64_t>(text.tokens.size()), text.first + 400);
  std::set<llama_token> different;
  for (std::int64_t i = 0; i < 300; ++i) {
    const llama_token t = text.tokens[static_cast<std::size_t>(text.first + i)];
    EXPECT_FALSE(llama_vocab_is_control(vocab, t));
    EXPECT_GE(t, 1000);
    different.insert(t);
    if (i < 100) {
      EXPECT_EQ(text.tokens[static_cast<std::size_t>(text.first + 300 + i)], t);
    }
  }
  EXPECT_GT(different.size(), 280u);
}

// ---- the command -------------------------------------------------------------------------------

struct Planted : testing::Test {
  Planted() {
    TinyModel m;
    m.copying_head = 1;
    write_model(m, model);
  }
  /// Output of `prescore profile` with these flags more.
  std::string profile(const std::string& flags, int expected = 0) {
    int status = -1;
    const std::string text =
        output_of(kCommand + " profile --most 1 --tokens 200 -m " + model + " " + flags, &status);
    EXPECT_EQ(WEXITSTATUS(status), expected) << text;
    return text;
  }
  Temporary folder;
  std::string model = folder / "planted.gguf", out = folder / "p.json";
};

TEST_F(Planted, TheCommandWritesAProfileThatHostsFind) {
  const std::string text = profile("--draws 2 -o " + out);
  EXPECT_NE(text.find("1 of 8 heads dense"), std::string::npos) << text;
  const host::HeadProfile p = host::read_profile(out);
  EXPECT_EQ(p.prompt, (std::vector<std::string>{"mdmm", "...."}));
  EXPECT_EQ(p.by, "prescore " + std::string(version()));
  EXPECT_EQ(p.date.size(), 10u);
  EXPECT_NE(p.how.find("2 draws of 200 random tokens given twice"), std::string::npos) << p.how;
  EXPECT_EQ(folder.files(), 2);  // the journal is gone

  // Without --out into the cache folder.
  const Variable cache("PRESCORE_CACHE", folder / "cache"), none("PRESCORE_PROFILE", "");
  profile("--draws 1");
  const host::FoundProfile found = host::find_profile(host::identify(model), "");
  ASSERT_NE(found.profile, nullptr);
  EXPECT_EQ(found.profile->prompt, p.prompt);
}

TEST_F(Planted, ARunThatWasStoppedGoesOn) {
  // A draw that was measured before, as it seems, found head 1.3; the line after it was torn.
  const std::string settings = R"({"fingerprint":")" + host::identify(model).fingerprint +
                               R"(","repeated":200,"seed":0,"tokens":200})";
  const std::string draw =
      R"({"build":"?","key":{"draw":0},"row":{"duplicate":[0,0,0,0,0,0,0,1],"induction":[0,0,0,0,0,0,0,0]}})";
  const std::string torn = R"({"build":"?","key":{"draw":1},"row":{"dup)";
  const std::string journal = out + ".draws.jsonl";
  std::ofstream(journal) << settings << "\n" << draw << "\n" << torn;
  profile("--draws 1 -o " + out);
  EXPECT_EQ(host::read_profile(out).prompt, (std::vector<std::string>{"mmmm", "...d"}));

  std::ofstream(journal) << settings << "\n" << draw << "\n" << torn;
  profile("--draws 2 --duplicate 0.15 -o " + out);  // the mean of that one and a real one
  EXPECT_EQ(host::read_profile(out).prompt, (std::vector<std::string>{"mdmm", "...d"}));

  std::ofstream(journal) << settings << "\n" << draw << "\n";
  const std::string text = profile("--draws 1 --seed 7 -o " + out, 2);
  EXPECT_NE(text.find("rows of other settings (seed)"), std::string::npos) << text;
  profile("--draws 1 --seed 7 --fresh -o " + out);
  EXPECT_EQ(host::read_profile(out).prompt, (std::vector<std::string>{"mdmm", "...."}));
}

TEST_F(Planted, MistakesOfTheCommandAreOneSentence) {
  for (const std::string flags :
       {"--draws 0", "--tokens 3", "--repeated 300", "--induction -1", "-o /absent/p.json"}) {
    const std::string text = profile(flags, 2);
    EXPECT_EQ(text.find("prescore: "), 0u) << text;
    EXPECT_EQ(std::count(text.begin(), text.end(), '\n'), 1) << text;
  }
}

TEST(ProfileOfARun, IsMeasuredOnceSaidAndKept) {
  if (!std::filesystem::exists(PRESCORE_TEST_MODEL)) GTEST_SKIP() << "no model";
  if (std::string(PRESCORE_SANITIZE) != "") GTEST_SKIP() << "too slow";
  const Temporary folder;
  const Variable cache("PRESCORE_CACHE", folder.path()), setting("PRESCORE_PROFILE", "");
  std::ofstream prompt(folder / "prompt.txt");
  for (int i = 0; i < 330; ++i)
    prompt << "The number of day " << i << " is " << i * i % 997 << ". ";
  prompt.close();
  const auto run = [&](const std::string& flags, int expected = 0) {
    int status = -1;
    const std::string text = output_of(
        kCommand + " run -n 1 -m " PRESCORE_TEST_MODEL " -f " + (folder / "prompt.txt ") + flags,
        &status);
    EXPECT_EQ(WEXITSTATUS(status), expected) << text;
    return text;
  };
  const std::string fingerprint = host::identify(PRESCORE_TEST_MODEL).fingerprint;
  const bool shipped =
      host::find_profile(host::identify(PRESCORE_TEST_MODEL), "").profile != nullptr;
  if (!shipped) {
    const std::string first = run("");
    EXPECT_NE(first.find("prescore: measured which heads need every key: "), std::string::npos);
    EXPECT_NE(first.find("kept in " + host::cached_profile_path(fingerprint)), std::string::npos);
    const std::string second = run("");
    EXPECT_EQ(second.find("measured"), std::string::npos) << second;
    EXPECT_NE(second.find(", from " + folder.path()), std::string::npos) << second;
  } else {
    EXPECT_NE(run("").find("(shipped)"), std::string::npos);
  }
  const std::string off = run("--profile none");
  EXPECT_NE(off.find("profile   none"), std::string::npos) << off;

  // Of another model.
  TinyModel m;
  write_model(m, folder / "tiny.gguf");
  host::HeadProfile foreign = host::plain_profile(host::identify(folder / "tiny.gguf"));
  host::write_profile(foreign, folder / "foreign.json");
  const std::string refused = run("--profile " + (folder / "foreign.json"), 2);
  EXPECT_NE(refused.find("prescore: [profile] model of "), std::string::npos) << refused;
}

}  // namespace
}  // namespace prescore::test
