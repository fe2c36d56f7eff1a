// Head profiles: which query heads of a model need more than the call's budget, which need less. A
// few heads hold nearly all of what a sparse prompt loses (docs/profiles.md).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "prescore/types.h"

namespace prescore::host {

/// What tells one model from another. Quantisations of a model, and its transformers checkpoint,
/// have the same fingerprint (fingerprint.h).
struct ModelIdentity {
  std::string name, architecture;
  std::int64_t layers = 0, heads = 0, kv_heads = 0, head_dim = 0;
  std::string fingerprint;  ///< 16 hexadecimal digits
};

/// What a head reads, a letter each in the file.
struct Need {
  static constexpr char kAsCalled = '.';  ///< what the call says
  static constexpr char kDense = 'd';     ///< every key
  static constexpr char kWindow = 'w';    ///< sinks and the most recent keys, HeadProfile::window
  static constexpr char kMany = 'm';      ///< routed, HeadProfile::many keys
};

struct HeadProfile {
  static constexpr std::int64_t kSchema = 1;

  ModelIdentity model;
  std::string by, how, date;  ///< of its making; for people
  std::int64_t many = 8192, window = 1024;
  /// A string a layer, a letter a query head; empty where a layer has no attention. `prompt`: many
  /// queries at once; `decode`: queries that choose alone.
  std::vector<std::string> prompt, decode;
  std::string source;  ///< where it was read from; not in the file

  const std::vector<std::string>& needs(bool decoding) const { return decoding ? decode : prompt; }
  /// PlanOptions::heads of a layer; empty where all its heads are as the call says, and outside.
  std::vector<HeadBudget> budgets(std::int64_t layer, bool decoding) const;
};

/// A profile in which every head is as the call says.
HeadProfile plain_profile(const ModelIdentity& model);

/// Throws Error naming `source` and what was expected. Unknown keys are ignored.
HeadProfile parse_profile(std::string_view text, const std::string& source);
/// The file: JSON, one line a layer.
std::string to_json(const HeadProfile&);

/// Throws Error where the profile is of another model.
void check_fits(const HeadProfile&, const ModelIdentity&);

/// "10 of 336 heads dense, from FILE"
std::string describe(const HeadProfile&);

}  // namespace prescore::host
