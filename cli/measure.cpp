#include "measure.h"

#include <fmt/format.h>

#include <algorithm>

#include "common/names.h"
#include "errors.h"

namespace prescore::cli {
namespace {

using Mode = host::LlamaHost::Mode;

}  // namespace

Measurement::Measurement(const Protocol& protocol, Setting setting, const Model& model,
                         Session& session, const std::vector<llama_token>& tokens)
    : protocol_(protocol), setting_(std::move(setting)), model_(model), session_(session),
      tokens_(tokens) {
  row_.method = setting_.method;
  if (!row_.ours()) row_.took = "llama.cpp";
}

OnProgress Measurement::show(Progress& progress, std::int64_t chunk) const {
  return [&progress, chunk, this](double part) {
    progress.at(static_cast<double>(chunk) + part, static_cast<double>(protocol_.chunks));
  };
}

Row Measurement::run() {
  host::LlamaHost& host = session_.host();
  warm_up();
  for (std::int64_t c = 0; c < protocol_.chunks; ++c) {
    std::vector<llama_token> chunk(tokens_.begin() + c * protocol_.ctx,
                                   tokens_.begin() + (c + 1) * protocol_.ctx);
    // As llama.cpp's own tool: every chunk begins like a text.
    if (llama_vocab_get_add_bos(model_.vocab())) chunk[0] = llama_vocab_bos(model_.vocab());
    host.runner().set_options(setting_.options);
    read(chunk, c);
    score(chunk, c);
  }
  const double n = static_cast<double>(protocol_.chunks);
  row_.prefill_s /= n, row_.attention_s /= n, row_.index_s /= n, row_.plan_s /= n;
  row_.tokens_per_s = static_cast<double>(protocol_.ctx) / row_.prefill_s;
  row_.ppl = losses_.perplexity();
  row_.ppl_error = losses_.error();
  return row_;
}

void Measurement::warm_up() {
  session_.host().set_mode(row_.ours() ? Mode::kPrescore : Mode::kObserve);
  session_.host().runner().set_options(setting_.options);
  session_.host().runner().set_layers(setting_.layers);
  session_.clear();
  if (protocol_.warmup > 0) session_.read(tokens_, 0, std::min(protocol_.warmup, protocol_.ctx));
}

void Measurement::read(std::span<const llama_token> chunk, std::int64_t number) {
  host::LlamaHost& host = session_.host();
  session_.clear();
  host.reset_stats();
  Progress progress(fmt::format("{}: reading {} tokens", row_.method, protocol_.ctx));
  row_.prefill_s += session_.read(chunk, 0, protocol_.ctx, show(progress, number));
  if (!row_.ours()) {
    row_.attention_s += host.stock_stats().seconds;
    // It reads every key: a prompt's queries see 1, 2, ... of them.
    row_.prefill.queries += protocol_.ctx;
    row_.prefill.keys = row_.prefill.visible += protocol_.ctx * (protocol_.ctx + 1) / 2;
    return;
  }
  const host::Stats& s = host.stats();
  if (s.taken == 0)
    throw Failed(fmt::format("{}: no attention operation of this model was taken over ({})",
                             row_.method, s.left.empty() ? "it has none" : s.left.begin()->first));
  row_.attention_s += s.seconds;
  row_.index_s += s.counters.index_s;
  row_.plan_s += s.counters.plan_s / protocol_.threads;
  row_.prefill += s.counters;
  row_.taken += s.taken, row_.masked += s.masked, row_.kept += s.kept;
  for (const auto& [reason, count] : s.left) row_.left[reason] += count;
  row_.index_bytes = host.runner().index_bytes();
  row_.isa = s.isa, row_.why = s.why;
  const Method asked = setting_.options.plan.method;
  const auto most = std::max_element(s.methods.begin(), s.methods.end(),
                                     [](auto& a, auto& b) { return a.second < b.second; });
  const bool chosen = asked == Method::kAuto && most != s.methods.end();
  row_.took = chosen ? most->first : std::string(host::name_of(asked));
}

Options Measurement::scoring_options() const {
  Options options = setting_.options;
  if (protocol_.score == "tail" && protocol_.tail == "dense") {
    options.plan.method = Method::kDense;
    options.plan.heads.clear();
    return options;
  }
  // What is scored is what was timed: a short batch must not make `auto` choose anew.
  options.plan.method = host::parse_method("method", row_.took);
  if (protocol_.score == "tail") options.plan.routing = Routing::kStrict;
  return options;
}

void Measurement::score(std::span<const llama_token> chunk, std::int64_t number) {
  host::LlamaHost& host = session_.host();
  const std::int64_t from = protocol_.split(setting_.options.plan.tile);
  if (row_.ours())
    host.runner().set_options(scoring_options());
  else
    host.set_mode(Mode::kOff);
  host.reset_stats();
  session_.truncate(from);
  const std::int64_t tile = setting_.options.plan.tile;
  const std::int64_t piece = (kScoredAtOnce + tile - 1) / tile * tile;
  Progress progress(fmt::format("{}: scoring {} tokens", row_.method, protocol_.ctx - from));
  const Losses l = session_.score(chunk, from, protocol_.ctx, piece, show(progress, number));
  losses_.sum += l.sum, losses_.squares += l.squares, losses_.count += l.count;
  row_.scored += host.stats().counters;
  row_.replaced += host.stats().replaced;
  if (!row_.ours()) host.set_mode(Mode::kObserve);
}

}  // namespace prescore::cli
