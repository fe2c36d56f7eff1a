// The random score, one definition for the CPU and the GPU.
#pragma once

#include "common/random.h"

namespace prescore {

/// Score of key `i` of a (batch, key head), in [0, 1): by its number alone, and in fp32 exactly.
constexpr float random_score(std::uint64_t seed, std::int64_t head, std::int64_t i) noexcept {
  const std::uint64_t stream = mix(mix(seed) + static_cast<std::uint64_t>(head));
  return static_cast<float>(mix(stream + static_cast<std::uint64_t>(i)) >> 40) * 0x1p-24f;
}

}  // namespace prescore
