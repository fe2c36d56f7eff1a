// prescore experiment NAME: what all experiments share.
#pragma once

#include <initializer_list>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "journal.h"
#include "settings.h"

namespace prescore::experiments {

struct Flags {
  bool quick = false, fresh = false;
  std::string out = "experiment-results";
  std::optional<std::int64_t> threads;

  void add_to(CLI::App& app);
  int thread_count() const;
};

/// A method with its flags, as ppl takes them: "received top-k" = "topk --key-score received".
struct Candidate {
  std::string name, flags;
};

/// Of texts NAME=METHOD FLAGS, as --method takes them. Throws cli::BadInput.
std::vector<Candidate> parse_candidates(const std::vector<std::string>& texts);
/// NAME and the rest of a text NAME=REST; `flag` has it. Throws cli::BadInput.
std::pair<std::string, std::string> named(const std::string& text, const char* flag);
/// A window and top-k by the simplest scores, then `more`.
std::vector<Candidate> with_simple_methods(std::initializer_list<Candidate> more);
/// Top-k by the attention received from 64 positions on, fitted anew each 64 keys.
Candidate received_from_afar();
/// The same beside half a window: the best without a look at the query, see docs/experiments/lm.md.
Candidate half_window_received();
/// Windows of a candidate that depend on the budget: --half-window and the like become --window.
Candidate sized(Candidate, std::int64_t budget);
/// Takes a word out of a candidate's flags; whether it was there.
bool take(Candidate&, std::string_view word);

/// Options of a candidate with a budget. Throws Error or cli::BadInput.
Options options_of(const Candidate&, std::int64_t budget, const cli::Model* model = nullptr);

/// Far keys of with_far_step() end at multiples of this before the window.
inline constexpr std::int64_t kFarStep = 64;
/// Unless the flags of a score say where far keys end, they have the budget's room at every
/// position: by default they end at whole segments, and a small budget is all window.
Candidate with_far_step(Candidate);
/// Prescored HyperAttention keeps a quarter of `keys` unless its flags say how many, others are as
/// they were: of a text no longer than the default it would keep everything.
Candidate keeping_a_quarter(Candidate, std::int64_t keys);
/// Both for a text of few tokens.
Candidate for_few_tokens(Candidate, std::int64_t tokens);

/// The first n tokens of a file, or the last. Throws cli::BadInput where it has fewer.
std::vector<llama_token> read_tokens(const cli::Model&, const std::string& path, std::int64_t n,
                                     bool from_end = false);

/// Perplexity at `keys` between the points {keys, perplexity}, in log-log, or at one within 2 % of
/// it; below the first by the slope of the first two, NaN above the last.
double perplexity_at(const std::map<double, double>& points, double keys);

/// Mean number of keys that a query read: all of them, and stand-ins beside.
double keys_per_query(const Counters&);
double standins_per_query(const Counters&);

/// Rows of cells as a Markdown table, columns aligned.
std::string markdown(const std::vector<std::string>& header,
                     const std::vector<std::vector<std::string>>& rows);

/// Writes NAME.json, NAME.md and NAME.svg beside the journal, and NAME-WORD.svg for each pair of
/// word and picture in `more`; prints the table.
void publish(const Journal&, const std::string& table, const std::string& svg,
             const std::vector<std::pair<std::string, std::string>>& more = {});

/// {"machine", "threads", "version", "quick"}: what every experiment's settings begin with. With a
/// model also "model", the name of its file, and "model_bytes", which tells two of a name apart.
nlohmann::json common_settings(const Flags&, const std::string& model = "");

void add_planted(CLI::App& experiment);
void add_coverage(CLI::App& experiment);
void add_lm(CLI::App& experiment);
void add_retrieval(CLI::App& experiment);
void add_layer(CLI::App& experiment);
void add_heads(CLI::App& experiment);

}  // namespace prescore::experiments
