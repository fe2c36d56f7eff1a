#include "experiment.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <iterator>
#include <limits>
#include <string_view>
#include <utility>

#include "commands.h"
#include "common/names.h"
#include "errors.h"
#include "files.h"
#include "session.h"

namespace prescore::experiments {
namespace {

bool has(const Candidate& c, std::string_view flag) {
  return c.flags.find(flag) != std::string::npos;
}

}  // namespace

void Flags::add_to(CLI::App& app) {
  app.add_flag("--quick", quick,
               "A small version, in a minute or less instead of minutes or hours");
  app.add_flag("--fresh", fresh, "Begin anew where rows of an earlier run exist");
  app.add_option("--out", out, "Folder for NAME.json, NAME.md, NAME.svg and the rows so far")
      ->capture_default_str();
  app.add_option("--threads,-t", threads, "Threads (default: all)");
}

int Flags::thread_count() const {
  if (threads) host::check_count("threads", *threads, 1, host::kMostThreads);
  return threads ? static_cast<int>(*threads) : cli::machine_threads();
}

std::pair<std::string, std::string> named(const std::string& text, const char* flag) {
  const std::size_t at = text.find('=');
  if (at == std::string::npos || at == 0)
    throw cli::BadInput(fmt::format("{}, got \"{}\", want NAME=...", flag, text));
  return {text.substr(0, at), text.substr(at + 1)};
}

std::vector<Candidate> parse_candidates(const std::vector<std::string>& texts) {
  std::vector<Candidate> all;
  for (const std::string& text : texts) {
    auto [name, flags] = named(text, "--method");
    all.push_back({std::move(name), std::move(flags)});
  }
  return all;
}

std::vector<Candidate> with_simple_methods(std::initializer_list<Candidate> more) {
  std::vector<Candidate> all = {
      {"window", "window"},
      {"top-k random", "topk --key-score random"},
      {"top-k norm", "topk --key-score norm"},
      {"top-k Gaussian norm", "topk --key-score gaussian_norm"},
      {"top-k value norm", "topk --key-score value_norm"},
      {"top-k key difference", "topk --key-score keydiff"},
  };
  all.insert(all.end(), more);
  return all;
}

Candidate received_from_afar() {
  return {"top-k received, from afar",
          "topk --key-score received --score-segment 64 --score-distance 64 --score-growth 1 "
          "--query-stride 2"};
}

Candidate half_window_received() {
  return {"half window, received", received_from_afar().flags + " --half-window"};
}

bool take(Candidate& c, std::string_view word) {
  const std::size_t at = c.flags.find(word);
  if (at == std::string::npos) return false;
  c.flags.erase(at, word.size());
  return true;
}

Candidate sized(Candidate c, std::int64_t budget) {
  if (take(c, "--half-window")) c.flags += fmt::format(" --window {}", budget / 2);
  if (take(c, "--three-quarter-window")) c.flags += fmt::format(" --window {}", budget * 3 / 4);
  if (take(c, "--quarter-window")) c.flags += fmt::format(" --window {}", budget / 4);
  return c;
}

Options options_of(const Candidate& candidate, std::int64_t budget, const cli::Model* model) {
  CLI::App app;
  cli::MethodFlags flags;
  std::string method;
  app.add_option("method", method)->required();
  flags.add_to(app);
  try {
    app.parse(candidate.flags);
  } catch (const CLI::ParseError& e) {
    throw cli::BadInput(fmt::format("method \"{}\": {}", candidate.flags, e.what()));
  }
  if (app.count("--budget") == 0) flags.budget = budget;
  Options o = flags.options(model);
  o.plan.method = host::parse_method("method", method);
  return o;
}

Candidate keeping_a_quarter(Candidate c, std::int64_t keys) {
  if (c.flags.starts_with("prescored_hyper") && !has(c, "--hyper-selected"))
    c.flags += fmt::format(" --hyper-selected {}", keys / 4);
  return c;
}

Candidate with_far_step(Candidate c) {
  if (has(c, "--key-score") && !has(c, "--score-segment"))
    c.flags += fmt::format(" --score-segment {}", kFarStep);
  return c;
}

Candidate for_few_tokens(Candidate c, std::int64_t tokens) {
  return with_far_step(keeping_a_quarter(std::move(c), tokens));
}

std::vector<llama_token> read_tokens(const cli::Model& model, const std::string& path,
                                     std::int64_t n, bool from_end) {
  std::vector<llama_token> tokens = model.tokenize(cli::read_file(path), from_end ? 0 : n);
  if (static_cast<std::int64_t>(tokens.size()) < n)
    throw cli::BadInput(fmt::format("{} has {} tokens, want at least {}", path, tokens.size(), n));
  if (from_end) return {tokens.end() - n, tokens.end()};
  tokens.resize(static_cast<std::size_t>(n));
  return tokens;
}

double perplexity_at(const std::map<double, double>& points, double keys) {
  for (const auto& [other, perplexity] : points)
    if (std::abs(other / keys - 1) < 0.02) return perplexity;
  auto high = points.upper_bound(keys);
  if (high == points.end() || points.size() < 2) return std::numeric_limits<double>::quiet_NaN();
  if (high == points.begin()) ++high;
  const auto low = std::prev(high);
  const double part = std::log(keys / low->first) / std::log(high->first / low->first);
  return std::exp(std::log(low->second) + part * std::log(high->second / low->second));
}

double keys_per_query(const Counters& c) {
  return c.queries > 0 ? static_cast<double>(c.keys) / static_cast<double>(c.queries) : 0;
}
double standins_per_query(const Counters& c) {
  return c.queries > 0 ? static_cast<double>(c.standins) / static_cast<double>(c.queries) : 0;
}

std::string markdown(const std::vector<std::string>& header,
                     const std::vector<std::vector<std::string>>& rows) {
  std::vector<std::size_t> width;
  for (const std::string& cell : header) width.push_back(std::max<std::size_t>(3, cell.size()));
  for (const auto& row : rows)
    for (std::size_t c = 0; c < row.size(); ++c) width[c] = std::max(width[c], row[c].size());
  std::string out;
  const auto line = [&](const std::vector<std::string>& cells) {
    for (std::size_t c = 0; c < width.size(); ++c)
      out += c == 0 ? fmt::format("| {:<{}} |", cells[c], width[c])
                    : fmt::format(" {:>{}} |", cells[c], width[c]);
    out += '\n';
  };
  line(header);
  for (std::size_t c = 0; c < width.size(); ++c)
    out +=
        c == 0 ? "|" + std::string(width[c] + 2, '-') + "|" : std::string(width[c] + 1, '-') + ":|";
  out += '\n';
  for (const auto& row : rows) line(row);
  return out;
}

void publish(const Journal& journal, const std::string& table, const std::string& svg,
             const std::vector<std::pair<std::string, std::string>>& more) {
  const std::string base = journal.folder() + "/" + journal.name();
  nlohmann::json document = journal.document();
  cli::write_file(base + ".json", document.dump(1) + "\n");
  cli::write_file(base + ".md", table);
  cli::write_file(base + ".svg", svg);
  for (const auto& [word, picture] : more) cli::write_file(base + "-" + word + ".svg", picture);
  fmt::print("{}", table);
}

nlohmann::json common_settings(const Flags& flags, const std::string& model) {
  nlohmann::json settings = {{"machine", cli::machine_name()},
                             {"threads", flags.thread_count()},
                             {"version", std::string(version())},
                             {"quick", flags.quick}};
  if (model.empty()) return settings;
  settings["model"] = std::filesystem::path(model).filename().string();
  settings["model_bytes"] = std::filesystem::file_size(model);
  return settings;
}

}  // namespace prescore::experiments

namespace prescore::cli {

void add_experiments(CLI::App& app) {
  CLI::App* sub = app.add_subcommand("experiment", "The experiments of docs/experiments");
  sub->require_subcommand(1);
  experiments::add_planted(*sub);
  experiments::add_coverage(*sub);
  experiments::add_lm(*sub);
  experiments::add_retrieval(*sub);
  experiments::add_layer(*sub);
  experiments::add_heads(*sub);
}

}  // namespace prescore::cli
