// Tells models apart by what quantisation leaves as it is: shapes and weights of norms.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "common/profile.h"

namespace prescore::host {

/// A norm's name ("first", "last", "output") and its weights, as they multiply.
using NormWeights = std::pair<std::string, std::vector<float>>;

/// The first 16 digits of a SHA-256 over the shape and the weights rounded to bf16, so that a
/// checkpoint is the same model in whichever type it was loaded. python/prescore/_profile.py
/// computes the same.
std::string fingerprint_of(const ModelIdentity& shape, std::int64_t width,
                           std::span<const NormWeights> norms);

/// What a GGUF file, or the first of a split one, holds: reads metadata and three small tensors.
/// Fine-tunes that leave norms as they are (LoRA) count as the same model: they hardly move what a
/// head does. Throws Error.
ModelIdentity identify(const std::string& gguf_path);

}  // namespace prescore::host
