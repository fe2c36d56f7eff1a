// What the other experiments compare, beside lm_candidates.h.
#pragma once

#include <vector>

#include "experiment.h"

namespace prescore::experiments {

const std::vector<Candidate>& coverage_methods();
const std::vector<Candidate>& layer_methods();
const std::vector<Candidate>& retrieval_methods();

}  // namespace prescore::experiments
