// How a model rotates its keys by position, for scores of keys as they were before.
#pragma once

#include "llama.h"
#include "prescore/score.h"

namespace prescore::host {

/// From the model's metadata. Frequency factors (Llama 3.1) are not in it and not undone. Throws
/// Error where keys are rotated otherwise than in pairs, or with a scaling that is not linear.
Rotation rotation_of(const llama_model* model);

}  // namespace prescore::host
