// What both hosts read from a FLASH_ATTN_EXT node of a ggml graph, and whether prescore takes it.
//
//   q    f32            [d, n_q, h_q, streams], permuted   src[0]
//   k, v f16/bf16/f32   [d, n_kv, h_kv, streams], rows [cell][h_kv][d]   src[1], src[2]
//   mask f16            [n_kv, n_q, 1, streams], added to the logits, -inf hides   src[3], may be
//   null dst  f32            [d_v, h_q, n_q, streams]
// (ggml.h, ggml_flash_attn_ext; shapes innermost first, as ggml writes them.)
#pragma once

#include <cstdint>
#include <string>

#include "ggml.h"
#include "prescore/types.h"

namespace prescore::host {

/// The parameters of the operation, kept because rewriting the node overwrites them.
struct FlashParams {
  float scale = 1;
  float max_bias = 0;  ///< ALiBi where not 0
  float softcap = 0;
  std::int32_t n_kv_max = 0;  ///< a host's promise of sparse masks; 0: none
};
FlashParams read_flash_params(const ggml_tensor* node);

/// Empty where prescore computes this node, else why not, in the words that users see. Nodes with
/// fewer than `min_queries` queries are left as well. Looks at shapes, types and parameters only.
std::string why_left(const ggml_tensor* node, const FlashParams& params, std::int64_t min_queries);

/// Views of stream `s` as the library wants them: [1, h, n, d], strides in elements. `n` keys.
Tensor query_view(const ggml_tensor* q, std::int64_t s);
Tensor key_view(const ggml_tensor* k, std::int64_t s, std::int64_t n);
MutTensor output_view(const ggml_tensor* dst, std::int64_t s);

}  // namespace prescore::host
