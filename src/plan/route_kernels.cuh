// The two halves of routing, by head size.
#pragma once

#include "common/mma.cuh"
#include "plan/plan_cuda.cuh"

namespace prescore::cuda {

/// route.rank and route.total of every tile that does not read everything.
template <typename T, int D>
void score_groups(const Problem&, const PlanView&, const IndexView&, const Route&, cudaStream_t);

/// From them reads and lists, for every tile.
template <typename T, int D>
void choose_clusters(const Problem&, const PlanView&, const IndexView&, const Route&, cudaStream_t);

#define PRESCORE_FOR_ALL_SIZES(function)                                                           \
  template void function<bf16, 64>(const Problem&, const PlanView&, const IndexView&,              \
                                   const Route&, cudaStream_t);                                    \
  template void function<bf16, 128>(const Problem&, const PlanView&, const IndexView&,             \
                                    const Route&, cudaStream_t);                                   \
  template void function<bf16, 256>(const Problem&, const PlanView&, const IndexView&,             \
                                    const Route&, cudaStream_t);                                   \
  template void function<f16, 64>(const Problem&, const PlanView&, const IndexView&, const Route&, \
                                  cudaStream_t);                                                   \
  template void function<f16, 128>(const Problem&, const PlanView&, const IndexView&,              \
                                   const Route&, cudaStream_t);                                    \
  template void function<f16, 256>(const Problem&, const PlanView&, const IndexView&,              \
                                   const Route&, cudaStream_t);

}  // namespace prescore::cuda
