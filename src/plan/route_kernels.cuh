// The two halves of routing, by head size and by columns of a tile.
#pragma once

#include "common/mma.cuh"
#include "plan/plan_cuda.cuh"

namespace prescore::cuda {

/// route.code and route.total of every tile that does not read everything.
template <typename T, int D, int kMine>
void score_groups(const Problem&, const PlanView&, const IndexView&, const Route&, cudaStream_t);
/// The same on compute capability 9.0, where it is faster: D = 128, and 64 with few columns.
template <typename T, int D, int kMine>
void score_groups_hopper(const Problem&, const PlanView&, const IndexView&, const Route&,
                         cudaStream_t);

/// From them reads and lists, for every tile.
template <typename T, int D, int kMine>
void choose_clusters(const Problem&, const PlanView&, const IndexView&, const Route&, cudaStream_t);

#define PRESCORE_FOR_ONE_SIZE(function, T, D)                                                   \
  template void function<T, D, kFewColumns>(const Problem&, const PlanView&, const IndexView&,  \
                                            const Route&, cudaStream_t);                        \
  template void function<T, D, kManyColumns>(const Problem&, const PlanView&, const IndexView&, \
                                             const Route&, cudaStream_t);
#define PRESCORE_FOR_ALL_SIZES(function)     \
  PRESCORE_FOR_ONE_SIZE(function, bf16, 64)  \
  PRESCORE_FOR_ONE_SIZE(function, bf16, 128) \
  PRESCORE_FOR_ONE_SIZE(function, bf16, 256) \
  PRESCORE_FOR_ONE_SIZE(function, f16, 64)   \
  PRESCORE_FOR_ONE_SIZE(function, f16, 128)  \
  PRESCORE_FOR_ONE_SIZE(function, f16, 256)

}  // namespace prescore::cuda
