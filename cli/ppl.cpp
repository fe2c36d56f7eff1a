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
#include "measure.h"
#include "profile.h"
#include "report.h"
#include "session.h"
#include "svg.h"

namespace prescore::cli {
namespace {

struct Ppl {
  ModelFlags model;
  MethodFlags method;
  ProtocolFlags protocol;
  ProfileFlags profile;
  std::string text, json, svg, layers = "all";
  std::vector<std::string> methods = {"stock", "dense", "window", "routed"};
  std::int64_t ctx = 8192, chunks = 1, warmup = 256;

  void run() const;
  Protocol check() const;
};

Protocol Ppl::check() const {
  Protocol checked = protocol.protocol(ctx, chunks, warmup, model.thread_count());
  for (const std::string& m : methods)
    if (m != "stock") host::parse_method("--methods (stock or a method)", m);
  method.options();
  model.check();
  check_writable(json);
  check_writable(svg);
  return checked;
}

void Ppl::run() const {
  const Protocol measured = check();
  const std::string words = read_file(text);
  const Model loaded(model);
  const std::int64_t need = ctx * chunks;
  std::vector<llama_token> tokens = loaded.tokenize(words, measured.from_end ? 0 : need);
  if (static_cast<std::int64_t>(tokens.size()) < need)
    throw BadInput(fmt::format("{} has {} tokens, want at least {} (--ctx {} --chunks {})", text,
                               tokens.size(), need, ctx, chunks));
  if (measured.from_end) tokens.erase(tokens.begin(), tokens.end() - need);

  const host::LayerSet replaced = host::parse_layers("--layers", layers, loaded.layers());
  const bool sparse = std::any_of(methods.begin(), methods.end(), [](const std::string& m) {
    return m != "stock" && m != "dense";
  });
  const auto heads = profile_for(profile, model, loaded, sparse ? ctx : 0);
  Session session(loaded, model, ctx, measured.batch(),
                  measured.outputs(method.options().plan.tile));
  session.host().set_profile(heads);
  Report report;
  report.model = std::filesystem::path(model.model).filename().string();
  report.description = loaded.description();
  report.text = std::filesystem::path(text).filename().string();
  report.machine = machine_name();
  report.protocol = measured;
  for (const std::string& m : methods) {
    Setting setting{m, method.options(&loaded), replaced};
    if (m != "stock") setting.options.plan.method = host::parse_method("--methods", m);
    Measurement measurement(measured, setting, loaded, session, tokens);
    report.rows.push_back(measurement.run());
    report.scored_tokens = measurement.scored();
  }
  fmt::print("{}", to_text(report));
  fmt::print("Head profile: {}.\n", profile_line(heads.get(), session.host().stats()));
  nlohmann::json document = to_json(report);
  document["profile"] = heads == nullptr ? nlohmann::json() : nlohmann::json(heads->source);
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
                          {"pre_rope", method.pre_rope},
                          {"leverage", method.leverage},
                          {"kernel", method.kernel},
                          {"sigma", method.scoring.sigma},
                          {"iterations", method.scoring.iterations},
                          {"degree", method.scoring.degree},
                          {"eps", method.eps.value_or(0)},
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
                          {"layers", layers},
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
  args->protocol.add_to(*sub);
  sub->add_option("--layers", args->layers,
                  "Layers that get the method, the others are read densely: all, even, odd, "
                  "first:N, last:N")
      ->capture_default_str();
  sub->add_option("--warmup", args->warmup, "Tokens read untimed before each method")
      ->capture_default_str();
  sub->add_option("--json", args->json, "Write the result as JSON");
  sub->add_option("--svg", args->svg, "Write the result as a picture");
  args->profile.add_to(*sub);
  args->method.add_to(*sub);
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::cli
