#include "protocol.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>

#include "common/names.h"
#include "errors.h"

namespace prescore::cli {
namespace {

constexpr std::int64_t kLeastContext = 64, kMostContext = std::int64_t{1} << 24;
constexpr std::int64_t kMostBatch = 8192;  // tokens of a prompt that are read at once

}  // namespace

std::int64_t Protocol::batch() const { return std::min(ctx, kMostBatch); }
std::int64_t Protocol::outputs(std::int64_t tile) const {
  return std::min(ctx, kScoredAtOnce + tile);
}

std::int64_t Protocol::split(std::int64_t tile) const {
  const std::int64_t tail_length = tail_tokens > 0 ? tail_tokens : ctx - ctx * 3 / 4;
  const std::int64_t at = score == "tail" ? ctx - tail_length : ctx / 2;
  return std::max(at / tile * tile, std::int64_t{1});
}

std::string Protocol::name() const { return score == "tail" ? "tail " + tail : score; }

void Protocol::check() const {
  check_tail(tail);
  host::check_count("ctx", ctx, kLeastContext, kMostContext);
  host::check_count("chunks", chunks, 1, 1'000'000);
  host::check_count("warmup", warmup, 0, kMostContext);
  host::check_count("tail-tokens", tail_tokens, 0, ctx - 1);
}

void check_tail(const std::string& tail) {
  if (tail != "dense" && tail != "strict")
    throw BadInput(fmt::format("--tail, got \"{}\", want one of dense, strict", tail));
}

void ProtocolFlags::add_to(CLI::App& app) {
  app.add_option("--score", score,
                 "tail: the end of the context, after a prompt that the method reads; half: the "
                 "second half, choosing by tile, which flatters")
      ->capture_default_str();
  app.add_option("--tail", tail,
                 "How the scored tail is read: dense, as hosts decode by default (default), or "
                 "strict, by the method, each token choosing for itself");
  app.add_option("--tail-tokens", tail_tokens, "Tokens of the tail (default: a quarter)");
  app.add_flag("--from-end", from_end, "Use the last tokens of the text, not the first");
}

Protocol ProtocolFlags::protocol(std::int64_t ctx, std::int64_t chunks, std::int64_t warmup,
                                 int threads) const {
  if (score != "tail" && score != "half")
    throw BadInput(fmt::format("--score, got \"{}\", want one of tail, half", score));
  if (score == "half" && (tail || tail_tokens != 0))
    throw BadInput("--score half has no tail, want --tail and --tail-tokens with --score tail");
  Protocol p{score, tail.value_or("dense"), ctx, chunks, warmup, tail_tokens, from_end, threads};
  p.check();
  return p;
}

}  // namespace prescore::cli
