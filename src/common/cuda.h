// The GPU behind the one call. Without CUDA cuda_absent.cpp stands in for it.
#pragma once

#include "prescore/attention.h"

namespace prescore::cuda {

Report attention(const Tensor& q, const Tensor& k, const Tensor& v, const State& out,
                 const Options&);
void merge(const State& into, const State& other, void* stream);
void score_keys(const Tensor& k, std::int64_t n, const ScoreOptions&, float* out, void* stream);
std::int64_t workspace_bytes(const Tensor& q, const Tensor& k, const Tensor& v, const Options&);

}  // namespace prescore::cuda
