// What `prescore ppl` found, as a table, as JSON and as a picture.
#pragma once

#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "prescore/types.h"
#include "protocol.h"

namespace prescore::cli {

/// One method. Times and counts are those of reading the whole context as one prompt, mean over
/// chunks; perplexity and `scored` are of the scored tokens.
struct Row {
  std::string method;
  std::string took;  ///< the method that ran ("routed" where method is "auto"), and why
  std::string why;
  double ppl = 0, ppl_error = 0;
  double prefill_s = 0, tokens_per_s = 0, attention_s = 0;
  double index_s = 0, plan_s = 0;  ///< plan_s: wall, that is its CPU seconds over the threads
  Counters prefill, scored;        ///< stock: only keys and queries of `prefill`, by arithmetic
  Counters replaced;               ///< of `scored`, in the layers that the method computes
  std::int64_t index_bytes = 0;
  std::int64_t taken = 0, masked = 0;
  std::int64_t kept = 0;  ///< of `taken`, dense because their layer is outside the layer set
  std::map<std::string, std::int64_t> left;
  std::string isa;

  bool ours() const { return method != "stock"; }
};

struct Report {
  std::string model, description, text, machine;
  Protocol protocol;
  std::int64_t scored_tokens = 0;
  std::vector<Row> rows;
};

/// Which tokens were scored: "last quarter", "last 2048 tokens" or "second half".
std::string scored_part(const Protocol&);

/// The table and, below it, what a reader must know to read it.
std::string to_text(const Report&);

/// {"rows": [{"method", "ppl", "prefill_s", ...}], "model", "ctx", "machine", ...}
nlohmann::json to_json(const Report&);

/// "24 of 26 attention operations taken over: 2 with softcap left to llama.cpp"
std::string taken_text(const Row&);

}  // namespace prescore::cli
