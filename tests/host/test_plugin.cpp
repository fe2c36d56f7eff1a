// The loadable backend: in this process beside the callback host, and in unmodified programs.
#include <gtest/gtest.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>

#include "command.h"
#include "common/fingerprint.h"
#include "common/mapped_models.h"
#include "common/profile_files.h"
#include "flash_case.h"
#include "temporary.h"
#include "tiny_model.h"

namespace prescore::test {
namespace {

const std::string kPlugin = std::string(PRESCORE_BINARY_DIR) + "/libggml-prescore.so";
const std::string kProgram = std::string(PRESCORE_LLAMA_PREFIX) + "/bin/llama-perplexity";
const std::string kModel = PRESCORE_TEST_MODEL;

bool sanitized() { return std::string(PRESCORE_SANITIZE) != ""; }

/// The number that follows `before` in `text`; NaN where there is none.
double number_after(const std::string& text, const std::string& before) {
  const std::size_t at = text.find(before);
  return at == std::string::npos ? NAN : std::strtod(text.c_str() + at + before.size(), nullptr);
}

ggml_backend_dev_t plugin_device() {
  static ggml_backend_dev_t device = [] {
    setenv("PRESCORE_METHOD", "routed", 1);
    setenv("PRESCORE_BUDGET", "512", 1);
    ggml_backend_reg_t reg = ggml_backend_load(kPlugin.c_str());
    unsetenv("PRESCORE_METHOD");
    unsetenv("PRESCORE_BUDGET");
    return reg == nullptr ? nullptr : ggml_backend_reg_dev_get(reg, 0);
  }();
  return device;
}

TEST(Plugin, IsAnAcceleratorThatTakesAttentionOnly) {
  ggml_backend_dev_t device = plugin_device();
  ASSERT_NE(device, nullptr);
  EXPECT_STREQ(ggml_backend_dev_name(device), "prescore");
  EXPECT_EQ(ggml_backend_dev_type(device), GGML_BACKEND_DEVICE_TYPE_ACCEL);
  EXPECT_TRUE(ggml_backend_dev_supports_buft(device, ggml_backend_cpu_buffer_type()));
  EXPECT_EQ(ggml_backend_dev_buffer_type(device), ggml_backend_cpu_buffer_type());

  Context ctx(ggml_init({ggml_tensor_overhead() * 16, nullptr, true}));
  const auto tensor = [&](ggml_type type, std::int64_t n) {
    return ggml_new_tensor_4d(ctx.get(), type, 64, n, 4, 1);
  };
  const auto attention = [&](std::int64_t n_q, float softcap) {
    return ggml_flash_attn_ext(ctx.get(), tensor(GGML_TYPE_F32, n_q), tensor(GGML_TYPE_F16, 256),
                               tensor(GGML_TYPE_F16, 256), nullptr, 1, 0, softcap);
  };
  EXPECT_TRUE(ggml_backend_dev_supports_op(device, attention(64, 0)));
  EXPECT_FALSE(ggml_backend_dev_supports_op(device, attention(1, 0))) << "the probe of -fa auto";
  EXPECT_FALSE(ggml_backend_dev_supports_op(device, attention(64, 30)));
  EXPECT_FALSE(ggml_backend_dev_supports_op(
      device, ggml_add(ctx.get(), tensor(GGML_TYPE_F32, 8), tensor(GGML_TYPE_F32, 8))));
}

TEST(Plugin, GivesTheSameBitsAsTheCallback) {
  ASSERT_NE(plugin_device(), nullptr);
  FlashCase c;
  c.n_q = 512, c.n_kv = c.used = 2048;
  FlashTensors tensors(c);
  const Backend cpu = cpu_backend(2);
  Options options;
  options.plan.method = Method::kRouted;
  options.plan.budget = 512;
  const Scheduler with_callback = scheduler({cpu.get()});
  host::LlamaHost host(options);
  host.attach(with_callback.get());
  const std::vector<float> expected = tensors.compute(with_callback.get());
  ASSERT_EQ(host.stats().methods.at("routed"), 1);

  const Backend plugin(ggml_backend_dev_init(plugin_device(), nullptr));
  const Scheduler with_plugin = scheduler({plugin.get(), cpu.get()});
  EXPECT_EQ(tensors.compute(with_plugin.get()), expected);
  EXPECT_EQ(tensors.compute(with_plugin.get()), expected);  // second evaluation: index, mask again
}

/// Text for a few contexts, written once.
std::string text_file() {
  const auto path = std::filesystem::temp_directory_path() / "prescore_test_text.txt";
  std::ofstream out(path);
  for (int i = 0; i < 900; ++i)
    out << "Line " << i << ": the warehouse in bay " << (i * 7919) % 101 << " holds "
        << (i * 104729) % 977 << " crates of tea, and the clerk wrote it down twice.\n";
  return path.string();
}

class PluginInPrograms : public testing::Test {
 protected:
  void SetUp() override {
    if (sanitized()) GTEST_SKIP() << "the unmodified programs are not instrumented";
    if (!std::filesystem::exists(kModel)) GTEST_SKIP() << "no model at " << kModel;
    if (!std::filesystem::exists(kProgram)) GTEST_SKIP() << "no program at " << kProgram;
  }
  /// Output of the unmodified program over one context.
  std::string perplexity(const std::string& environment, int ctx, int* status) {
    const std::string n = std::to_string(ctx);
    // A program with the CPU backend compiled in looks at GGML_BACKEND_PATH only where an option
    // makes it load backends; -ot with a tensor that no model has is one.
    return output_of(environment + " " + kProgram + " -m " + kModel + " -f " + text_file() +
                         " -c " + n + " -b " + n + " -ub " + n +
                         " --chunks 1 -t 2 --no-warmup -ot none=CPU",
                     status);
  }
  const std::string plugin_ = "GGML_BACKEND_PATH=" + kPlugin + " PRESCORE_STATS=1 ";
};

TEST_F(PluginInPrograms, PerplexityIsThatOfTheCommand) {
  int status = 0;
  const std::string program =
      perplexity(plugin_ + "PRESCORE_METHOD=routed PRESCORE_BUDGET=512", 1024, &status);
  ASSERT_EQ(status, 0) << program;
  // A plug-in that was refused would leave the program's exit code at 0: the count must say it ran.
  EXPECT_GE(number_after(program, "\nprescore: "), 30) << program;
  EXPECT_NE(program.find("30 routed"), std::string::npos) << program;
  const double ppl = number_after(program, "PPL = ");
  EXPECT_TRUE(std::isfinite(ppl)) << program;

  const std::string json = (std::filesystem::temp_directory_path() / "prescore_test.json").string();
  const std::string command = output_of(
      kCommand + " ppl -m " + kModel + " -f " + text_file() + " -c 1024 --methods routed" +
          " --budget 512 --score half -t 2 --warmup 0 --json " + json,
      &status);
  ASSERT_EQ(status, 0) << command;
  std::ifstream in(json);
  const std::string document{std::istreambuf_iterator<char>(in), {}};
  // The command reads the second half apart, the program in one batch; both print few digits.
  EXPECT_NEAR(number_after(document, "\"ppl\": ") / ppl, 1, 0.005) << document << program;
}

TEST_F(PluginInPrograms, CanBeSwitchedOffAndRefusesBadSettingsInOneLine) {
  int status = 0;
  const std::string off = perplexity(plugin_ + "PRESCORE_DISABLE=1", 64, &status);
  EXPECT_EQ(status, 0) << off;
  EXPECT_NE(off.find("prescore: switched off by PRESCORE_DISABLE"), std::string::npos) << off;
  EXPECT_NE(off.find("prescore: 0 attention operations"), std::string::npos) << off;

  const std::string bad = perplexity(plugin_ + "PRESCORE_BUDGET=lots", 64, &status);
  EXPECT_EQ(status, 0) << bad;
  EXPECT_NE(bad.find("prescore: not loaded: PRESCORE_BUDGET, got \"lots\""), std::string::npos)
      << bad;
}

/// A profile of the test model in which the heads of one layer are dense in prompts.
host::HeadProfile one_dense_layer() {
  host::HeadProfile p = host::plain_profile(host::identify(kModel));
  p.prompt[7].assign(p.prompt[7].size(), host::Need::kDense);
  return p;
}

TEST_F(PluginInPrograms, TakesTheProfileThatIsNamedOrTheMappedModels) {
  const Temporary folder;
  const std::string named = folder / "named.json", routed = "PRESCORE_METHOD=routed ";
  host::write_profile(one_dense_layer(), named);
  int status = 0;
  const auto program = [&](const std::string& environment) {
    std::string text =
        perplexity("env -u PRESCORE_PROFILE " + routed + plugin_ + environment, 1024, &status);
    EXPECT_EQ(status, 0) << text;
    return text;
  };
  const auto used = [](const std::string& path) {
    return "; profile: 9 of 270 heads dense; decoding: none of 270 heads differs, from " + path +
           ", used in 1 operations";
  };
  const std::string cache = "PRESCORE_CACHE=" + folder.path() + " ";
  std::string text = program(cache + "PRESCORE_PROFILE=" + named);
  EXPECT_NE(text.find(used(named)), std::string::npos) << text;

  host::HeadProfile foreign = one_dense_layer();
  foreign.model.name = "another", foreign.model.fingerprint = "0123456789abcdef";
  host::write_profile(foreign, named);
  text = program(cache + "PRESCORE_PROFILE=" + named);
  EXPECT_NE(text.find("prescore: no head profile: [profile] model of " + named + ", got another"),
            std::string::npos)
      << text;
  EXPECT_EQ(text.find("; profile: "), std::string::npos) << text;

  std::string cached;
  {
    const Variable here("PRESCORE_CACHE", folder.path());
    cached = host::cached_profile_path(host::identify(kModel).fingerprint);
  }
  host::write_profile(one_dense_layer(), cached);
  text = program(cache);
  EXPECT_NE(text.find(used(cached)), std::string::npos) << text;
  text = program(cache + "PRESCORE_PROFILE=none");
  EXPECT_EQ(text.find("profile: "), std::string::npos) << text;

  std::ofstream(named) << "{}";
  text = program(cache + "PRESCORE_PROFILE=" + named);
  EXPECT_NE(text.find("prescore: not loaded: [profile] schema of " + named), std::string::npos)
      << text;
}

TEST(MappedModels, AreReadFromTheListOfMappings) {
  const Temporary folder;
  write_model({}, folder / "a model.gguf");
  std::ofstream(folder / "no model") << "text";
  std::istringstream maps("55d0-55d1 r--p 00000000 08:01 12 " + (folder / "no model") +
                          "\n7f00-7f10 r--s 00000000 08:01 13    " + (folder / "a model.gguf") +
                          "\n7f20-7f30 r--s 00010000 08:01 13    " + (folder / "a model.gguf") +
                          "\n7f40-7f50 rw-p 00000000 00:00 0\n7f60-7f70 r-xp 00000000 08:01 14 " +
                          (folder / "deleted.gguf") + " (deleted)\n[heap]\n");
  EXPECT_EQ(host::mapped_ggufs(maps), (std::vector<std::string>{folder / "a model.gguf"}));

  const auto count = [] { return host::mapped_models().size(); };
  const std::size_t before = count();
  const Llama mapped = load(folder / "a model.gguf");
  EXPECT_EQ(count(), before + 1);
}

TEST(MappedModels, DecideWhichProfileIsTaken) {
  const Temporary folder;
  const Variable cache("PRESCORE_CACHE", folder.path());
  const host::ModelIdentity a{"a", "llama", 2, 4, 2, 64, "aaaaaaaaaaaaaaaa"};
  host::ModelIdentity b = a, draft = a;
  b.fingerprint = "bbbbbbbbbbbbbbbb", draft.fingerprint = "dddddddddddddddd", draft.heads = 8;
  const auto of_a = std::make_shared<const host::HeadProfile>(host::plain_profile(a));
  const auto take = [](const auto& named, const std::vector<host::ModelIdentity>& models,
                       std::string* note) {
    note->clear();
    return host::profile_of_mapped(named, models, 4, 2, 64, note);
  };
  std::string note;
  const std::shared_ptr<const host::HeadProfile> none;
  EXPECT_EQ(take(of_a, {}, &note), of_a);  // nothing is known
  EXPECT_EQ(take(of_a, {draft}, &note), of_a);
  EXPECT_EQ(take(of_a, {b, a}, &note), of_a);
  EXPECT_EQ(note, "");
  EXPECT_EQ(take(of_a, {b}, &note), nullptr);
  EXPECT_NE(note, "");
  host::write_profile(*of_a, host::cached_profile_path(a.fingerprint));
  EXPECT_EQ(take(none, {}, &note), nullptr);
  EXPECT_NE(take(none, {draft, a, a}, &note), nullptr);
  EXPECT_EQ(take(none, {a, b}, &note), nullptr);  // whose operations these are is not known
  EXPECT_EQ(note, "");
}

}  // namespace
}  // namespace prescore::test
