// Rows of an experiment, kept on disk as they come, so that a run that was stopped goes on.
#pragma once

#include <cstddef>
#include <functional>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

namespace prescore::experiments {

/// A hash of what a row is measured on, for its key: sixteen hexadecimal digits (FNV-1a).
std::string short_hash(std::span<const std::byte> bytes);
/// The same of the file of the running program; "unknown" where it cannot be read.
std::string running_build();

/// One JSON object a line in FOLDER/NAME.jsonl; the first line holds the settings. Each row is
/// written whole and flushed; a last line that was torn is dropped.
class Journal {
 public:
  /// Opens or begins the file. Throws cli::BadInput, naming what differs, where it holds rows of
  /// other settings and `fresh` does not allow to begin anew.
  Journal(const std::string& folder, const std::string& name, nlohmann::json settings, bool fresh,
          std::string build = running_build());

  /// Rows that will be asked for, for the progress that is shown.
  void expect(std::size_t rows) { expected_ = rows; }
  /// The row with this key, computed only if it is not there yet. A row is {"key": .., "row": ..,
  /// "build": ..}. The first one of another build that is used again is told on stderr.
  const nlohmann::json& row(const nlohmann::json& key,
                            const std::function<nlohmann::json()>& compute);

  const std::string& folder() const { return folder_; }
  const std::string& name() const { return name_; }
  const nlohmann::json& settings() const { return settings_; }
  /// Everything that was asked for in this run, in that order.
  nlohmann::json document() const;

 private:
  void tell_other_build(const nlohmann::json& row);

  std::string folder_, name_, path_, build_;
  nlohmann::json settings_;
  std::vector<nlohmann::json> known_;
  std::vector<nlohmann::json> asked_;
  std::size_t expected_ = 0;
  bool told_ = false;
};

}  // namespace prescore::experiments
