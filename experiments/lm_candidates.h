// What the experiment lm compares, and the flags that only it has.
#pragma once

#include <string_view>

#include "experiment.h"

namespace prescore::experiments {

/// Every method: the whole list, or what is quick.
std::vector<Candidate> lm_candidates(bool quick);
/// Prescored HyperAttention, and the same with the flaws of the published code one by one.
const std::vector<Candidate>& lm_ablation();
/// Whether a picture of the whole list draws this one: it has room for some of each kind.
bool in_picture(std::string_view name);

/// Options of a candidate, which may ask for flaws of the published code (--flaw-zeroed, ...).
Options ablated(Candidate, std::int64_t budget, const cli::Model*);

}  // namespace prescore::experiments
