// Stage `merge` on the GPU: a warp has a row of two partial results.
#include "common/call_cuda.cuh"
#include "common/cuda.h"

namespace prescore::cuda {
namespace {

constexpr int kThreads = 256, kRows = kThreads / 32;

struct Part {
  View o;
  float* lse;  ///< [b][h][n]
};

template <typename T>
__device__ __forceinline__ float load(const T* p) {
  return static_cast<float>(*p);
}

template <typename T>
__global__ void merge_kernel(Part into, Part other, int h, int n, int d, std::int64_t rows) {
  const std::int64_t i = std::int64_t{blockIdx.x} * kRows + threadIdx.x / 32;
  if (i >= rows) return;
  const float x = into.lse[i], y = other.lse[i];
  if (y == -INFINITY) return;
  // Weights relative to the larger part. Equal infinities are one point each, not NaN.
  const float top = fmaxf(x, y);
  const float wx = x == -INFINITY ? 0.0f : x == top ? 1.0f : expf(x - top);
  const float wy = y == top ? 1.0f : expf(y - top);
  const float sum = wx + wy;
  T* o = const_cast<T*>(row<T>(into.o, i / n / h, i / n % h, i % n));
  const T* p = row<T>(other.o, i / n / h, i / n % h, i % n);
  const int lane = static_cast<int>(threadIdx.x) % 32;
  for (int c = lane; c < d; c += 32) {
    // What has no weight is not looked at: it may be anything.
    const float a = wx == 0 ? 0.0f : wx * load(o + c);
    o[c] = static_cast<T>((a + wy * load(p + c)) / sum);
  }
  __syncwarp();  // every lane has read it
  if (lane == 0) into.lse[i] = x == -INFINITY ? y : top + logf(sum);
}

template <typename T>
void launch(const State& into, const State& other, cudaStream_t stream) {
  const auto& [b, h, n, d] = into.o.shape;
  const std::int64_t rows = b * h * n;
  if (rows == 0) return;
  const auto part = [](const State& s) {
    return Part{{s.o.data, s.o.stride[0], s.o.stride[1], s.o.stride[2]}, s.lse};
  };
  merge_kernel<T><<<static_cast<unsigned>((rows + kRows - 1) / kRows), kThreads, 0, stream>>>(
      part(into), part(other), static_cast<int>(h), static_cast<int>(n), static_cast<int>(d), rows);
  check_launch("merge", "merge_kernel");
}

}  // namespace

void merge(const State& into, const State& other, void* on) {
  const DeviceScope device(into.o.data, "merge", "into.o");
  device.check_here(into.lse, "into.lse"), device.check_here(other.lse, "other.lse");
  device.check_here(other.o.data, "other.o");
  const auto stream = static_cast<cudaStream_t>(on);
  switch (into.o.dtype) {
    case DType::kF32: return launch<float>(into, other, stream);
    case DType::kF16: return launch<f16>(into, other, stream);
    case DType::kBF16: return launch<bf16>(into, other, stream);
  }
}

}  // namespace prescore::cuda
