// prescore run: reads a long prompt, then generates.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <memory>

#include "commands.h"
#include "common/names.h"
#include "errors.h"
#include "files.h"
#include "profile.h"
#include "progress.h"
#include "session.h"

namespace prescore::cli {
namespace {

constexpr std::int64_t kMostBatch = 8192;

struct Run {
  ModelFlags model;
  MethodFlags method;
  ProfileFlags profile;
  std::string prompt_file, method_name = "auto";
  std::int64_t generate = 128;
  double temperature = 0;
  std::uint32_t seed = 0;

  void run() const;
};

using Sampler = std::unique_ptr<llama_sampler, decltype(&llama_sampler_free)>;

Sampler make_sampler(double temperature, std::uint32_t seed) {
  Sampler chain(llama_sampler_chain_init(llama_sampler_chain_default_params()), llama_sampler_free);
  if (temperature > 0) {
    llama_sampler_chain_add(chain.get(), llama_sampler_init_temp(static_cast<float>(temperature)));
    llama_sampler_chain_add(chain.get(), llama_sampler_init_dist(seed));
  } else {
    llama_sampler_chain_add(chain.get(), llama_sampler_init_greedy());
  }
  return chain;
}

std::string by_method(const host::Stats& s) {
  std::string text;
  for (const auto& [method, count] : s.methods)
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, method);
  for (const auto& [reason, count] : s.left)
    text += fmt::format("{}{} left to llama.cpp ({})", text.empty() ? "" : ", ", count, reason);
  return text;
}

void Run::run() const {
  host::check_count("n", generate, 0, host::kMostKeys / 2);
  if (!(temperature >= 0)) throw BadInput("--temp, want a number from 0");
  const bool stock = method_name == "stock";
  method.options();
  if (!stock) host::parse_method("--method", method_name);
  model.check();
  const std::string prompt = read_file(prompt_file);

  const Model loaded(model);
  Options options = method.options(&loaded);
  if (!stock) options.plan.method = host::parse_method("--method", method_name);
  std::vector<llama_token> tokens = loaded.tokenize(prompt);
  if (tokens.empty()) throw BadInput(fmt::format("{} is empty", prompt_file));
  const auto n = static_cast<std::int64_t>(tokens.size());
  const auto heads =
      stock ? nullptr : profile_for(profile, model, loaded, method_name == "dense" ? 0 : n);
  Session session(loaded, model, n + generate, std::min(n, kMostBatch), 1);
  host::LlamaHost& host = session.host();
  host.set_mode(stock ? host::LlamaHost::Mode::kOff : host::LlamaHost::Mode::kPrescore);
  host.runner().set_options(options);
  host.set_profile(heads);

  double read_s = 0;
  {
    Progress progress(fmt::format("reading {} tokens", n));
    read_s = session.read(tokens, 0, n, [&](double part) { progress.at(part, 1); });
  }
  const host::Stats reading = host.stats();
  if (!stock && reading.taken == 0)
    throw Failed(fmt::format("no attention operation of this model was taken over ({})",
                             reading.left.empty() ? "it has none" : reading.left.begin()->first));

  const Sampler sampler = make_sampler(temperature, seed);
  const auto start = std::chrono::steady_clock::now();
  std::int64_t made = 0;
  while (made < generate) {
    const llama_token token = llama_sampler_sample(sampler.get(), session.get(), -1);
    if (llama_vocab_is_eog(loaded.vocab(), token)) break;
    fmt::print("{}", loaded.piece(token));
    std::fflush(stdout);
    tokens.push_back(token);
    if (++made < generate) session.read(tokens, n + made - 1, n + made);
  }
  fmt::print("\n");
  const double made_s =
      std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();

  const Counters& c = reading.counters;
  fmt::print(stderr, "\nread      {} tokens in {:.2f} s, {:.1f} tokens/s", n, read_s,
             static_cast<double>(n) / read_s);
  if (!stock) {
    fmt::print(
        stderr, "; {:.2f} s in attention, {:.1f} of {:.1f} keys a query\n", reading.seconds,
        static_cast<double>(c.keys) / static_cast<double>(std::max<std::int64_t>(1, c.queries)),
        static_cast<double>(c.visible) / static_cast<double>(std::max<std::int64_t>(1, c.queries)));
    fmt::print(stderr, "attention {}", by_method(reading));
    if (!reading.why.empty()) fmt::print(stderr, " ({})", reading.why);
    fmt::print(stderr, "\nprofile   {}", profile_line(heads.get(), reading));
  }
  fmt::print(stderr, "\ngenerated {} tokens in {:.2f} s, {:.1f} tokens/s\n", made, made_s,
             made_s > 0 ? static_cast<double>(made) / made_s : 0.0);
}

}  // namespace

void add_run(CLI::App& app) {
  auto args = std::make_shared<Run>();
  CLI::App* sub = app.add_subcommand("run", "Read a long prompt, then generate");
  args->model.add_to(*sub);
  sub->add_option("--prompt-file,-f", args->prompt_file, "Text file with the prompt")->required();
  sub->add_option("-n,--generate", args->generate, "Tokens to generate")->capture_default_str();
  sub->add_option("--method", args->method_name,
                  "auto, dense, window, topk, routed, hyper, prescored_hyper, or stock")
      ->capture_default_str();
  sub->add_option("--temp", args->temperature, "Temperature; 0: the most likely token")
      ->capture_default_str();
  sub->add_option("--seed", args->seed, "Seed of the sampler")->capture_default_str();
  args->profile.add_to(*sub);
  args->method.add_to(*sub);
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::cli
