// Errors of the CUDA runtime as prescore::Error, and the device that a call runs on.
#pragma once

#include <cuda_runtime.h>

#include <algorithm>
#include <cstdlib>
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
  DeviceScope(const void* array, const char* stage, const char* name) : stage_(stage) {
    if (array == nullptr) return;  // of no elements
    device_ = look_at(array, name).device;
    check_cuda(cudaGetDevice(&before_), stage, "the current device");
    check_cuda(cudaSetDevice(device_), stage, "another device");
  }
  ~DeviceScope() {
    if (before_ >= 0) cudaSetDevice(before_);
  }
  DeviceScope(const DeviceScope&) = delete;
  DeviceScope& operator=(const DeviceScope&) = delete;

  /// Throws Error where another array of the call is the host's, or another device's.
  void check_here(const void* array, const char* name) const {
    if (array == nullptr || device_ < 0) return;
    const cudaPointerAttributes at = look_at(array, name);
    if (at.type == cudaMemoryTypeDevice && at.device != device_)
      fail(stage_, std::string("memory of ") + name, "GPU " + std::to_string(at.device) + "'s",
           "GPU " + std::to_string(device_) + "'s, as the first array's");
  }

 private:
  cudaPointerAttributes look_at(const void* array, const char* name) const {
    cudaPointerAttributes at{};
    check_cuda(cudaPointerGetAttributes(&at, array), stage_, "looking at memory");
    if (at.type == cudaMemoryTypeUnregistered)
      fail(stage_, std::string("memory of ") + name, "the host's", "a GPU's");
    return at;
  }

  const char* stage_;
  int device_ = -1, before_ = -1;
};

/// PRESCORE_CUDA_GENERIC=1: every GPU is taken for one of compute capability 8.0, as tests do.
inline bool generic_wanted() {
  const char* generic = std::getenv("PRESCORE_CUDA_GENERIC");
  return generic != nullptr && *generic == '1';
}
/// The current device takes the kernels for compute capability 9.0. A build whose architectures
/// lack 90a has them not.
bool on_hopper(const char* stage);
/// Bytes of shared memory that a block may have on the current device.
inline int most_shared(const char* stage) {
  int device = 0, bytes = 0;
  check_cuda(cudaGetDevice(&device), stage, "the current device");
  check_cuda(cudaDeviceGetAttribute(&bytes, cudaDevAttrMaxSharedMemoryPerBlockOptin, device), stage,
             "the shared memory of a block");
  constexpr int kGeneric = 163 * 1024;
  return generic_wanted() ? std::min(bytes, kGeneric) : bytes;
}
/// Lets a kernel have more than 48 KB of it.
template <typename Kernel>
void allow_shared(Kernel* kernel, int bytes, const char* stage) {
  if (const int most = most_shared(stage); bytes > most)
    fail(stage, "shared memory of a block on this GPU", std::to_string(most) + " bytes",
         std::to_string(bytes) + ": smaller heads need less");
  check_cuda(cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes),
             stage, "shared memory of a kernel");
}

}  // namespace prescore::cuda
