// Settings of the plug-in, from PRESCORE_* environment variables.
#pragma once

#include <memory>
#include <string>

#include "common/profile.h"
#include "prescore/attention.h"

namespace prescore::host {

struct PluginSettings {
  Options options;
  bool disabled = false;                       ///< PRESCORE_DISABLE
  bool stats = false;                          ///< PRESCORE_STATS
  std::shared_ptr<const HeadProfile> profile;  ///< PRESCORE_PROFILE, read; null: to be found
  bool profile_off = false;                    ///< PRESCORE_PROFILE=none
};

/// Throws Error naming the variable and what it may be.
PluginSettings read_settings();

}  // namespace prescore::host
