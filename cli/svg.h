// A report as a picture.
#pragma once

#include <string>

#include "report.h"

namespace prescore::cli {

/// Two panels, one line a method: prefill time with the part inside attention, and perplexity.
std::string to_svg(const Report&);

}  // namespace prescore::cli
