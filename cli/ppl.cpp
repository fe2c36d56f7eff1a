// prescore ppl: perplexity and prefill time, method by method on the same text.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <memory>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "common/names.h"
#include "errors.h"
#include "files.h"
#include "progress.h"
#include "report.h"
#include "session.h"
#include "svg.h"

namespace prescore::cli {
namespace {

using Mode = host::LlamaHost::Mode;

constexpr std::int64_t kLeastContext = 64, kMostContext = std::int64_t{1} << 24;
constexpr std::int64_t kMostBatch = 8192;  // tokens of a prompt that are read at once
constexpr std::int64_t kPiece = 512;       // tokens that are scored at once: their logits are kept

struct Ppl {
  ModelFlags model;
  MethodFlags method;
  std::string text, json, svg, score = "tail";
  std::vector<std::string> methods = {"stock", "dense", "window", "routed"};
  std::int64_t ctx = 8192, chunks = 1, warmup = 256;

  void run() const;
  void check() const;
};

/// A method on a text.
class Measurement {
 public:
  Measurement(const Ppl& args, const Model& model, Session& session,
              const std::vector<llama_token>& tokens, std::string method)
      : args_(args), model_(model), session_(session), tokens_(tokens),
        options_(args.method.options()) {
    row_.method = std::move(method);
    if (row_.ours())
      options_.plan.method = host::parse_method("method", row_.method);
    else
      row_.took = "llama.cpp";
  }

  Row run();
  std::int64_t scored() const { return losses_.count; }

 private:
  void warm_up();
  void read(std::span<const llama_token> chunk, std::int64_t number);
  void score(std::span<const llama_token> chunk, std::int64_t number);
  /// Where scoring begins: at a tile's first query.
  std::int64_t split() const {
    const std::int64_t at = args_.score == "tail" ? args_.ctx * 3 / 4 : args_.ctx / 2;
    return std::max(at / options_.plan.tile * options_.plan.tile, std::int64_t{1});
  }
  OnProgress show(Progress& progress, std::int64_t chunk) const {
    return [&progress, chunk, this](double part) {
      progress.at(static_cast<double>(chunk) + part, static_cast<double>(args_.chunks));
    };
  }

  const Ppl& args_;
  const Model& model_;
  Session& session_;
  const std::vector<llama_token>& tokens_;
  Options options_;
  Row row_;
  Losses losses_;
};

Row Measurement::run() {
  host::LlamaHost& host = session_.host();
  warm_up();
  for (std::int64_t c = 0; c < args_.chunks; ++c) {
    std::vector<llama_token> chunk(tokens_.begin() + c * args_.ctx,
                                   tokens_.begin() + (c + 1) * args_.ctx);
    // As llama.cpp's own tool: every chunk begins like a text.
    if (llama_vocab_get_add_bos(model_.vocab())) chunk[0] = llama_vocab_bos(model_.vocab());
    host.runner().set_options(options_);
    read(chunk, c);
    score(chunk, c);
  }
  const double n = static_cast<double>(args_.chunks);
  row_.prefill_s /= n, row_.attention_s /= n, row_.index_s /= n, row_.plan_s /= n;
  row_.tokens_per_s = static_cast<double>(args_.ctx) / row_.prefill_s;
  row_.ppl = losses_.perplexity();
  row_.ppl_error = losses_.error();
  return row_;
}

void Measurement::warm_up() {
  session_.host().set_mode(row_.ours() ? Mode::kPrescore : Mode::kObserve);
  session_.host().runner().set_options(options_);
  session_.clear();
  if (args_.warmup > 0) session_.read(tokens_, 0, std::min(args_.warmup, args_.ctx));
}

void Measurement::read(std::span<const llama_token> chunk, std::int64_t number) {
  host::LlamaHost& host = session_.host();
  session_.clear();
  host.reset_stats();
  Progress progress(fmt::format("{}: reading {} tokens", row_.method, args_.ctx));
  row_.prefill_s += session_.read(chunk, 0, args_.ctx, show(progress, number));
  if (!row_.ours()) {
    row_.attention_s += host.stock_stats().seconds;
    // It reads every key: a prompt's queries see 1, 2, ... of them.
    row_.prefill.queries += args_.ctx;
    row_.prefill.keys = row_.prefill.visible += args_.ctx * (args_.ctx + 1) / 2;
    return;
  }
  const host::Stats& s = host.stats();
  if (s.taken == 0)
    throw Failed(fmt::format("{}: no attention operation of this model was taken over ({})",
                             row_.method, s.left.empty() ? "it has none" : s.left.begin()->first));
  row_.attention_s += s.seconds;
  row_.index_s += s.counters.index_s;
  row_.plan_s += s.counters.plan_s / args_.model.thread_count();
  row_.prefill += s.counters;
  row_.taken += s.taken, row_.masked += s.masked;
  for (const auto& [reason, count] : s.left) row_.left[reason] += count;
  row_.index_bytes = host.runner().index_bytes();
  row_.isa = s.isa, row_.why = s.why;
  const auto most = std::max_element(s.methods.begin(), s.methods.end(),
                                     [](auto& a, auto& b) { return a.second < b.second; });
  row_.took = most->first;
}

void Measurement::score(std::span<const llama_token> chunk, std::int64_t number) {
  host::LlamaHost& host = session_.host();
  const std::int64_t from = split();
  Options options = options_;
  if (row_.ours()) {
    // What is scored is what was timed: a short batch must not make `auto` choose anew.
    options.plan.method = host::parse_method("method", row_.took);
    if (args_.score == "tail") options.plan.routing = Routing::kStrict;
  } else {
    host.set_mode(Mode::kOff);
  }
  host.runner().set_options(options);
  host.reset_stats();
  session_.truncate(from);
  const std::int64_t piece =
      (kPiece + options.plan.tile - 1) / options.plan.tile * options.plan.tile;
  Progress progress(fmt::format("{}: scoring {} tokens", row_.method, args_.ctx - from));
  const Losses l = session_.score(chunk, from, args_.ctx, piece, show(progress, number));
  losses_.sum += l.sum, losses_.squares += l.squares, losses_.count += l.count;
  row_.scored += host.stats().counters;
  if (!row_.ours()) host.set_mode(Mode::kObserve);
}

void Ppl::check() const {
  host::check_count("ctx", ctx, kLeastContext, kMostContext);
  host::check_count("chunks", chunks, 1, 1'000'000);
  host::check_count("warmup", warmup, 0, kMostContext);
  if (score != "tail" && score != "half")
    throw BadInput(fmt::format("--score, got \"{}\", want one of tail, half", score));
  for (const std::string& m : methods)
    if (m != "stock") host::parse_method("--methods (stock or a method)", m);
  method.options();
  model.check();
  check_writable(json);
  check_writable(svg);
}

void Ppl::run() const {
  check();
  const std::string words = read_file(text);
  const Model loaded(model);
  const std::int64_t need = ctx * chunks;
  const std::vector<llama_token> tokens = loaded.tokenize(words, need);
  if (static_cast<std::int64_t>(tokens.size()) < need)
    throw BadInput(fmt::format("{} has {} tokens, want at least {} (--ctx {} --chunks {})", text,
                               tokens.size(), need, ctx, chunks));

  const std::int64_t tile = method.options().plan.tile;
  Session session(loaded, model, ctx, std::min(ctx, kMostBatch), std::min(ctx, kPiece + tile));
  Report report;
  report.model = std::filesystem::path(model.model).filename().string();
  report.description = loaded.description();
  report.text = std::filesystem::path(text).filename().string();
  report.machine = machine_name();
  report.score = score, report.ctx = ctx, report.chunks = chunks;
  report.threads = model.thread_count();
  for (const std::string& m : methods) {
    Measurement measurement(*this, loaded, session, tokens, m);
    report.rows.push_back(measurement.run());
    report.scored_tokens = measurement.scored();
  }
  fmt::print("{}", to_text(report));
  nlohmann::json document = to_json(report);
  document["settings"] = {{"budget", method.budget},
                          {"window", method.window},
                          {"sinks", method.sinks},
                          {"standins", method.standins},
                          {"tile", method.tile},
                          {"open_groups", method.open_groups},
                          {"open_segments", method.open_segments},
                          {"cluster", method.cluster},
                          {"route_stride", method.route_stride},
                          {"key_score", method.key_score},
                          {"hyper",
                           {{"projections", method.hyper.projections},
                            {"block", method.hyper.block},
                            {"samples", method.hyper.samples},
                            {"leaf", method.hyper.leaf},
                            {"centred", method.hyper.centred},
                            {"selected", method.hyper.selected}}},
                          {"dense_until", method.dense_until},
                          {"compute", method.compute},
                          {"packed", method.packed},
                          {"yarn", model.yarn}};
  if (!json.empty()) write_file(json, document.dump(2) + "\n");
  if (!svg.empty()) write_file(svg, to_svg(report));
}

}  // namespace

void add_ppl(CLI::App& app) {
  auto args = std::make_shared<Ppl>();
  CLI::App* sub =
      app.add_subcommand("ppl", "Perplexity and prefill time, method by method on the same text");
  args->model.add_to(*sub);
  sub->add_option("--text,-f", args->text, "Text file")->required();
  sub->add_option("--ctx,-c", args->ctx, "Tokens of a context")->capture_default_str();
  sub->add_option("--chunks", args->chunks, "Contexts to read")->capture_default_str();
  sub->add_option("--methods", args->methods,
                  "stock (llama.cpp's own), dense, window, topk, routed, hyper, prescored_hyper, "
                  "auto")
      ->delimiter(',')
      ->capture_default_str();
  sub->add_option("--score", args->score,
                  "tail: the last quarter, each token choosing for itself; half: the second half, "
                  "choosing by tile, which flatters")
      ->capture_default_str();
  sub->add_option("--warmup", args->warmup, "Tokens read untimed before each method")
      ->capture_default_str();
  sub->add_option("--json", args->json, "Write the result as JSON");
  sub->add_option("--svg", args->svg, "Write the result as a picture");
  args->method.add_to(*sub);
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::cli
