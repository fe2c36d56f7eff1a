// What experiments are made of: the journal that a stopped run goes on from, pictures, needles.
#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <filesystem>
#include <fstream>
#include <limits>
#include <map>
#include <span>
#include <sstream>
#include <string>
#include <string_view>
#include <vector>

#include "chart.h"
#include "common/layer_set.h"
#include "errors.h"
#include "experiment.h"
#include "journal.h"
#include "needles.h"

namespace prescore::experiments {
namespace {

using nlohmann::json;

std::size_t count(const std::string& text, const std::string& what) {
  std::size_t n = 0;
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + 1)) ++n;
  return n;
}

class JournalTest : public testing::Test {
 protected:
  void SetUp() override {
    folder = (std::filesystem::temp_directory_path() /
              ("prescore_journal_" +
               std::string(testing::UnitTest::GetInstance()->current_test_info()->name())))
                 .string();
    std::filesystem::remove_all(folder);
  }
  void TearDown() override { std::filesystem::remove_all(folder); }
  int computed = 0;
  std::string folder;
  json row(Journal& j, int key) {
    return j.row(key, [&] { return json(100 + computed++); }).at("row");
  }
};

TEST_F(JournalTest, GoesOnWhereItStopped) {
  {
    Journal j(folder, "x", {{"a", 1}}, false);
    EXPECT_EQ(row(j, 1), 100);
    EXPECT_EQ(row(j, 2), 101);
    EXPECT_EQ(row(j, 1), 100);
  }
  {  // a torn last line
    std::ofstream out(folder + "/x.jsonl", std::ios::app);
    out << R"({"key":3,"row)";
  }
  Journal j(folder, "x", {{"a", 1}}, false);
  EXPECT_EQ(row(j, 2), 101);
  EXPECT_EQ(computed, 2);
  EXPECT_EQ(row(j, 3), 102);
  EXPECT_EQ(j.document().at("rows").size(), 2u);
  Journal again(folder, "x", {{"a", 1}}, false);
  EXPECT_EQ(row(again, 3), 102);
  EXPECT_EQ(computed, 3);
}

TEST_F(JournalTest, RowsOfAnotherBuildAreUsedButTold) {
  const auto reuse = [&](const char* build) {
    Journal j(folder, "x", {{"a", 1}}, false, build);
    testing::internal::CaptureStderr();
    EXPECT_EQ(row(j, 1), 100);
    EXPECT_EQ(row(j, 2), 101);
    return count(testing::internal::GetCapturedStderr(), "another build");
  };
  {
    Journal j(folder, "x", {{"a", 1}}, false, "one");
    row(j, 1), row(j, 2);
  }
  EXPECT_EQ(reuse("one"), 0u);
  EXPECT_EQ(reuse("two"), 1u);
  EXPECT_EQ(computed, 2);
  {  // rows that were written before builds were
    std::ofstream out(folder + "/old.jsonl");
    out << R"({"a":1})"
        << "\n"
        << R"({"key":1,"row":7})"
        << "\n";
  }
  Journal old(folder, "old", {{"a", 1}}, false);
  EXPECT_EQ(row(old, 1), 7);
  EXPECT_EQ(running_build(), running_build());
  EXPECT_EQ(running_build().size(), 16u);
}

TEST_F(JournalTest, OtherSettingsAreAnErrorWhereRowsExist) {
  { Journal(folder, "x", {{"a", 7}}, false); }  // ended before its first row
  {
    Journal begun(folder, "x", {{"a", 1}, {"b", 1}}, false);
    EXPECT_EQ(row(begun, 1), 100);
  }
  const auto refused = [&](const json& settings) -> std::string {
    try {
      Journal(folder, "x", settings, false);
    } catch (const cli::BadInput& e) {
      return e.what();
    }
    return "";
  };
  EXPECT_NE(refused({{"a", 2}, {"b", 1}}).find("settings (a),"), std::string::npos);
  EXPECT_NE(refused({{"b", 2}, {"c", 1}}).find("settings (b, c, a),"), std::string::npos);
  EXPECT_EQ(refused({{"b", 1}, {"a", 1}}), "");
  Journal fresh(folder, "x", {{"a", 2}}, true);
  EXPECT_EQ(row(fresh, 1), 101);
}

TEST(Experiments, PerplexityAtAsManyKeys) {
  const std::map<double, double> window = {{256, 32}, {1024, 16}, {4096, 8}};
  EXPECT_DOUBLE_EQ(perplexity_at(window, 260), 32);  // near enough
  EXPECT_NEAR(perplexity_at(window, 512), std::sqrt(32.0 * 16), 1e-9);
  EXPECT_NEAR(perplexity_at(window, 2048), std::sqrt(16.0 * 8), 1e-9);
  EXPECT_NEAR(perplexity_at(window, 64), 64, 1e-9);  // by the slope of the first two
  EXPECT_TRUE(std::isnan(perplexity_at(window, 5000)));
  EXPECT_TRUE(std::isnan(perplexity_at({{256, 32}}, 100)));
}

TEST(ShortHash, TellsTokensApart) {
  const auto of = [](const std::vector<std::int32_t>& tokens) {
    return short_hash(std::as_bytes(std::span(tokens)));
  };
  EXPECT_EQ(of({1, 2, 3}), of({1, 2, 3}));
  EXPECT_NE(of({1, 2, 3}), of({1, 2, 4}));
  EXPECT_NE(of({1, 2, 3}), of({1, 2}));
  // Test vectors of FNV-1a.
  EXPECT_EQ(of({}), "cbf29ce484222325");
  EXPECT_EQ(short_hash(std::as_bytes(std::span(std::string_view("a")))), "af63dc4c8601ec8c");
}

TEST(Chart, IsWellFormedWhateverThePoints) {
  const double nan = std::nan(""), inf = std::numeric_limits<double>::infinity();
  const Panel panel{"a < b & c",
                    "x",
                    "y",
                    {{"one", {{1, 2}, {2, 3}, {4, nan}, {inf, 1}}, false},
                     {"two", {{1, 1}}, true},
                     {"none", {}, false}}};
  const std::string svg = line_chart("t", {panel, {"empty", "", "", {}, true, true}});
  for (const char* element : {"<text", "<svg"})
    EXPECT_EQ(count(svg, element), count(svg, std::string("</") + (element + 1)));
  EXPECT_EQ(count(svg, "nan") + count(svg, "inf"), 0u);
  EXPECT_EQ(count(svg, "<circle"), 3u);
  EXPECT_EQ(count(svg, "a &lt; b &amp; c"), 1u);
  const std::string map = heat_maps("m", {{"h", {"r"}, {"a", "b"}, {{0.5, nan}}, 0, 1}});
  EXPECT_EQ(count(map, "nan"), 0u);
  EXPECT_EQ(count(map, ">0.5<"), 1u);
  HeatMap small{"h", {"r"}, {"a", "b"}, {{0.5, nan}}};
  small.small = true;
  const std::string key = heat_maps("m", {small});
  EXPECT_EQ(count(key, ">0.5<"), 0u);
  EXPECT_EQ(count(key, ">0<") + count(key, ">1<"), 2u) << "the ends of the colours";
  EXPECT_EQ(count(key, "<text"), count(key, "</text"));
}

TEST(Needles, AreThereOnceAndInTheirPlace) {
  for (const Needle kind : kNeedles) {
    for (const double depth : {0.0, 0.5, 1.0}) {
      for (std::uint64_t seed = 0; seed < 3; ++seed) {
        const Task t = make_task(kind, seed, 300, depth), same = make_task(kind, seed, 300, depth);
        EXPECT_EQ(t.context, same.context);
        EXPECT_EQ(t.question, same.question);
        EXPECT_NE(t.context, make_task(kind, seed + 9, 300, depth).context);
        for (const std::string& a : t.answers) {
          EXPECT_GE(count(t.context, a), 1u) << name_of(kind);
          EXPECT_EQ(count(t.question, a), 0u) << name_of(kind) << ": the question tells";
        }
        if (kind != Needle::kSingle && kind != Needle::kMultiKey) continue;
        ASSERT_EQ(t.answers.size(), 1u);
        EXPECT_EQ(count(t.context, t.answers[0]), 1u);
        EXPECT_NEAR(static_cast<double>(t.context.find(t.answers[0])) /
                        static_cast<double>(t.context.size()),
                    depth, 0.06);
      }
    }
  }
}

// How often each word of a list comes.
std::map<std::string, int> words_of(const Task& t) {
  std::map<std::string, int> times;
  std::istringstream words(t.context.substr(t.context.find('\n')));
  for (std::string w; words >> w;)
    if (w.back() != '.') ++times[w];
  return times;
}

// The larger list has more words than there are of three syllables; 262,144 tokens ask for it.
TEST(Needles, AnswersAreTheMostFrequentWords) {
  for (const Needle kind : {Needle::kCommonWords, Needle::kFrequentWords})
    for (const std::int64_t size : {400, 65536}) {
      const Task t = make_task(kind, 4, size, 0);
      std::map<std::string, int> times = words_of(t);
      int least = 1 << 30;
      for (const std::string& a : t.answers) least = std::min(least, times[a]), times.erase(a);
      for (const auto& [word, n] : times) {
        EXPECT_LT(n, least) << word;
        for (const std::string& a : t.answers)
          EXPECT_EQ(word.find(a), std::string::npos) << word << " holds the answer " << a;
      }
    }
}

// Published rows are of these, whatever the compiler.
TEST(Needles, TasksStayAsTheyWere) {
  EXPECT_EQ(make_task(Needle::kCommonWords, 0, 400, 0).answer(),
            " banorfi, brihustan, bapusel, gorlahu, vofipu, pudenvo, lativo, rawenti, figorwen, "
            "lalawen");
  const std::string text = make_task(Needle::kSingle, 0, 2, 0).context;
  EXPECT_EQ(text.substr(text.find('\n') + 1),
            "One of the special magic numbers for vomiwen is: 3023278. The gardener sold a quiet "
            "valley for the third time that year. The gardener painted a small red house in the "
            "first days of autumn. ");
}

// bench/support/needles.py makes the same ones: tests/python/test_needles.py has these too.
TEST(Needles, TasksAreThoseOfTheGpusBenchmarks) {
  constexpr const char* kHashes[] = {"a0e4cc21e404dd4e", "e56bc72279468f03", "f2a99b0cdc882b8a",
                                     "674b212432fb0f16", "c3a7fa56781af6a3", "28f558aeb92447da",
                                     "8f88e24118780e70"};
  for (const Needle kind : kNeedles) {
    const Task t = make_task(kind, 5, 700, 0.25);
    const std::string text = t.context + t.question + t.answer();
    EXPECT_EQ(short_hash(std::as_bytes(std::span(text))), kHashes[static_cast<int>(kind)])
        << name_of(kind);
  }
}

// Longer words begin where those of three syllables end.
TEST(Needles, WordsAreAsManyAsAskedFor) {
  for (const std::int64_t size : {47000, 65536}) {
    const std::map<std::string, int> times = words_of(make_task(Needle::kCommonWords, 0, size, 0));
    const std::int64_t seldom = size - 10 * (size / 20);  // three times each
    EXPECT_EQ(static_cast<std::int64_t>(times.size()), 10 + (seldom + 2) / 3);
    std::int64_t longer = 0;
    for (const auto& [word, n] : times) longer += word.find("qu") != std::string::npos;
    EXPECT_EQ(longer, std::max<std::int64_t>(0, 10 + (seldom + 2) / 3 - 8000));
  }
}

TEST(LayerSet, IsWhatItsNameSays) {
  using host::parse_layers;
  const auto members = [](const char* text) {
    const host::LayerSet set = parse_layers("--layers", text, 6);
    std::string out;
    for (std::int64_t l = 0; l < 6; ++l) out += set.contains(l) ? '1' : '0';
    return out;
  };
  EXPECT_EQ(members("all"), "111111");
  EXPECT_EQ(members("even"), "101010");
  EXPECT_EQ(members("odd"), "010101");
  EXPECT_EQ(members("first:2"), "110000");
  EXPECT_EQ(members("last:2"), "000011");
  EXPECT_EQ(members("first:0"), "000000");
  for (const char* bad : {"", "none", "first", "first:", "first:7", "last:-1", "first:x"})
    EXPECT_THROW(parse_layers("--layers", bad, 6), Error) << bad;
  EXPECT_EQ(host::layer_of_cache("cache_k_l17"), 17);
  for (const char* other : {"", "cache_k_l", "k", "cache_k_l7x"})
    EXPECT_EQ(host::layer_of_cache(other), -1) << other;
}

TEST(Needles, VariablesFollowEachOther) {
  const Task t = make_task(Needle::kVariable, 1, 100, 0);
  ASSERT_EQ(t.answers.size(), 5u);
  std::size_t last = 0;
  for (std::size_t i = 1; i < 5; ++i) {
    const std::size_t at = t.context.find("VAR " + t.answers[i] + " = VAR " + t.answers[i - 1]);
    ASSERT_NE(at, std::string::npos);
    EXPECT_GT(at, last);
    last = at;
  }
}

}  // namespace
}  // namespace prescore::experiments
