// Device copies of test tensors, and one call taken apart so that its plan and index can be read.
#pragma once

#include <cuda_runtime.h>

#include <vector>

#include "attend/attend_cuda.cuh"
#include "common/call_cuda.cuh"
#include "index/index_cuda.cuh"
#include "support/cases.h"

namespace prescore::test {

inline bool have_gpu() { return !gpus().empty(); }
#define PRESCORE_NEEDS_GPU() \
  if (!have_gpu()) GTEST_SKIP() << "no GPU"

inline void ok(cudaError_t e) { ASSERT_EQ(e, cudaSuccess) << cudaGetErrorString(e); }

template <typename T>
class DeviceArray {
 public:
  explicit DeviceArray(std::size_t n) : n_(n) { ok(cudaMalloc(&data_, n * sizeof(T))); }
  explicit DeviceArray(const std::vector<T>& from) : DeviceArray(from.size()) {
    ok(cudaMemcpy(data_, from.data(), n_ * sizeof(T), cudaMemcpyHostToDevice));
  }
  ~DeviceArray() { (void)cudaFree(data_); }
  DeviceArray(const DeviceArray&) = delete;
  DeviceArray& operator=(const DeviceArray&) = delete;
  T* data() const { return data_; }
  std::vector<T> get() const {
    std::vector<T> host(n_);
    ok(cudaMemcpy(host.data(), data_, n_ * sizeof(T), cudaMemcpyDeviceToHost));
    return host;
  }

 private:
  T* data_ = nullptr;
  std::size_t n_;
};

template <typename T>
std::vector<T> fetch(const T* from, std::int64_t n) {
  std::vector<T> host(static_cast<std::size_t>(n));
  ok(cudaMemcpy(host.data(), from, host.size() * sizeof(T), cudaMemcpyDeviceToHost));
  return host;
}

/// A tensor's memory, gaps included, on the device.
class Mirror {
 public:
  explicit Mirror(const Tensor& t) : host_(t), bytes_(span(t)), device_(bytes_) {
    ok(cudaMemcpy(device_.data(), t.data, bytes_, cudaMemcpyHostToDevice));
  }
  Tensor view() const {
    Tensor t = host_;
    t.data = device_.data();
    return t;
  }
  MutTensor out() const { return {device_.data(), host_.dtype, host_.shape, host_.stride}; }
  void copy_back() const {
    ok(cudaMemcpy(const_cast<void*>(host_.data), device_.data(), bytes_, cudaMemcpyDeviceToHost));
  }

 private:
  static std::size_t span(const Tensor& t) {
    std::int64_t last = 0;
    for (std::size_t i = 0; i < 4; ++i) last += (t.shape[i] - 1) * t.stride[i];
    return static_cast<std::size_t>((last + 1) * size_of(t.dtype));
  }
  Tensor host_;
  std::size_t bytes_;
  DeviceArray<unsigned char> device_;
};

/// A test case on the device; run() leaves o and lse in the case's own storage.
struct DeviceCase {
  explicit DeviceCase(Data& d)
      : data(d), q(d.q.view()), k(d.k.view()), v(d.v.view()), o(d.o.view()), lse(d.lse.view()) {}
  State state() const { return {o.out(), static_cast<float*>(lse.out().data)}; }
  Report run(Options options) {
    options.device = Device::kCuda;
    options.causal = data.shape.causal;
    options.scale = data.scale();
    const Report r = attention(q.view(), k.view(), v.view(), state(), options);
    ok(cudaDeviceSynchronize());
    o.copy_back(), lse.copy_back();
    return r;
  }
  Data& data;
  Mirror q, k, v, o, lse;
};

}  // namespace prescore::test
