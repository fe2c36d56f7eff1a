// The head profile of the model that a command runs.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "common/profile.h"
#include "session.h"

namespace CLI {
class App;
}

namespace prescore::cli {

struct ProfileFlags {
  std::string profile;  ///< a file, "none", or empty: found

  void add_to(CLI::App& app);
};

/// The profile that the flags name, or the one found by the model's fingerprint; where there is
/// none, and `tokens` are a long prompt, a quick one is measured, kept in the cache folder, and
/// said so (0: never). Null: none. Throws Error where a file that is named is no profile of this model.
std::shared_ptr<const host::HeadProfile> profile_for(const ProfileFlags& flags,
                                                     const ModelFlags& model_flags,
                                                     const Model& model, std::int64_t tokens);

/// "profile   10 of 270 heads dense, from FILE", what the operations of a reading made of it.
std::string profile_line(const host::HeadProfile* profile, const host::Stats& stats);

}  // namespace prescore::cli
