// prescore experiment NAME: what all experiments share.
#pragma once

#include <optional>
#include <string>
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

/// Options of a candidate with a budget. Throws Error or cli::BadInput.
Options options_of(const Candidate&, std::int64_t budget, const cli::Model* model = nullptr);

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

/// {"machine", "threads", "version", "quick"}: what every experiment's settings begin with.
nlohmann::json common_settings(const Flags&);

void add_planted(CLI::App& experiment);
void add_coverage(CLI::App& experiment);
void add_lm(CLI::App& experiment);
void add_retrieval(CLI::App& experiment);
void add_layer(CLI::App& experiment);

}  // namespace prescore::experiments
