// Stage `index` on the GPU: the tree over each segment, in the layout of KeyIndex.
#pragma once

#include "common/device.cuh"
#include "common/launch.cuh"

namespace prescore::cuda {

inline constexpr int kMaxClusters = 64, kMaxGroups = 16;

/// Builds every segment of index.segment for every key head.
template <typename T>
void build_index(const Problem&, const IndexView&, cudaStream_t);

}  // namespace prescore::cuda
