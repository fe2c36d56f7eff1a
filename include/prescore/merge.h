// Stage `merge`: exact combination of attention over disjoint sets of keys.
#pragma once

#include "prescore/types.h"

namespace prescore {

/// into <- into (+) other, by log-sum-exp. Both o are [b, h, n, d_v] fp32 with lse [b, h, n] dense,
/// over disjoint sets of keys. An empty part (lse = -inf) changes nothing; two empty parts stay
/// empty; never NaN from infinities. Throws Error on mismatched shapes or a null lse.
void merge(const State& into, const State& other);

/// The same of tensors on the GPU, in the order of `stream` (a cudaStream_t): both o f32, f16 or
/// bf16, alike, as attention with device cuda writes them. Throws as above, where the dtypes
/// differ, and in a build without CUDA.
void merge_cuda(const State& into, const State& other, void* stream);

}  // namespace prescore
