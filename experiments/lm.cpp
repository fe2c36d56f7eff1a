// Perplexity of language models against the number of keys that a query reads.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <span>

#include "chart.h"
#include "common/names.h"
#include "errors.h"
#include "experiment.h"
#include "lm_candidates.h"
#include "measure.h"

namespace prescore::experiments {
namespace {

using nlohmann::json;

struct Lm {
  Flags flags;
  cli::ModelFlags model;
  cli::ProtocolFlags protocol;
  std::vector<std::string> texts, layers = {"all"}, methods;
  std::vector<std::int64_t> budgets;
  std::int64_t ctx = 0, chunks = 1;
  std::string name = "lm";
  bool ablation = false;

  void run();
  void prepare();
  std::vector<Candidate> candidates() const;
  std::vector<std::int64_t> budgets_of(const Candidate&) const;
};

void Lm::prepare() {
  if (model.model.empty()) throw cli::BadInput("--model is required");
  if (texts.empty()) throw cli::BadInput("--text NAME=FILE is required");
  if (ablation && flags.quick)
    throw cli::BadInput("--ablation has the sizes of the published code, want it without --quick");
  if (ctx == 0) ctx = flags.quick ? 1024 : 8192;
  if (budgets.empty())
    budgets = flags.quick ? std::vector<std::int64_t>{256}
                          : std::vector<std::int64_t>{256, 512, 1024, 2048};
  model.threads = flags.thread_count();
  model.check();
}

std::vector<Candidate> Lm::candidates() const {
  if (!methods.empty()) return parse_candidates(methods);
  std::vector<Candidate> all = ablation ? lm_ablation() : lm_candidates(flags.quick);
  if (flags.quick)
    for (Candidate& c : all) c = for_few_tokens(c, ctx);
  return all;
}

// Dense reads everything at any budget; its plain form stands before the candidates anyway.
std::vector<std::int64_t> Lm::budgets_of(const Candidate& c) const {
  if (c.flags == "dense") return {};
  return c.flags.rfind("dense ", 0) == 0 ? std::vector<std::int64_t>{0} : budgets;
}

// A tail that is read densely reads everything: what the method read is the prompt.
json to_row(const cli::Row& row, const cli::Protocol& p) {
  const Counters& c = p.name() == "tail dense" ? row.prefill : row.scored;
  return {{"ppl", row.ppl},
          {"ppl_error", row.ppl_error},
          {"keys", keys_per_query(c)},
          {"standins", standins_per_query(c)},
          {"visible",
           c.queries > 0 ? static_cast<double>(c.visible) / static_cast<double>(c.queries) : 0},
          {"prefill_s", row.prefill_s},
          {"attention_s", row.attention_s},
          {"select_s", row.index_s + row.plan_s},
          {"why", row.why},
          {"isa", row.isa}};
}

/// One line of the table: a method on a text, with some layers replaced. Budget 0: none.
struct Line {
  std::string text, layers, method;
  std::int64_t budget;
  json row;
};

// Perplexity of the window at the same number of keys.
double window_at(const std::vector<Line>& lines, const Line& line) {
  std::map<double, double> window;
  for (const Line& l : lines)
    if (l.text == line.text && l.layers == line.layers &&
        (l.method == "window" || l.method == "dense"))
      window[l.row.at("keys")] = l.row.at("ppl");
  return perplexity_at(window, line.row.at("keys"));
}

std::string table_of(const std::vector<Line>& lines, const cli::Protocol& p) {
  std::vector<std::vector<std::string>> rows;
  for (const Line& l : lines) {
    const double ppl = l.row.at("ppl"), window = window_at(lines, l);
    double dense = ppl;
    for (const Line& d : lines)
      if (d.text == l.text && d.layers == l.layers && d.method == "dense") dense = d.row.at("ppl");
    rows.push_back(
        {l.text, l.layers, l.method, l.budget == 0 ? "" : std::to_string(l.budget),
         fmt::format("{:.0f}", l.row.at("keys").get<double>()),
         fmt::format("{:.0f}", l.row.at("standins").get<double>()), fmt::format("{:.4f}", ppl),
         fmt::format("{:+.2f} %", 100 * (ppl / dense - 1)),
         std::isfinite(window) ? fmt::format("{:.4f}", window) : "-",
         std::isfinite(window) ? fmt::format("{:+.2f} %", 100 * (ppl / window - 1)) : "-"});
  }
  return fmt::format("Perplexity of the {} ({}), {} tokens{}:\n\n", cli::scored_part(p), p.name(),
                     p.ctx, p.from_end ? " from the end" : "") +
         markdown({"text", "layers", "method", "budget", "keys", "stand-ins", "perplexity",
                   "over dense", "window, same keys", "over it"},
                  rows);
}

std::string picture_of(const Lm& lm, const cli::Protocol& p, const std::vector<Line>& lines) {
  const bool whole = !lm.flags.quick && lm.methods.empty() && !lm.ablation;
  std::map<std::pair<std::string, std::string>, Panel> panels;
  for (const Line& l : lines) {
    if (whole && !in_picture(l.method)) continue;
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
  return line_chart(fmt::format("{}, {} tokens, perplexity of the {} ({})",
                                std::filesystem::path(lm.model.model).filename().string(), lm.ctx,
                                cli::scored_part(p), p.name()),
                    all);
}

void Lm::run() {
  prepare();
  const cli::Protocol measured = protocol.protocol(ctx, chunks, 256, model.thread_count());
  const std::vector<Candidate> all = candidates();
  const cli::Model loaded(model);
  json settings = common_settings(flags, model.model);
  settings.update({{"experiment", "lm"},
                   {"ctx", ctx},
                   {"chunks", chunks},
                   {"protocol", measured.name()},
                   {"tail_tokens", measured.tail_tokens},
                   {"from_end", measured.from_end}});
  Journal journal(flags.out, name, settings, flags.fresh);
  std::size_t rows = 1;
  for (const Candidate& c : all) rows += budgets_of(c).size();
  journal.expect(texts.size() * layers.size() * rows);
  cli::Session session(loaded, model, ctx, measured.batch(), measured.outputs(256));
  std::vector<Line> lines;
  for (const std::string& text : texts) {
    const auto [label, path] = named(text, "--text");
    const std::vector<llama_token> tokens =
        read_tokens(loaded, path, ctx * chunks, measured.from_end);
    const std::string& text_name = label;
    const std::string hash = short_hash(std::as_bytes(std::span(tokens)));
    const auto measure = [&](const Candidate& c, const std::string& set, std::int64_t budget) {
      const Candidate exact = sized(c, budget);
      const json key = {{"text", text_name},
                        {"tokens", hash},
                        {"layers", set},
                        {"flags", exact.flags},
                        {"budget", budget}};
      const json& row = journal.row(key, [&] {
        cli::Setting setting{"", ablated(exact, std::max<std::int64_t>(1, budget), &loaded),
                             host::parse_layers("--layers", set, loaded.layers())};
        setting.method = host::name_of(setting.options.plan.method);
        return to_row(cli::Measurement(measured, setting, loaded, session, tokens).run(), measured);
      });
      lines.push_back({text_name, set, c.name, budget, row.at("row")});
    };
    for (const std::string& set : layers) {
      measure({"dense", "dense"}, set, 0);
      for (const Candidate& c : all)
        for (const std::int64_t budget : budgets_of(c)) measure(c, set, budget);
    }
  }
  publish(journal, table_of(lines, measured), picture_of(*this, measured, lines));
}

}  // namespace

void add_lm(CLI::App& experiment) {
  auto args = std::make_shared<Lm>();
  CLI::App* sub = experiment.add_subcommand(
      "lm", "Perplexity against keys read, every method beside a window and dense");
  args->flags.add_to(*sub);
  sub->add_option("--model,-m", args->model.model, "GGUF model");
  sub->add_option("--text,-f", args->texts, "NAME=FILE, several times");
  sub->add_option("--ctx,-c", args->ctx, "Tokens (default: 8192, quick 1024)");
  sub->add_option("--chunks", args->chunks, "Contexts of each text")->capture_default_str();
  sub->add_option("--budget", args->budgets,
                  "Keys, several (default: 256,512,1024,2048, quick 256)")
      ->delimiter(',');
  sub->add_option("--layers", args->layers, "Layers replaced: all, even, odd, first:N, last:N")
      ->delimiter(',')
      ->capture_default_str();
  sub->add_option("--method", args->methods,
                  "NAME=METHOD FLAGS instead of the whole list, several times; flags as for ppl, "
                  "and --half-window for half of the budget, --flaw-zeroed, --flaw-repeats, "
                  "--flaw-padding, --flaw-flattened, --flaw-distance-seeds for those of the "
                  "published code");
  sub->add_flag("--ablation", args->ablation,
                "Instead of the whole list prescored HyperAttention with these flaws one by one");
  args->protocol.add_to(*sub);
  sub->add_option("--name", args->name, "Name of the files")->capture_default_str();
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::experiments
