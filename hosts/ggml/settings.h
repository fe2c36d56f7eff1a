// Settings of the plug-in, from PRESCORE_* environment variables.
#pragma once

#include <string>

#include "prescore/attention.h"

namespace prescore::host {

struct PluginSettings {
  Options options;
  bool disabled = false;  ///< PRESCORE_DISABLE
  bool stats = false;     ///< PRESCORE_STATS
};

/// Throws Error naming the variable and what it may be.
PluginSettings read_settings();

}  // namespace prescore::host
