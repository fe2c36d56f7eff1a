// Scores that are fitted to all keys of a head.
#pragma once

#include "score/score_cuda.cuh"

namespace prescore::cuda {

/// Leverage with a ridge, or k-means.
template <typename T>
void score_fitted(const Problem&, const ScoreOptions&, float* out, cudaStream_t);

}  // namespace prescore::cuda
