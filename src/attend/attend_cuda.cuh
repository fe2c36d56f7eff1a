// Stage `attend` on the GPU.
#pragma once

#include "common/device.cuh"
#include "common/launch.cuh"

namespace prescore::cuda {

/// Executes plans: o and lse of their tiles and heads. `index` is needed where there are stand-ins.
template <typename T>
void attend(const Problem&, const PlanView&, const IndexView&, cudaStream_t);

/// The same on compute capability 9.0, for heads of at most 128.
template <typename T>
void attend_hopper(const Problem&, const PlanView&, const IndexView&, cudaStream_t);

}  // namespace prescore::cuda
