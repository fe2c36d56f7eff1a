#include "report.h"

#include <fmt/format.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "prescore/types.h"
#include "table.h"

namespace prescore::cli {
namespace {

double ratio(std::int64_t a, std::int64_t b) {
  return b > 0 ? static_cast<double>(a) / static_cast<double>(b) : 0;
}

const Row* find(const Report& r, const std::string& method) {
  const auto row =
      std::find_if(r.rows.begin(), r.rows.end(), [&](const Row& x) { return x.method == method; });
  return row == r.rows.end() ? nullptr : &*row;
}

std::int64_t operations(const Row& row) {
  std::int64_t n = row.taken;
  for (const auto& [reason, count] : row.left) n += count;
  return n;
}

/// One sentence a method that is compared with stock.
std::string gains(const Report& r) {
  const Row* stock = find(r, "stock");
  if (stock == nullptr) return {};
  std::string out;
  for (const Row& row : r.rows) {
    if (!row.ours() || row.prefill_s <= 0) continue;
    out += fmt::format("{}: reads the prompt {:.2f}x as fast as llama.cpp, attention {:.2f}x",
                       row.method, stock->prefill_s / row.prefill_s,
                       stock->attention_s / row.attention_s);
    out += fmt::format(", perplexity {:+.2f} %\n", 100 * (row.ppl / stock->ppl - 1));
  }
  return out;
}

nlohmann::json per_query(const Counters& c) {
  return {{"keys", ratio(c.keys, c.queries)},
          {"share", ratio(c.keys, c.visible)},
          {"standins", ratio(c.standins, c.queries)},
          {"products", ratio(c.products, c.queries)}};
}

/// What a perplexity of the table is of.
std::string perplexity_note(const Report& r) {
  const char* how = ". Methods that choose by tile are flattered by it: use --score tail";
  if (r.protocol.score == "tail")
    how = r.protocol.tail == "dense"
              ? ", read densely, as hosts decode by default, after a prompt that the method read"
              : ", each token choosing for itself after a prompt read in tiles";
  return fmt::format("Perplexity ({}): of the {} ({} predictions){}.\n", r.protocol.name(),
                     scored_part(r.protocol), r.scored_tokens, how);
}

}  // namespace

std::string scored_part(const Protocol& p) {
  if (p.score == "half") return "second half";
  return p.tail_tokens > 0 ? fmt::format("last {} tokens", p.tail_tokens) : "last quarter";
}

std::string taken_text(const Row& row) {
  std::string text =
      fmt::format("{} of {} attention operations taken over", row.taken, operations(row));
  std::string reasons;
  for (const auto& [reason, count] : row.left)
    reasons += fmt::format("{}{} with {}", reasons.empty() ? ": " : ", ", count, reason);
  if (!reasons.empty()) text += reasons + " left to llama.cpp";
  if (row.kept > 0)
    text += fmt::format("; {} of them dense because their layer is outside --layers", row.kept);
  if (row.masked > 0)
    text +=
        fmt::format("; {} of them dense because their mask is not a plain causal one", row.masked);
  return text;
}

std::string to_text(const Report& r) {
  Table table({"method", "perplexity", "prefill s", "tokens/s", "attention s", "select s",
               "keys/query", "share", "stand-ins", "scored keys", "taken over"});
  std::string notes;
  for (const Row& row : r.rows) {
    std::vector<std::string> cells = {
        row.method, fmt::format("{:.4f}", row.ppl), fmt::format("{:.2f}", row.prefill_s),
        fmt::format("{:.1f}", row.tokens_per_s), fmt::format("{:.2f}", row.attention_s)};
    cells.insert(cells.end(),
                 {row.ours() ? fmt::format("{:.3f}", row.index_s + row.plan_s) : "",
                  fmt::format("{:.1f}", ratio(row.prefill.keys, row.prefill.queries)),
                  fmt::format("{:.1f} %", 100 * ratio(row.prefill.keys, row.prefill.visible))});
    if (row.ours()) {
      cells.insert(cells.end(),
                   {fmt::format("{:.1f}", ratio(row.prefill.standins, row.prefill.queries)),
                    fmt::format("{:.1f}", ratio(row.scored.keys, row.scored.queries)),
                    fmt::format("{}/{}", row.taken, operations(row))});
      if (!row.left.empty() || row.masked > 0 || row.kept > 0)
        notes += fmt::format("{}: {}.\n", row.method, taken_text(row));
      if (row.method == "auto") notes += fmt::format("auto took {}.\n", row.why);
    } else {
      cells.insert(cells.end(), {"", "", "host's own"});
    }
    table.add(std::move(cells));
  }
  const Protocol& p = r.protocol;
  std::string out = fmt::format("{}, {} tokens x {}{}, {} threads, {}\n\n", r.model, p.ctx,
                                p.chunks, p.from_end ? " from the end" : "", p.threads, r.machine);
  return out + table.str() + "\n" + gains(r) + notes + perplexity_note(r);
}

nlohmann::json to_json(const Report& r) {
  nlohmann::json rows = nlohmann::json::array();
  for (const Row& row : r.rows) {
    rows.push_back({{"method", row.method},
                    {"took", row.took},
                    {"why", row.why},
                    {"ppl", row.ppl},
                    {"ppl_error", row.ppl_error},
                    {"prefill_s", row.prefill_s},
                    {"tokens_per_s", row.tokens_per_s},
                    {"attention_s", row.attention_s},
                    {"keys_per_query", ratio(row.prefill.keys, row.prefill.queries)},
                    {"keys_share", ratio(row.prefill.keys, row.prefill.visible)},
                    {"standins_per_query", ratio(row.prefill.standins, row.prefill.queries)},
                    {"products_per_query", ratio(row.prefill.products, row.prefill.queries)},
                    {"selection_s", row.index_s + row.plan_s},
                    {"index_s", row.index_s},
                    {"plan_s", row.plan_s},
                    {"index_bytes", row.index_bytes},
                    {"scored_per_query", per_query(row.scored)},
                    {"replaced_per_query", per_query(row.replaced)},
                    {"taken_over", row.taken},
                    {"masked", row.masked},
                    {"kept", row.kept},
                    {"left", row.left},
                    {"isa", row.isa}});
  }
  return {{"rows", rows},
          {"model", r.model},
          {"description", r.description},
          {"text", r.text},
          {"ctx", r.protocol.ctx},
          {"chunks", r.protocol.chunks},
          {"protocol", r.protocol.name()},
          {"score", r.protocol.score},
          {"from_end", r.protocol.from_end},
          {"threads", r.protocol.threads},
          {"machine", r.machine},
          {"scored_tokens", r.scored_tokens},
          {"version", version()}};
}

}  // namespace prescore::cli
