// Errors of the CUDA runtime as prescore::Error, and the device that a call runs on.
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
/// While it lives the current device is the one whose memory an array lies in.
class DeviceScope {
 public:
  /// Throws Error where the array is the host's.
  DeviceScope(const void* array, const char* stage, const char* name) {
    if (array == nullptr) return;  // of no elements
    cudaPointerAttributes at{};
    check_cuda(cudaPointerGetAttributes(&at, array), stage, "looking at memory");
    if (at.type == cudaMemoryTypeUnregistered)
      fail(stage, std::string("memory of ") + name, "the host's", "a GPU's");
    check_cuda(cudaGetDevice(&before_), stage, "the current device");
    check_cuda(cudaSetDevice(at.device), stage, "another device");
  }
  ~DeviceScope() {
    if (before_ >= 0) cudaSetDevice(before_);
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

 private:
  int before_ = -1;
};

/// Lets a kernel have more than 48 KB of shared memory.
template <typename Kernel>
void allow_shared(Kernel* kernel, int bytes, const char* stage) {
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             stage, "shared memory of a kernel");
}

}  // namespace prescore::cuda
