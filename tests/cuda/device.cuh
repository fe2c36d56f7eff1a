// Device copies of test tensors, and one call taken apart so that its plan and index can be read.
#pragma once

#include <cuda_runtime.h>

#include <cstdlib>
#include <optional>
#include <string>
#include <vector>

#include "attend/attend_cuda.cuh"
#include "common/call_cuda.cuh"
#include "index/index_cuda.cuh"
#include "support/cases.h"

namespace prescore::test {

inline bool have_gpu() { return !gpus().empty(); }
#define PRESCORE_NEEDS_GPU() \
  if (!have_gpu()) GTEST_SKIP() << "no GPU"

/// While it lives calls take the kernels of this GPU (TUNED), or those for all of them (GENERIC).
class UseKernels {
 public:
  explicit UseKernels(const std::string& which) {
    setenv("PRESCORE_CUDA_GENERIC", which == "GENERIC" ? "1" : "0", 1);
  }
  ~UseKernels() { unsetenv("PRESCORE_CUDA_GENERIC"); }
  UseKernels(const UseKernels&) = delete;
  UseKernels& operator=(const UseKernels&) = delete;
};
/// Tests that run with each.
class EachKernel : public testing::TestWithParam<const char*> {
 protected:
  void SetUp() override {
    if (!have_gpu()) GTEST_SKIP() << "no GPU";
    kernels_.emplace(GetParam());
  }

 private:
  std::optional<UseKernels> kernels_;
};
#define PRESCORE_WITH_EACH_KERNEL(suite)                                 \
  INSTANTIATE_TEST_SUITE_P(, suite, testing::Values("TUNED", "GENERIC"), \
                           [](const auto& i) { return std::string(i.param); })

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

/// A case of bf16.
inline Case gpu_case(std::int64_t b, std::int64_t h_q, std::int64_t h_kv, std::int64_t n_q,
                     std::int64_t n_kv, std::int64_t d, std::int64_t d_v) {
  Case c;
  c.b = b, c.h_q = h_q, c.h_kv = h_kv, c.n_q = n_q, c.n_kv = n_kv, c.d = d, c.d_v = d_v;
  c.q_type = c.kv_type = c.o_type = DType::kBF16;
  return c;
}
inline Options method(Method m, std::int64_t budget = 700) {
  Options o;
  o.plan.method = m;
  o.plan.budget = budget;
  return o;
}

/// to <- the rows of `from` from `shift` on.
inline void copy_rows(Storage& to, const Storage& from, std::int64_t shift) {
  for (std::int64_t b = 0; b < to.shape()[0]; ++b)
    for (std::int64_t h = 0; h < to.shape()[1]; ++h)
      for (std::int64_t i = 0; i < to.shape()[2]; ++i)
        for (std::int64_t x = 0; x < to.shape()[3]; ++x)
          to.set(b, h, i, x, from.get(b, h, i + shift, x));
}
/// Whether `part` is the rows of `whole` from `shift` on.
inline void expect_rows(const Storage& part, const Storage& whole, std::int64_t shift) {
  for (std::int64_t b = 0; b < part.shape()[0]; ++b)
    for (std::int64_t h = 0; h < part.shape()[1]; ++h)
      for (std::int64_t i = 0; i < part.shape()[2]; ++i)
        for (std::int64_t x = 0; x < part.shape()[3]; ++x)
          ASSERT_EQ(part.get(b, h, i, x), whole.get(b, h, i + shift, x))
              << "from " << shift << ", head " << h << ", row " << i << ", column " << x;
}

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

/// A call whose stages run one by one, in memory that outlives it; its tables are filled.
struct LaidOut {
  LaidOut(Data& data, Options o)
      : c(data.shape), device(data), call([&] {
          o.device = Device::kCuda, o.causal = c.causal, o.scale = data.scale();
          return cuda::prepare(device.q.view(), device.k.view(), device.v.view(), o);
        }()),
        memory(workspace(o)) {
    ok(cudaMemset(memory.data(), 0xcd, workspace(o)));  // nothing relies on zeros
    cuda::Arena arena(memory.data());
    cuda::lay_out(o, arena, call);
    call.problem.o = cuda::view(device.o.view());
    call.problem.lse = static_cast<float*>(const_cast<void*>(device.lse.view().data));
    cuda::make_tables(call.problem, call.tile, call.tiles, call.segment, call.index.segments,
                      nullptr);
    cuda::put_lists(call.plan.table, call.lists, call.head_of, nullptr);
  }
  /// Of a call whose heads all have the same budget:
  int share() const { return call.lists[0].heads; }  ///< heads of a list
  int capacity() const { return call.lists[0].capacity; }
  const cuda::Route& route() const { return call.classes[0].route; }
  /// After planning: what is listed, of all tiles and lists.
  void fetch_plans() {
    ok(cudaDeviceSynchronize());
    const std::int64_t lists = call.plan.lists, plans = lists * call.plan.tiles;
    EXPECT_EQ(call.waves.size(), 1u) << "the case must fit one wave";
    tiles = fetch(call.tile, call.plan.tiles);
    reads = fetch(call.plan.reads, plans);
    list = fetch(call.plan.list, plans * capacity());
  }
  /// Of query head h and tile t, in `reads`, and by capacity in `list`.
  std::int64_t plan_of(std::int64_t h, std::int64_t t) const {
    return h / share() * call.plan.tiles + t;
  }

  Case c;
  DeviceCase device;
  cuda::Call call;
  DeviceArray<char> memory;
  std::vector<cuda::TileInfo> tiles;
  std::vector<cuda::Reads> reads;
  std::vector<std::int32_t> list;

 private:
  std::size_t workspace(const Options& o) {
    cuda::Arena sizing;
    cuda::lay_out(o, sizing, call);
    return static_cast<std::size_t>(sizing.used());
  }
};

}  // namespace prescore::test
