// Head profiles: the file, where it is found, which model it is of.
#include "common/profile.h"

#include <gtest/gtest.h>

#include <atomic>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "common/fingerprint.h"
#include "common/profile_files.h"
#include "common/sha256.h"
#include "temporary.h"
#include "tiny_model.h"

namespace prescore::test {
namespace {

using host::HeadProfile;

constexpr char kText[] = R"({
  "schema": 1,
  "model": {"name": "tiny", "architecture": "llama", "layers": 3, "heads": 4, "kv_heads": 2,
            "head_dim": 64, "fingerprint": "0123456789abcdef", "weight": "unknown keys are ignored"},
  "made": {"by": "a person", "how": "by hand", "date": "2026-11-29"},
  "many": 4096,
  "window": 512,
  "prompt": ["..d.", "", "wwm."],
  "decode": ["..d.", "", "...."]
})";

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  const std::size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return text.replace(at, what.size(), by);
}

std::string complaint(const std::string& text) {
  try {
    host::parse_profile(text, "p.json");
  } catch (const Error& e) {
    return e.what();
  }
  return "";
}

TEST(Profile, ReadsLettersAsBudgets) {
  const HeadProfile p = host::parse_profile(kText, "p.json");
  EXPECT_EQ(p.model.name, "tiny");
  EXPECT_EQ(p.model.layers, 3);
  EXPECT_EQ(p.budgets(0, false), (std::vector<HeadBudget>{{}, {}, {Method::kDense, 0}, {}}));
  EXPECT_TRUE(p.budgets(1, false).empty());
  EXPECT_EQ(p.budgets(2, false),
            (std::vector<HeadBudget>{
                {Method::kWindow, 512}, {Method::kWindow, 512}, {Method::kRouted, 4096}, {}}));
  EXPECT_TRUE(p.budgets(2, true).empty());
  EXPECT_TRUE(p.budgets(-1, false).empty());
  EXPECT_TRUE(p.budgets(3, false).empty());
  EXPECT_EQ(host::describe(p),
            "1 of 12 heads dense, 1 with many keys, 2 with a window; "
            "decoding: 1 of 12 heads dense, from p.json");
}

TEST(Profile, SurvivesWritingAndReading) {
  const Temporary folder;
  HeadProfile p = host::parse_profile(kText, "p.json");
  p.model.name = "a \"name\"\n\xff";  // whatever a GGUF file says
  const std::string path = folder / "not/yet/there/p.json";
  host::write_profile(p, path);
  const HeadProfile q = host::read_profile(path);
  EXPECT_EQ(q.source, path);
  EXPECT_EQ(q.by, p.by);
  EXPECT_EQ(q.how, p.how);
  EXPECT_EQ(q.date, p.date);
  EXPECT_EQ(q.many, p.many);
  EXPECT_EQ(q.window, p.window);
  EXPECT_EQ(q.prompt, p.prompt);
  EXPECT_EQ(q.decode, p.decode);
  EXPECT_EQ(q.model.fingerprint, p.model.fingerprint);
  EXPECT_EQ(host::to_json(q), host::to_json(host::parse_profile(host::to_json(q), "")));
  EXPECT_THROW(host::write_profile(p, folder / "not/yet/there"), Error);
  EXPECT_EQ(folder.files(), 1);  // nothing temporary is left
}

TEST(Profile, MistakesAreOneSentence) {
  const struct {
    const char *what, *by, *expected;
  } cases[] = {
      {"\"schema\": 1", "\"schema\": 2", "schema of p.json, got 2, want 1"},
      {"\"schema\": 1,", "", "schema of p.json, got none"},
      {"\"layers\": 3", "\"layers\": 4", "prompt of p.json, got 3, want 4 strings, one a layer"},
      {"\"layers\": 3", "\"layers\": -3", "layers of p.json, got -3, want a whole number"},
      {"\"layers\": 3", "\"layers\": 18446744073709551615", "layers of p.json"},
      {"\"layers\": 3", "\"layers\": 3.5", "layers of p.json, got 3.5"},
      {"..d.\", \"\"", "..d\", \"\"", "prompt of layer 0 of p.json, got 3 letters, want 4"},
      {"wwm.", "wwx.", "prompt of layer 2 of p.json, got \"x\", want letters of"},
      {"wwm.", "w\\u0000m.", "prompt of layer 2 of p.json, got \"?\", want letters of"},
      {"\"wwm.\"", "7", "prompt of layer 2 of p.json, got 7"},
      {"0123456789abcdef", "0123", "fingerprint of p.json"},
      {"\"window\": 512", "\"window\": 0", "window of p.json, got 0"},
      {"\"many\": 4096", "\"many\": \"all\"", "many of p.json, got \"all\""},
      {"\"a person\"", "[[]]", "by of p.json, got [[]], want text"},
  };
  for (const auto& c : cases) {
    const std::string text = complaint(replaced(kText, c.what, c.by));
    EXPECT_EQ(text.find("[profile] " + std::string(c.expected)), 0u) << text;
    EXPECT_EQ(text.find('\n'), std::string::npos);
  }
  EXPECT_NE(complaint("").find("got no JSON"), std::string::npos);
  EXPECT_NE(complaint("[]").find("got []"), std::string::npos);
  EXPECT_NE(complaint(std::string(1 << 20, '[')).find("nesting of p.json"), std::string::npos);
  const std::string deep = std::string(100'000, '[') + std::string(100'000, ']');
  EXPECT_NE(complaint("{\"schema\": " + deep + "}").find("nesting of p.json"), std::string::npos);
}

TEST(Profile, APartOfAFileIsRefused) {
  const std::string text = host::to_json(host::parse_profile(kText, "p.json"));
  const std::size_t end = text.rfind('}');
  for (std::size_t n = 0; n <= end; ++n) EXPECT_NE(complaint(text.substr(0, n)), "") << n;
  EXPECT_EQ(complaint(text.substr(0, end + 1)), "");
}

TEST(Profile, FilesThatAreNoneSayWhy) {
  const Temporary folder;
  EXPECT_THROW(host::read_profile(folder.path()), Error);
  try {
    host::read_profile(folder / "absent.json");
    FAIL();
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("absent.json, got No such file"), std::string::npos);
  }
}

TEST(Profile, OfAnotherModelIsRefused) {
  const HeadProfile p = host::parse_profile(kText, "p.json");
  EXPECT_NO_THROW(host::check_fits(p, p.model));
  host::ModelIdentity other = p.model;
  other.name = "other", other.fingerprint = "fedcba9876543210";
  try {
    host::check_fits(p, other);
    FAIL();
  } catch (const Error& e) {
    EXPECT_STREQ(e.what(),
                 "[profile] model of p.json, got tiny (0123456789abcdef), want other "
                 "(fedcba9876543210)");
  }
  other = p.model, other.heads = 8;
  EXPECT_THROW(host::check_fits(p, other), Error);
}

TEST(Profile, IsFoundInTheCacheAndByName) {
  const Temporary folder;
  const Variable cache("PRESCORE_CACHE", folder.path()), setting("PRESCORE_PROFILE", "");
  HeadProfile p = host::parse_profile(kText, "p.json");
  const auto find = [&](const std::string& given) {
    return host::find_profile(p.model, host::profile_setting(given));
  };
  EXPECT_EQ(find("").profile, nullptr);
  const std::string cached = host::cached_profile_path(p.model.fingerprint);
  EXPECT_EQ(cached, folder / "profiles/0123456789abcdef.json");
  host::write_profile(p, cached);
  ASSERT_NE(find("").profile, nullptr);
  EXPECT_EQ(find("").profile->source, cached);
  EXPECT_TRUE(find("none").off);
  EXPECT_EQ(find("none").profile, nullptr);

  const std::string own = folder / "own.json";
  host::write_profile(p, own);
  EXPECT_EQ(find(own).profile->source, own);
  {
    const Variable named("PRESCORE_PROFILE", own);
    EXPECT_EQ(find("").profile->source, own);
    EXPECT_EQ(find(cached).profile->source, cached);
  }
  {
    const Variable off("PRESCORE_PROFILE", "none");
    EXPECT_TRUE(find("").off);
  }

  // What the cache holds is no reason to fail: it is said and passed over. A named file is.
  host::ModelIdentity renamed = p.model;
  renamed.fingerprint = "1111111111111111";
  std::filesystem::copy(cached, host::cached_profile_path(renamed.fingerprint));
  const host::FoundProfile foreign = host::find_profile(renamed, "");
  EXPECT_EQ(foreign.profile, nullptr);
  EXPECT_NE(foreign.note.find("[profile] model of"), std::string::npos) << foreign.note;
  EXPECT_THROW(host::find_profile(renamed, own), Error);
  std::ofstream(cached) << "{";
  EXPECT_NE(find("").note.find("no JSON"), std::string::npos);
}

TEST(Profile, ShippedOnesAreWhole) {
  for (const auto& [name, text] : host::shipped_profiles()) {
    const HeadProfile p = host::parse_profile(text, std::string(name));
    const Temporary empty;
    const Variable cache("PRESCORE_CACHE", empty.path());
    EXPECT_NE(host::find_profile(p.model, "").profile, nullptr) << name;
  }
}

TEST(ProfileThreads, ConcurrentWritersLeaveOneWholeFile) {
  const Temporary folder;
  const std::string path = folder / "p.json";
  HeadProfile p = host::parse_profile(kText, "p.json");
  host::write_profile(p, path);
  std::atomic<bool> done{false};
  std::thread reader([&] {
    while (!done) EXPECT_NO_THROW(host::read_profile(path));
  });
  std::vector<std::thread> writers;
  for (int w = 0; w < 4; ++w)
    writers.emplace_back([&path, mine = p, w]() mutable {
      mine.how = std::string(static_cast<std::size_t>(w) * 5000, 'x');
      for (int i = 0; i < 50; ++i) host::write_profile(mine, path);
    });
  for (std::thread& w : writers) w.join();
  done = true;
  reader.join();
  EXPECT_EQ(host::read_profile(path).prompt, p.prompt);
  EXPECT_EQ(folder.files(), 1);
}

TEST(Sha256, KnownMessages) {
  const auto digits = [](const std::string& text) {
    host::Sha256 sha;
    sha.add(text);
    return sha.digits();
  };
  EXPECT_EQ(digits(""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
  EXPECT_EQ(digits("abc"), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
  EXPECT_EQ(digits(std::string(1'000'000, 'a')),
            "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST(Fingerprint, IsThatOfTheModelWhateverItsQuantisation) {
  const Temporary folder;
  const auto identity = [&](TinyModel m, const char* name) {
    write_model(m, folder / name);
    return host::identify(folder / name);
  };
  TinyModel m;
  const host::ModelIdentity f32 = identity(m, "f32.gguf");
  EXPECT_EQ(f32.name, "f32");
  EXPECT_EQ(f32.architecture, "llama");
  EXPECT_EQ(f32.layers, TinyModel::kLayers);
  EXPECT_EQ(f32.heads, 4);
  EXPECT_EQ(f32.kv_heads, 2);
  EXPECT_EQ(f32.head_dim, 64);
  EXPECT_EQ(f32.fingerprint.size(), 16u);
  for (const ggml_type type : {GGML_TYPE_F16, GGML_TYPE_Q8_0, GGML_TYPE_Q4_0}) {
    m.type = type;
    EXPECT_EQ(identity(m, ggml_type_name(type)).fingerprint, f32.fingerprint);
  }
  m.seed = 8;
  EXPECT_NE(identity(m, "other.gguf").fingerprint, f32.fingerprint);
}

TEST(Fingerprint, IsThatOfPython) {
  // tests/python/test_profile.py computes the same numbers.
  const host::ModelIdentity shape{"", "", 2, 4, 2, 64, ""};
  const std::vector<host::NormWeights> norms = {{"first", {1, 0.5f, -2, 1.0039062f, 1.0117188f}},
                                                {"output", {3.14159274f, 1e-40f, 65504}}};
  EXPECT_EQ(host::fingerprint_of(shape, 5, norms), "7713569ceffc7982");
}

TEST(Fingerprint, FilesThatAreNoModelsSayWhy) {
  const Temporary folder;
  EXPECT_THROW(host::identify(folder / "absent.gguf"), Error);
  std::ofstream(folder / "text.gguf") << "GGUF and then nothing";
  EXPECT_THROW(host::identify(folder / "text.gguf"), Error);
  write_model({}, folder / "whole.gguf");
  std::filesystem::resize_file(folder / "whole.gguf",
                               std::filesystem::file_size(folder / "whole.gguf") / 2);
  EXPECT_THROW(host::identify(folder / "whole.gguf"), Error);
}

}  // namespace
}  // namespace prescore::test
