// What a host's mask lets each query see. A cell's index in the cache is not its position, so this
// is the only source of visibility.
#pragma once

#include <cstdint>
#include <vector>

#include "ggml.h"
#include "prescore/executor.h"
#include "prescore/plan.h"

namespace prescore::host {

/// Read once a graph evaluation, not once a layer: a mask of 8,192 x 8,192 is 134 MB.
struct MaskSight {
  /// True where row i sees exactly the cells [0, positions[i] + 1), positions non-decreasing: one
  /// sequence, in order. False: several sequences, a sliding window, holes, biases.
  bool prefix = false;
  std::vector<std::int32_t> positions;  ///< n_q, where prefix
  std::int64_t end = 0;                 ///< no row sees a cell from here on (the cache is padded)
};

/// `mask` f16 [>= n_kv, >= n_q, 1, 1 or streams] of stream s; null: everything is seen, no prefix.
MaskSight read_mask(const ggml_tensor* mask, std::int64_t s, std::int64_t n_q, std::int64_t n_kv,
                    Executor&);

/// Spot check that `sight` still describes the mask: the edge of every 16th row. Guards a sight
/// that is kept from layer to layer against a host that rewrites its mask unnoticed.
bool still_holds(const MaskSight& sight, const ggml_tensor* mask, std::int64_t s, std::int64_t n_q,
                 std::int64_t n_kv);

/// Row 0 of stream s.
const std::uint16_t* mask_rows(const ggml_tensor* mask, std::int64_t s);

}  // namespace prescore::host
