// Stage `score` on the GPU: one number a key, [batch][h_kv][n_kv], larger is better.
#pragma once

#include "common/device.cuh"
#include "common/launch.cuh"
#include "prescore/score.h"

namespace prescore::cuda {

/// Most keys of scores that are fitted, and most clusters and columns: a block has a (batch, head).
inline constexpr int kMostFitted = 4096, kMostCentres = 64, kMostColumns = 128;

/// Throws Error where the GPU lacks the score for such a call.
void check_score(const ScoreOptions&, bool causal, bool packed, std::int64_t n, std::int64_t d);

/// As score_keys: random and norms of any call; leverage with a ridge and k-means of one that is
/// not causal, fitted to all its keys. Draws are those of the CPU; sums are in fp32.
template <typename T>
void score_keys(const Problem&, const ScoreOptions&, float* out, cudaStream_t);

/// Scores become log p + Gumbel noise: the best of them are a draw in proportion to p.
void perturb_scores(const Problem&, std::uint64_t seed, float* scores, cudaStream_t);

}  // namespace prescore::cuda
