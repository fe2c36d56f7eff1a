// Which heads of a model hold the damage of sparse attention, and what tells them beforehand.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <functional>
#include <memory>
#include <numeric>
#include <set>
#include <span>

#include "common/fingerprint.h"
#include "common/names.h"
#include "errors.h"
#include "experiment.h"
#include "heads_reader.h"
#include "heads_report.h"
#include "llama/probe.h"

namespace prescore::experiments {
namespace {

using nlohmann::json;

constexpr Roles kAlone{host::Need::kAsCalled, host::Need::kDense};
constexpr Roles kBut{host::Need::kDense, host::Need::kAsCalled};

class Measured;

struct Heads {
  Flags flags;
  cli::ModelFlags model;
  std::string text, method = "routed";
  std::vector<std::int64_t> layers;
  std::vector<std::string> heads;
  std::int64_t ctx = 0, budget = 0, tail_tokens = 0, draws = 0, tokens = 0, samples = 32;
  bool from_end = false, alone_only = false;

  void run();

 private:
  void prepare();
  std::vector<std::size_t> chosen(const host::ModelIdentity& of) const;
  json settings_of() const;
  std::string table(const Measured&, std::size_t measured) const;
};

void Heads::prepare() {
  if (model.model.empty()) throw cli::BadInput("--model is required");
  if (text.empty()) throw cli::BadInput("--text is required");
  if (ctx == 0) ctx = flags.quick ? 512 : 4096;
  if (budget == 0) budget = flags.quick ? 128 : 1024;
  if (draws == 0) draws = flags.quick ? 1 : 4;
  if (tokens == 0) tokens = flags.quick ? 128 : 512;
  host::check_count("ctx", ctx, 256, 1 << 20);
  host::check_count("tail-tokens", tail_tokens, 0, ctx - 1);
  host::check_count("draws", draws, 1, 1000);
  host::check_count("tokens", tokens, 16, 1 << 20);
  host::check_count("samples", samples, 1, 1 << 20);
  model.threads = flags.thread_count();
  model.check();
}

// Numbers of the heads to measure. By default all; with --quick those of two layers.
std::vector<std::size_t> Heads::chosen(const host::ModelIdentity& of) const {
  std::set<std::size_t> out;
  const auto add = [&](std::int64_t layer, std::int64_t head) {
    host::check_count("layer", layer, 0, of.layers - 1);
    host::check_count("head", head, 0, of.heads - 1);
    out.insert(static_cast<std::size_t>(layer * of.heads + head));
  };
  for (const std::string& name : heads) {
    const std::size_t dot = name.find('.');
    if (dot == std::string::npos)
      throw cli::BadInput(fmt::format("--head, got \"{}\", want LAYER.HEAD", name));
    add(host::parse_count("--head", name.substr(0, dot), 0, of.layers - 1),
        host::parse_count("--head", name.substr(dot + 1), 0, of.heads - 1));
  }
  std::vector<std::int64_t> whole = layers;
  if (whole.empty() && heads.empty()) {
    if (flags.quick)
      whole = {0, of.layers / 4};
    else
      for (std::int64_t l = 0; l < of.layers; ++l) whole.push_back(l);
  }
  for (const std::int64_t l : whole)
    for (std::int64_t h = 0; h < of.heads; ++h) add(l, h);
  return {out.begin(), out.end()};
}

json Heads::settings_of() const {
  json settings = common_settings(flags, model.model);
  settings.update({{"experiment", "heads"},
                   {"ctx", ctx},
                   {"tail_tokens", tail_tokens},
                   {"from_end", from_end},
                   {"method", method},
                   {"budget", budget},
                   {"tokens", tokens},
                   {"samples", samples}});
  return settings;
}

/// A run's parts: each asks the journal for its rows.
class Measured {
 public:
  Measured(Journal& journal, HeadReader& reader, const host::ModelIdentity& of, std::string hash)
      : journal_(journal), reader_(reader), text_(std::move(hash)),
        count_(static_cast<std::size_t>(of.layers * of.heads)) {
    rows.layers = of.layers, rows.heads = of.heads;
  }

  HeadRows rows;
  Tails dense, all;  ///< of every head

  void copying(std::int64_t draws, const std::function<host::HeadScores(std::uint64_t)>& probe) {
    host::HeadScores scores(rows.layers, rows.heads);
    for (std::int64_t d = 0; d < draws; ++d) {
      const json& row = journal_.row({{"what", "copying"}, {"draw", d}}, [&] {
        const host::HeadScores s = probe(static_cast<std::uint64_t>(d));
        return json{{"duplicate", s.duplicate}, {"induction", s.induction}};
      });
      host::HeadScores one(rows.layers, rows.heads);
      one.duplicate = row.at("row").at("duplicate").get<std::vector<double>>();
      one.induction = row.at("row").at("induction").get<std::vector<double>>();
      scores += one;
    }
    scores /= static_cast<double>(draws);
    predictor("duplicate token", scores.duplicate);
    predictor("induction", scores.induction);
  }

  void certificate(Method method) {
    const std::string name(host::name_of(method));
    const json& row = journal_.row({{"what", "certificate"}, {"method", name}, {"text", text_}},
                                   [&] { return reader_.certificate(method); });
    predictor("missing mass, " + name, row.at("row").at("missing"));
    predictor("output error, " + name, row.at("row").at("error"));
  }

  void ends() {
    dense = tails("dense", [&] { return reader_.dense(); });
    all = tails("all sparse", [&] { return reader_.sparse(); });
  }

  /// Of each head of the list, in percent of perplexity.
  void damage(const std::string& name, Roles roles, const std::vector<std::size_t>& heads) {
    HeadValues production(name + ", production", count_, true);
    HeadValues strict(name + ", strict", count_, true);
    const auto put = [](HeadValues& into, std::size_t head, const json& value) {
      into.values[head] = 100 * std::expm1(value[0].get<double>());
      into.errors[head] = 100 * value[1].get<double>();
    };
    for (const std::size_t head : heads) {
      const json& row =
          journal_.row({{"what", name}, {"head", rows.name(head)}, {"text", text_}}, [&] {
            const Tails t = reader_.with(head, roles);
            const bool but = roles.head == host::Need::kDense;
            const Difference p = but ? difference(all.production, t.production)
                                     : difference(t.production, dense.production);
            const Difference s =
                but ? difference(all.strict, t.strict) : difference(t.strict, dense.strict);
            return json{{"production", {p.mean, p.error}}, {"strict", {s.mean, s.error}}};
          });
      put(production, head, row.at("row").at("production"));
      put(strict, head, row.at("row").at("strict"));
    }
    rows.damages.push_back(std::move(production)), rows.damages.push_back(std::move(strict));
  }

 private:
  void predictor(std::string name, std::vector<double> values) {
    rows.predictors.emplace_back(std::move(name), count_).values = std::move(values);
  }
  template <typename F>
  Tails tails(const char* what, const F& measure) {
    const json& row = journal_.row({{"what", what}, {"text", text_}}, [&] {
      const Tails t = measure();
      return json{{"production", t.production}, {"strict", t.strict}};
    });
    return Tails{row.at("row").at("production"), row.at("row").at("strict")};
  }

  Journal& journal_;
  HeadReader& reader_;
  std::string text_;
  std::size_t count_;
};

double mean(const std::vector<double>& x) {
  return std::accumulate(x.begin(), x.end(), 0.0) / static_cast<double>(x.size());
}
std::string percent(double nats) { return fmt::format("{:+.2f} %", 100 * std::expm1(nats)); }

std::string Heads::table(const Measured& m, std::size_t measured) const {
  const double dense = mean(m.dense.production);
  std::string out = fmt::format(
      "{} tokens of {}, {}, budget {}. Dense perplexity {:.4f}; all heads sparse: {} in "
      "production (prompt sparse, tail dense), {} strict (prompt and tail sparse).\n\n",
      ctx, std::filesystem::path(text).filename().string(), method, budget, std::exp(dense),
      percent(mean(m.all.production) - dense), percent(mean(m.all.strict) - dense));
  out += fmt::format(
      "Damage in percent of perplexity, in brackets one standard error. Alone: only this head is "
      "sparse. But: all heads are sparse, and so much better it is with this one dense. The worst "
      "of {} heads that were measured, of {}:\n\n",
      measured, m.rows.layers * m.rows.heads);
  out += worst_heads(m.rows, 20);
  out +=
      "\nRank correlation (Spearman) of each predictor with each damage, and how many of the "
      "worst 2 % of the measured heads both have in common:\n\n";
  return out + agreement(m.rows);
}

void Heads::run() {
  prepare();
  const host::ModelIdentity identity = host::identify(model.model);
  const std::vector<std::size_t> list = chosen(identity);
  const cli::Model loaded(model);
  const Options sparse = options_of({"heads", method}, budget, &loaded);
  const Method asked = sparse.plan.method;
  if (asked != Method::kWindow && asked != Method::kTopK && asked != Method::kRouted)
    throw cli::BadInput(
        fmt::format("--method, got \"{}\", want one with budgets by head: window, topk, routed",
                    host::name_of(asked)));
  std::vector<llama_token> read = read_tokens(loaded, text, ctx, from_end);
  const std::string hash = short_hash(std::as_bytes(std::span(read)));
  HeadReader reader(loaded, model, {ctx, tail_tokens, samples}, identity, std::move(read), sparse);
  Journal journal(flags.out, "heads", settings_of(), flags.fresh);
  const std::set<Method> certified{Method::kWindow, asked};
  journal.expect(static_cast<std::size_t>(draws) + certified.size() + 2 +
                 list.size() * (alone_only ? 1 : 2));

  Measured m(journal, reader, identity, hash);
  m.copying(draws, [&](std::uint64_t seed) {
    return host::probe_heads(loaded.get(), identity, {tokens, tokens}, seed, flags.thread_count());
  });
  for (const Method each : certified) m.certificate(each);
  m.ends();
  m.damage("alone", kAlone, list);
  if (!alone_only) m.damage("but", kBut, list);
  publish(journal, table(m, list.size()),
          heads_picture(fmt::format("{}, {} tokens of {}: damage in % of perplexity, by layer and "
                                    "head; copying scores",
                                    std::filesystem::path(model.model).filename().string(), ctx,
                                    std::filesystem::path(text).filename().string()),
                        m.rows));
}

}  // namespace

void add_heads(CLI::App& experiment) {
  auto args = std::make_shared<Heads>();
  CLI::App* sub = experiment.add_subcommand(
      "heads", "Which heads hold the damage of sparse attention, and what tells them beforehand");
  args->flags.add_to(*sub);
  sub->add_option("--model,-m", args->model.model, "GGUF model");
  sub->add_option("--text,-f", args->text, "Text file");
  sub->add_option("--ctx,-c", args->ctx, "Tokens (default: 4096, quick 512)");
  sub->add_option("--tail-tokens", args->tail_tokens,
                  "Tokens at the end that are scored (default: a quarter)");
  sub->add_flag("--from-end", args->from_end, "Use the last tokens of the text, not the first");
  sub->add_option("--method", args->method, "Of sparse heads, with flags as for ppl")
      ->capture_default_str();
  sub->add_option("--budget", args->budget,
                  "Keys that a query of a sparse head reads (default: 1024, quick 128)");
  sub->add_option("--layer", args->layers,
                  "Measure the heads of these layers (default: all, quick 0 and a quarter down)")
      ->delimiter(',');
  sub->add_option("--head", args->heads, "Measure these heads, LAYER.HEAD")->delimiter(',');
  sub->add_flag("--alone-only", args->alone_only,
                "No leave-one-out (all heads sparse but one): half of the time");
  sub->add_option("--tokens", args->tokens,
                  "Random tokens of a draw of the copying scores (default: 512, quick 128)");
  sub->add_option("--draws", args->draws, "Draws of them (default: 4, quick 1)");
  sub->add_option("--samples", args->samples, "Pairs of queries for missing mass and output error")
      ->capture_default_str();
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::experiments
