// Needles in a haystack: what is found at which budget and depth.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <functional>
#include <iterator>
#include <memory>

#include "chart.h"
#include "common/names.h"
#include "errors.h"
#include "experiment.h"
#include "measure.h"
#include "methods.h"
#include "needles.h"

namespace prescore::experiments {
const std::vector<Candidate>& retrieval_methods() {
  static const std::vector<Candidate> all = {
      {"dense", "dense"},
      {"window", "window"},
      {"top-k leverage", "topk --key-score leverage"},
      {"top-k received", "topk --key-score received"},
      half_window_received(),
      {"HyperAttention", "hyper"},
      {"prescored Hyper", "prescored_hyper --key-score leverage"},
      {"routed", "routed"},
  };
  return all;
}

namespace {

using nlohmann::json;

struct Retrieval {
  Flags flags;
  cli::ModelFlags model;
  std::vector<std::int64_t> budgets;
  std::vector<std::string> methods;
  std::string tail = "dense";
  std::int64_t ctx = 0, samples = 0;

  void run();
  void prepare();
  std::string protocol_name() const { return "tail " + tail; }
  std::vector<Candidate> candidates() const;
  std::vector<Needle> kinds() const;
  /// Where the needles of a kind lie; those that are spread have one place.
  std::vector<double> depths_of(Needle kind) const;
  /// Budgets of a method; dense has one, everything.
  std::vector<std::int64_t> sizes_of(const Candidate& m) const {
    return m.flags == "dense" ? std::vector<std::int64_t>{ctx} : budgets;
  }
  std::vector<HeatMap> empty_maps() const;
};

/// A task as tokens: the context up to `question` is read as a prompt, the rest as tail.
struct Prompt {
  std::vector<llama_token> tokens;  ///< context, question and answer
  std::int64_t question = 0, answer = 0;
  std::vector<std::string> answers;
};

// The largest task whose tokens fit.
Prompt make_prompt(const cli::Model& model, Needle kind, std::uint64_t seed, double depth,
                   std::int64_t ctx) {
  const auto tokens_of = [&](const std::string& text) { return model.tokenize(text); };
  std::int64_t size = ctx / 4;
  while (true) {
    const Task task = make_task(kind, seed, size, depth);
    Prompt p;
    p.tokens = tokens_of(task.context);
    p.question = static_cast<std::int64_t>(p.tokens.size());
    const auto whole = tokens_of(task.context + task.question);
    const auto all = tokens_of(task.context + task.question + task.answer());
    p.answer = static_cast<std::int64_t>(whole.size());
    p.tokens = all;
    p.answers = task.answers;
    if (static_cast<std::int64_t>(all.size()) + 16 <= ctx) return p;
    if (size < 8) throw cli::BadInput(fmt::format("--ctx {} is too short for a task", ctx));
    size = std::min(size - 1, size * (ctx - 32) / static_cast<std::int64_t>(all.size()));
  }
}

struct Outcome {
  double generated = 0;  ///< share of the answers that greedy generation gives
  double forced = 0;     ///< share of the answer's tokens that come first under teacher forcing
  double keys = 0;       ///< a query: of the prompt where the tail is dense, else of the tail
};

// Question and answer are read densely, as hosts decode by default, or by the method's strict
// choices.
Outcome ask(const cli::Model& model, cli::Session& session, const Prompt& p, Options o,
            bool dense_tail) {
  Outcome out;
  host::OpRunner& runner = session.host().runner();
  session.clear();
  session.host().reset_stats();
  runner.set_options(o);
  session.read(p.tokens, 0, p.question);
  out.keys = keys_per_query(session.host().stats().counters);
  if (dense_tail)
    o.plan.method = Method::kDense, o.plan.heads.clear();
  else
    o.plan.routing = Routing::kStrict;
  runner.set_options(o);

  session.host().reset_stats();
  const auto n = static_cast<std::int64_t>(p.tokens.size());
  const std::vector<llama_token> next = session.greedy(p.tokens, p.question, n);
  if (!dense_tail) out.keys = keys_per_query(session.host().stats().counters);
  for (std::int64_t i = p.answer; i < n; ++i)
    out.forced +=
        next[static_cast<std::size_t>(i - 1 - p.question)] == p.tokens[static_cast<std::size_t>(i)];
  out.forced /= static_cast<double>(n - p.answer);

  session.truncate(p.answer);
  std::vector<llama_token> made(p.tokens.begin(), p.tokens.begin() + p.answer);
  made.push_back(next[static_cast<std::size_t>(p.answer - 1 - p.question)]);
  std::string text;
  for (std::int64_t i = 0; i < n - p.answer + 8; ++i) {
    if (llama_vocab_is_eog(model.vocab(), made.back())) break;
    text += model.piece(made.back());
    const auto at = static_cast<std::int64_t>(made.size());
    made.push_back(session.greedy(made, at - 1, at).back());
  }
  for (const std::string& a : p.answers) out.generated += text.find(a) != std::string::npos;
  out.generated /= static_cast<double>(p.answers.size());
  return out;
}

void Retrieval::prepare() {
  if (model.model.empty()) throw cli::BadInput("--model is required");
  if (ctx == 0) ctx = flags.quick ? 1024 : 4096;
  if (samples == 0) samples = flags.quick ? 1 : 3;
  if (budgets.empty())
    budgets =
        flags.quick ? std::vector<std::int64_t>{256} : std::vector<std::int64_t>{256, 512, 1024};
  host::check_count("ctx", ctx, 256, 1 << 20);
  cli::check_tail(tail);
  model.threads = flags.thread_count();
  model.check();
}

std::vector<Candidate> Retrieval::candidates() const {
  if (!methods.empty()) return parse_candidates(methods);
  std::vector<Candidate> all = retrieval_methods();
  if (flags.quick)
    for (Candidate& c : all) c = for_few_tokens(c, ctx);
  return all;
}

// The quick ones have short answers.
std::vector<Needle> Retrieval::kinds() const {
  if (flags.quick) return {Needle::kSingle, Needle::kMultiValue};
  return {std::begin(kNeedles), std::end(kNeedles)};
}

std::vector<double> Retrieval::depths_of(Needle kind) const {
  if (kind != Needle::kSingle && kind != Needle::kMultiKey) return {0};
  return flags.quick ? std::vector<double>{0.5} : std::vector<double>{0.05, 0.25, 0.5, 0.75, 0.95};
}

// One a kind of task: methods and budgets down, depths across.
std::vector<HeatMap> Retrieval::empty_maps() const {
  std::vector<HeatMap> maps;
  for (const Needle kind : kinds()) {
    HeatMap map{name_of(kind), {}, {}, {}, 0, 1};
    const std::vector<double> depths = depths_of(kind);
    for (const double depth : depths)
      map.columns.push_back(depth > 0 ? fmt::format("{:.0f} %", 100 * depth) : "spread");
    for (const Candidate& m : candidates())
      for (const std::int64_t size : sizes_of(m))
        map.rows.push_back(m.flags == "dense" ? m.name : fmt::format("{}, {}", m.name, size));
    maps.push_back(std::move(map));
  }
  return maps;
}

/// What a method did at one budget, over all tasks.
struct Sums {
  double keys = 0, forced = 0, count = 0;
};

// Share of the answers that are given to tasks of one kind at one depth.
double found_at(Journal& journal, std::int64_t samples, json key, Sums& sums,
                const std::function<Outcome(std::uint64_t)>& run) {
  double found = 0;
  for (std::int64_t seed = 0; seed < samples; ++seed) {
    key["seed"] = seed;
    const json row =
        journal
            .row(key,
                 [&]() -> json {
                   const Outcome o = run(static_cast<std::uint64_t>(seed));
                   return {{"generated", o.generated}, {"forced", o.forced}, {"keys", o.keys}};
                 })
            .at("row");
    found += row.at("generated").get<double>();
    sums.keys += row.at("keys").get<double>(), sums.forced += row.at("forced").get<double>();
    ++sums.count;
  }
  return found / static_cast<double>(samples);
}

void Retrieval::run() {
  prepare();
  const cli::Model loaded(model);
  cli::Session session(loaded, model, ctx, std::min<std::int64_t>(ctx, 8192),
                       std::min<std::int64_t>(ctx, 1024));
  json settings = common_settings(flags, model.model);
  settings.update({{"experiment", "retrieval"},
                   {"ctx", ctx},
                   {"samples", samples},
                   {"protocol", protocol_name()}});
  Journal journal(flags.out, "retrieval", settings, flags.fresh);
  const std::vector<Needle> needles = kinds();
  std::vector<HeatMap> maps = empty_maps();
  std::size_t cells = 0;
  for (const HeatMap& map : maps) cells += map.rows.size() * map.columns.size();
  journal.expect(cells * static_cast<std::size_t>(samples));

  std::vector<std::vector<std::string>> rows;
  for (const Candidate& m : candidates()) {
    for (const std::int64_t size : sizes_of(m)) {
      rows.push_back({m.name, m.flags == "dense" ? "all" : std::to_string(size)});
      const Candidate exact = sized(m, size);
      Sums sums;
      for (std::size_t kind = 0; kind < maps.size(); ++kind) {
        const Needle needle = needles[kind];
        double mean = 0;
        maps[kind].values.emplace_back();
        for (const double depth : depths_of(needle)) {
          const json key = {{"method", exact.flags},
                            {"budget", size},
                            {"task", name_of(needle)},
                            {"depth", depth}};
          maps[kind].values.back().push_back(
              found_at(journal, samples, key, sums, [&](std::uint64_t seed) {
                return ask(loaded, session, make_prompt(loaded, needle, seed, depth, ctx),
                           options_of(exact, size, &loaded), tail == "dense");
              }));
          mean += maps[kind].values.back().back() / static_cast<double>(depths_of(needle).size());
        }
        rows.back().push_back(fmt::format("{:.2f}", mean));
      }
      rows.back().push_back(fmt::format("{:.2f}", sums.forced / sums.count));
      rows.back().push_back(fmt::format("{:.0f}", sums.keys / sums.count));
    }
  }
  std::vector<std::string> header{"method", "budget"};
  for (const Needle kind : needles) header.push_back(name_of(kind));
  header.insert(header.end(), {"forced tokens", "keys"});
  publish(journal,
          fmt::format("Share of the answers that greedy generation gives ({}), {} tokens:\n\n",
                      protocol_name(), ctx) +
              markdown(header, rows),
          heat_maps(fmt::format("Share of the answers given ({}), by depth and budget, {} tokens",
                                protocol_name(), ctx),
                    maps));
}

}  // namespace

void add_retrieval(CLI::App& experiment) {
  auto args = std::make_shared<Retrieval>();
  CLI::App* sub =
      experiment.add_subcommand("retrieval", "Needles after RULER, by method, budget and depth");
  args->flags.add_to(*sub);
  sub->add_option("--model,-m", args->model.model, "GGUF model");
  sub->add_option("--ctx,-c", args->ctx, "Tokens of a task (default: 4096, quick 1024)");
  sub->add_option("--tail", args->tail,
                  "How question and answer are read: dense, as hosts decode by default, or strict")
      ->capture_default_str();
  sub->add_option("--samples", args->samples, "Tasks of each kind (default: 3, quick 1)");
  sub->add_option("--budget", args->budgets, "Keys, several (default: 256,512,1024, quick 256)")
      ->delimiter(',');
  sub->add_option("--method", args->methods,
                  "NAME=METHOD FLAGS instead of the whole list, several times; flags as for ppl, "
                  "and --half-window for half of the budget");
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::experiments
