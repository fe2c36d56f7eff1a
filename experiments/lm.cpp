// Perplexity of language models against the number of keys that a query reads, tail protocol.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <limits>
#include <map>
#include <memory>

#include "chart.h"
#include "common/names.h"
#include "errors.h"
#include "experiment.h"
#include "files.h"
#include "measure.h"

namespace prescore::experiments {
namespace {

using nlohmann::json;

const std::vector<Candidate>& default_candidates() {
  static const std::vector<Candidate> all = {
      {"window", "window"},
      {"top-k random", "topk --key-score random"},
      {"top-k norm", "topk --key-score norm"},
      {"top-k Gaussian norm", "topk --key-score gaussian_norm"},
      {"top-k value norm", "topk --key-score value_norm"},
      {"top-k key difference", "topk --key-score keydiff"},
      {"top-k k-means", "topk --key-score kmeans"},
      {"top-k k-means relative", "topk --key-score kmeans --cluster-score relative"},
      {"top-k k-means, pre-RoPE", "topk --key-score kmeans --pre-rope"},
      {"top-k k-medians", "topk --key-score kmedian"},
      {"top-k kernel k-means", "topk --key-score kernel_kmeans"},
      {"top-k leverage", "topk --key-score leverage"},
      {"top-k leverage, pre-RoPE", "topk --key-score leverage --pre-rope"},
      {"top-k universal set", "topk --key-score universal"},
      {"top-k expected", "topk --key-score expected"},
      {"top-k received", "topk --key-score received"},
      {"half window, received",
       "topk --key-score received --score-segment 64 --score-distance 64 --score-growth 1 "
       "--query-stride 2 --half-window"},
      {"top-k oracle", "topk --key-score oracle"},
      {"HyperAttention", "hyper"},
      {"prescored Hyper, leverage", "prescored_hyper --key-score leverage"},
      {"prescored Hyper, k-means", "prescored_hyper --key-score kmeans"},
      {"routed", "routed"},
      {"routed, exact to 4,096", "routed --dense-until 4096"},
      {"HyperAttention, exact to 4,096", "hyper --dense-until 4096"},
  };
  return all;
}

struct Lm {
  Flags flags;
  cli::ModelFlags model;
  std::vector<std::string> texts, layers = {"all"}, methods;
  std::vector<std::int64_t> budgets;
  std::int64_t ctx = 0, chunks = 1;
  std::string score = "tail", name = "lm";

  void run();
  void prepare();
  std::vector<Candidate> candidates() const;
};

std::pair<std::string, std::string> named(const std::string& text, const char* what) {
  const std::size_t at = text.find('=');
  if (at == std::string::npos || at == 0)
    throw cli::BadInput(fmt::format("{}, got \"{}\", want NAME=...", what, text));
  return {text.substr(0, at), text.substr(at + 1)};
}

/// Takes a word out of the flags.
bool take(Candidate& c, const std::string& word) {
  const std::size_t at = c.flags.find(word);
  if (at == std::string::npos) return false;
  c.flags.erase(at, word.size());
  return true;
}

// Windows of a candidate that depend on the budget.
Candidate sized(Candidate c, std::int64_t budget) {
  if (take(c, "--half-window")) c.flags += fmt::format(" --window {}", budget / 2);
  if (take(c, "--three-quarter-window")) c.flags += fmt::format(" --window {}", budget * 3 / 4);
  if (take(c, "--quarter-window")) c.flags += fmt::format(" --window {}", budget / 4);
  return c;
}

// Options of a candidate, which may ask for flaws of the published code.
Options ablated(Candidate c, std::int64_t budget, const cli::Model* model) {
  PublishedFlaws flaws;
  const std::pair<const char*, bool*> words[] = {{"--flaw-zeroed", &flaws.zeroed},
                                                 {"--flaw-repeats", &flaws.repeats},
                                                 {"--flaw-padding", &flaws.padding},
                                                 {"--flaw-flattened", &flaws.flattened}};
  for (const auto& [word, on] : words) *on = take(c, word);
  Options o = options_of(c, budget, model);
  o.plan.flaws = flaws;
  return o;
}

void Lm::prepare() {
  if (model.model.empty()) throw cli::BadInput("--model is required");
  if (texts.empty()) throw cli::BadInput("--text NAME=FILE is required");
  if (ctx == 0) ctx = flags.quick ? 2048 : 8192;
  if (budgets.empty())
    budgets = flags.quick ? std::vector<std::int64_t>{256, 512}
                          : std::vector<std::int64_t>{256, 512, 1024, 2048};
  model.threads = flags.thread_count();
  model.check();
}

std::vector<Candidate> Lm::candidates() const {
  std::vector<Candidate> all;
  for (const std::string& m : methods) {
    const auto [label, rest] = named(m, "--method");
    all.push_back({label, rest});
  }
  if (!all.empty()) return all;
  if (!flags.quick) return default_candidates();
  for (const Candidate& c : default_candidates())
    if (c.name == "window" || c.name == "top-k leverage" || c.name == "top-k received" ||
        c.name == "HyperAttention" || c.name == "prescored Hyper, leverage" || c.name == "routed")
      all.push_back(c);
  return all;
}

json to_row(const cli::Row& row) {
  return {{"ppl", row.ppl},
          {"ppl_error", row.ppl_error},
          {"keys", keys_per_query(row.scored)},
          {"standins", standins_per_query(row.scored)},
          {"visible", row.scored.queries > 0 ? static_cast<double>(row.scored.visible) /
                                                   static_cast<double>(row.scored.queries)
                                             : 0},
          {"prefill_s", row.prefill_s},
          {"attention_s", row.attention_s},
          {"select_s", row.index_s + row.plan_s},
          {"isa", row.isa}};
}

/// One line of the table: a method on a text, with some layers replaced.
struct Line {
  std::string text, layers, method;
  std::int64_t budget;
  json row;
};

// Perplexity of the window at the same number of keys, between its rows in log-log.
double window_at(const std::vector<Line>& lines, const Line& line) {
  std::map<double, double> window;
  for (const Line& l : lines)
    if (l.text == line.text && l.layers == line.layers &&
        (l.method == "window" || l.method == "dense"))
      window[l.row.at("keys")] = l.row.at("ppl");
  const double keys = line.row.at("keys");
  const auto near = [&](double other) { return std::abs(other / keys - 1) < 0.02; };
  for (const auto& [other, ppl] : window)
    if (near(other)) return ppl;
  const auto high = window.upper_bound(keys);
  if (high == window.end() || high == window.begin())
    return std::numeric_limits<double>::quiet_NaN();
  const auto low = std::prev(high);
  const double part = std::log(keys / low->first) / std::log(high->first / low->first);
  return std::exp(std::log(low->second) + part * std::log(high->second / low->second));
}

std::string table_of(const std::vector<Line>& lines) {
  std::vector<std::vector<std::string>> rows;
  for (const Line& l : lines) {
    const double ppl = l.row.at("ppl"), window = window_at(lines, l);
    double dense = ppl;
    for (const Line& d : lines)
      if (d.text == l.text && d.layers == "all" && d.method == "dense") dense = d.row.at("ppl");
    rows.push_back(
        {l.text, l.layers, l.method, l.method == "dense" ? "" : std::to_string(l.budget),
         fmt::format("{:.0f}", l.row.at("keys").get<double>()),
         fmt::format("{:.0f}", l.row.at("standins").get<double>()), fmt::format("{:.4f}", ppl),
         fmt::format("{:+.2f} %", 100 * (ppl / dense - 1)),
         std::isfinite(window) ? fmt::format("{:.4f}", window) : "-",
         std::isfinite(window) ? fmt::format("{:+.2f} %", 100 * (ppl / window - 1)) : "-"});
  }
  return markdown({"text", "layers", "method", "budget", "keys", "stand-ins", "perplexity",
                   "over dense", "window, same keys", "over it"},
                  rows);
}

std::string picture_of(const Lm& lm, const std::vector<Line>& lines) {
  std::map<std::pair<std::string, std::string>, Panel> panels;
  for (const Line& l : lines) {
    Panel& panel = panels[{l.text, l.layers}];
    panel.title = l.layers == "all" ? l.text : l.text + ", layers " + l.layers;
    panel.x_label = "keys read per query", panel.y_label = "perplexity", panel.log_y = true;
    const double keys = l.row.at("keys"), ppl = l.row.at("ppl");
    auto series = std::find_if(panel.series.begin(), panel.series.end(),
                               [&](const Series& s) { return s.name == l.method; });
    if (series == panel.series.end()) {
      panel.series.push_back({l.method, {}, l.method == "window"});
      series = std::prev(panel.series.end());
    }
    series->points.emplace_back(keys, ppl);
  }
  std::vector<Panel> all;
  for (auto& [key, panel] : panels) all.push_back(std::move(panel));
  return line_chart(fmt::format("{}, {} tokens, perplexity of the {}",
                                std::filesystem::path(lm.model.model).filename().string(), lm.ctx,
                                lm.score == "tail" ? "last quarter" : "second half"),
                    all);
}

void Lm::run() {
  prepare();
  const std::vector<Candidate> all = candidates();
  const cli::Model loaded(model);
  json settings = common_settings(flags);
  settings.update({{"experiment", "lm"},
                   {"model", std::filesystem::path(model.model).filename().string()},
                   {"ctx", ctx},
                   {"chunks", chunks},
                   {"score", score}});
  Journal journal(flags.out, name, settings, flags.fresh);
  journal.expect(texts.size() * (1 + layers.size() * all.size() * budgets.size()));
  const cli::Protocol protocol{score, ctx, chunks, 256, model.thread_count()};
  cli::Session session(loaded, model, ctx, protocol.batch(), protocol.outputs(256));
  std::vector<Line> lines;
  for (const std::string& text : texts) {
    const auto [label, path] = named(text, "--text");
    const std::vector<llama_token> tokens = loaded.tokenize(cli::read_file(path), ctx * chunks);
    if (static_cast<std::int64_t>(tokens.size()) < ctx * chunks)
      throw cli::BadInput(
          fmt::format("{} has {} tokens, want at least {}", path, tokens.size(), ctx * chunks));
    const std::string& text_name = label;
    const auto measure = [&](const Candidate& c, const std::string& set, std::int64_t budget) {
      const Candidate exact = sized(c, budget);
      const json key = {
          {"text", text_name}, {"layers", set}, {"flags", exact.flags}, {"budget", budget}};
      const json& row = journal.row(key, [&] {
        cli::Setting setting{"", ablated(exact, budget, &loaded),
                             host::parse_layers("--layers", set, loaded.layers())};
        setting.method = host::name_of(setting.options.plan.method);
        return to_row(cli::Measurement(protocol, setting, loaded, session, tokens).run());
      });
      lines.push_back({text_name, set, c.name, budget, row.at("row")});
    };
    measure({"dense", "dense"}, "all", budgets.back());
    for (const std::string& set : layers)
      for (const Candidate& c : all)
        for (const std::int64_t budget : budgets) measure(c, set, budget);
  }
  publish(journal, table_of(lines), picture_of(*this, lines));
}

}  // namespace

void add_lm(CLI::App& experiment) {
  auto args = std::make_shared<Lm>();
  CLI::App* sub = experiment.add_subcommand(
      "lm", "Perplexity against keys read, every method beside a window and dense");
  args->flags.add_to(*sub);
  sub->add_option("--model,-m", args->model.model, "GGUF model");
  sub->add_option("--text,-f", args->texts, "NAME=FILE, several times");
  sub->add_option("--ctx,-c", args->ctx, "Tokens (default: 8192, quick 2048)");
  sub->add_option("--chunks", args->chunks, "Contexts of each text")->capture_default_str();
  sub->add_option("--budget", args->budgets, "Keys, several (default: 256,512,1024,2048)")
      ->delimiter(',');
  sub->add_option("--layers", args->layers, "Layers replaced: all, even, odd, first:N, last:N")
      ->delimiter(',')
      ->capture_default_str();
  sub->add_option("--method", args->methods,
                  "NAME=METHOD FLAGS instead of the whole list, several times; flags as for ppl, "
                  "and --half-window for half of the budget, --flaw-zeroed, --flaw-repeats, "
                  "--flaw-padding, --flaw-flattened for those of the published code");
  sub->add_option("--score", args->score, "tail or half, see ppl")->capture_default_str();
  sub->add_option("--name", args->name, "Name of the files")->capture_default_str();
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::experiments
