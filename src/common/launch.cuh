// Errors of the CUDA runtime as prescore::Error.
#pragma once

#include <cuda_runtime.h>

#include <string>

#include "common/check.h"

namespace prescore::cuda {

inline void check_cuda(cudaError_t e, const char* stage, const char* what) {
  if (e == cudaSuccess) return;
  (void)cudaGetLastError();  // or the next launch would be blamed for it
  fail(stage, std::string(what) + " on the GPU", std::string(cudaGetErrorName(e)),
       std::string("success (") + cudaGetErrorString(e) + ")");
}
inline void check_launch(const char* stage, const char* kernel) {
  check_cuda(cudaGetLastError(), stage, kernel);
}
/// Lets a kernel have more than 48 KB of shared memory.
template <typename Kernel>
void allow_shared(Kernel* kernel, int bytes, const char* stage) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             stage, "shared memory of a kernel");
}

}  // namespace prescore::cuda
