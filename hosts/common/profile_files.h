// Where head profiles lie: a file that is named, the user's cache folder, those shipped.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "common/profile.h"

namespace prescore::host {

/// Throws Error.
HeadProfile read_profile(const std::string& path);
/// Readers see the old file or the whole new one, however many write. Makes the folder. Throws
/// Error.
void write_profile(const HeadProfile&, const std::string& path);

/// Where the profile of this model is kept: $PRESCORE_CACHE/profiles/FINGERPRINT.json, without the
/// variable in $XDG_CACHE_HOME/prescore or ~/.cache/prescore. Empty where there is no home.
std::string cached_profile_path(const std::string& fingerprint);

/// Name and text of each profile of data/profiles, compiled in.
const std::vector<std::pair<std::string_view, std::string_view>>& shipped_profiles();

struct FoundProfile {
  std::shared_ptr<const HeadProfile> profile;  ///< null: none
  bool off = false;                            ///< none, because the user said so
  std::string note;                            ///< why one in the cache was passed over
};

/// What "--profile" or PRESCORE_PROFILE say: a file, "none", or empty for what the variable says.
std::string profile_setting(const std::string& given = {});

/// By `setting`: that file, which must be of this model (throws Error otherwise); "none": none;
/// empty: by fingerprint, from the cache, else of those shipped.
FoundProfile find_profile(const ModelIdentity& model, const std::string& setting);

}  // namespace prescore::host
