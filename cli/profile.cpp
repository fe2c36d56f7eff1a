// prescore profile: which heads of a model need every key, into a file that the hosts find.
#include "profile.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "common/fingerprint.h"
#include "common/names.h"
#include "common/profile_files.h"
#include "common/profile_rule.h"
#include "errors.h"
#include "files.h"
#include "journal.h"
#include "llama/probe.h"
#include "progress.h"

namespace prescore::cli {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

std::string made_by() { return fmt::format("prescore {}", version()); }

struct Profile {
  ModelFlags model;
  std::string out;
  host::RuleOptions rule;
  std::int64_t tokens = 512, repeated = 0, draws = 4;
  std::uint64_t seed = 0;
  bool fresh = false;

  void run() const;

 private:
  host::ProbeSize size() const { return {tokens, repeated == 0 ? tokens : repeated}; }
  void check() const;
  /// Mean over the draws; those that a run before this one finished are not measured again.
  host::HeadScores measure(const Model& loaded, const host::ModelIdentity& identity,
                           const std::string& journal) const;
};

void Profile::check() const {
  host::check_count("tokens", tokens, 16, 1 << 20);
  host::check_count("repeated", repeated, 0, tokens);
  host::check_count("draws", draws, 1, 1000);
  host::copying_heads({}, rule);
  model.check();
}

host::HeadScores Profile::measure(const Model& loaded, const host::ModelIdentity& identity,
                                  const std::string& journal_path) const {
  const fs::path path(journal_path);
  const json settings = {{"fingerprint", identity.fingerprint},
                         {"tokens", size().period},
                         {"repeated", size().repeated},
                         {"seed", seed}};
  const std::string folder = path.has_parent_path() ? path.parent_path().string() : ".";
  experiments::Journal journal(folder, path.stem().string(), settings, fresh);
  journal.expect(static_cast<std::size_t>(draws));
  host::HeadScores sum(identity.layers, identity.heads);
  for (std::int64_t draw = 0; draw < draws; ++draw) {
    const json& row = journal.row({{"draw", draw}}, [&] {
      Progress progress(fmt::format("draw {} of {}", draw + 1, draws));
      double layers = 0;
      const host::HeadScores scores =
          host::probe_heads(loaded.get(), identity, size(), seed + static_cast<std::uint64_t>(draw),
                            model.thread_count(),
                            [&] { progress.at(++layers, static_cast<double>(identity.layers)); });
      return json{{"duplicate", scores.duplicate}, {"induction", scores.induction}};
    });
    host::HeadScores one(identity.layers, identity.heads);
    const auto take = [&](const char* name, std::vector<double>& into) {
      const json& values = row.at("row").at(name);
      if (values.size() != into.size())
        throw BadInput(
            fmt::format("{} holds scores of another shape (--fresh begins anew)", journal_path));
      into = values.get<std::vector<double>>();
    };
    take("duplicate", one.duplicate), take("induction", one.induction);
    sum += one;
  }
  sum /= static_cast<double>(draws);
  return sum;
}

void Profile::run() const {
  check();
  const host::ModelIdentity identity = host::identify(model.model);
  const std::string path = out.empty() ? host::cached_profile_path(identity.fingerprint) : out;
  if (path.empty()) throw BadInput("no cache folder (HOME is not set), want --out FILE");
  check_writable(out);
  const Model loaded(model);
  const std::string journal = path + ".draws.jsonl";
  const host::HeadScores scores = measure(loaded, identity, journal);

  host::HeadProfile profile = host::profile_by_rule(identity, scores, rule);
  profile.by = made_by(), profile.date = host::today();
  profile.how = host::describe_probe(size(), draws, rule);
  host::write_profile(profile, path);
  std::error_code ignored;
  fs::remove(journal, ignored);

  fmt::print("{:<8}{:>10}{:>10}\n", "head", "duplicate", "induction");
  for (const host::CopyingHead& head : host::copying_heads(scores, rule))
    fmt::print("{:<8}{:>10.3f}{:>10.3f}\n", fmt::format("{}.{}", head.layer, head.head),
               head.duplicate, head.induction);
  fmt::print("\n{} ({}): {}\nwritten to {}\n", identity.name, identity.fingerprint,
             host::describe(profile), path);
}

/// A first long prompt without a profile: measured within a twentieth of its time.
std::shared_ptr<const host::HeadProfile> quick_profile(const host::ModelIdentity& identity,
                                                       const ModelFlags& flags, const Model& model,
                                                       std::int64_t tokens) {
  const std::optional<host::ProbeSize> size = host::quick_probe(model.get(), tokens);
  if (!size) return nullptr;
  const host::RuleOptions rule;
  const host::HeadScores scores =
      host::probe_heads(model.get(), identity, *size, 0, flags.thread_count());
  auto profile = std::make_shared<host::HeadProfile>(host::profile_by_rule(identity, scores, rule));
  profile->by = made_by(), profile->date = host::today();
  profile->how = host::describe_probe(*size, 1, rule);
  std::string kept = "not kept, as there is no cache folder";
  if (const std::string path = host::cached_profile_path(identity.fingerprint); !path.empty()) try {
      host::write_profile(*profile, path);
      profile->source = path;
      kept = "kept in " + path;
    } catch (const Error& e) {
      kept = fmt::format("not kept ({})", e.what());
    }
  host::HeadProfile unnamed = *profile;
  unnamed.source.clear();
  fmt::print(stderr, "prescore: measured which heads need every key: {}; {}\n",
             host::describe(unnamed), kept);
  return profile;
}

}  // namespace

void ProfileFlags::add_to(CLI::App& app) {
  app.add_option("--profile", profile,
                 "Head profile: a file, or none (default: PRESCORE_PROFILE, else found by the "
                 "model's fingerprint, else measured before a long prompt)");
}

std::shared_ptr<const host::HeadProfile> profile_for(const ProfileFlags& flags,
                                                     const ModelFlags& model_flags,
                                                     const Model& model, std::int64_t tokens) {
  const std::string setting = host::profile_setting(flags.profile);
  if (setting == "none") return nullptr;
  try {
    const host::ModelIdentity identity = host::identify(model_flags.model);
    const host::FoundProfile found = host::find_profile(identity, setting);
    if (!found.note.empty()) fmt::print(stderr, "prescore: passed over: {}\n", found.note);
    if (found.profile != nullptr) return found.profile;
    return quick_profile(identity, model_flags, model, tokens);
  } catch (const Error& e) {
    if (!setting.empty()) throw;
    fmt::print(stderr, "prescore: no head profile: {}\n", e.what());
    return nullptr;
  }
}

std::string profile_line(const host::HeadProfile* profile, const host::Stats& stats) {
  if (profile == nullptr) return "none";
  std::string text = host::describe(*profile);
  if (stats.unprofiled > 0)
    text += fmt::format("; not in {} operations: {}", stats.unprofiled, stats.unprofiled_why);
  return text;
}

void add_profile(CLI::App& app) {
  auto args = std::make_shared<Profile>();
  CLI::App* sub = app.add_subcommand(
      "profile", "Measure which heads of a model need every key, and keep it for later runs");
  args->model.add_to(*sub);
  sub->add_option("--out,-o", args->out,
                  "File (default: in the cache folder, where later runs find it)");
  sub->add_option("--tokens", args->tokens, "Random tokens of a draw, which are given twice")
      ->capture_default_str();
  sub->add_option("--repeated", args->repeated, "Only so many of them are given again, 0: all")
      ->capture_default_str();
  sub->add_option("--draws", args->draws, "Draws")->capture_default_str();
  sub->add_option("--seed", args->seed, "Of the first draw")->capture_default_str();
  sub->add_option("--duplicate", args->rule.duplicate,
                  "Share of attention on the same token before, from which a head is dense")
      ->capture_default_str();
  sub->add_option("--induction", args->rule.induction,
                  "Share of attention on what followed it, from which a head is dense")
      ->capture_default_str();
  sub->add_option("--most", args->rule.most, "Most dense heads, as a share of all")
      ->capture_default_str();
  sub->add_flag("--fresh", args->fresh, "Begin anew where a run that was stopped left draws");
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::cli
