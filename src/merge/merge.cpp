#include "prescore/merge.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/check.h"
#include "common/cuda.h"
#include "common/views.h"

namespace prescore {

namespace {

void check_parts(const State& into, const State& other) {
  check_tensor(into.o, "merge", "into.o");
  check_tensor(other.o, "merge", "other.o");
  if (into.o.shape != other.o.shape) {
    fail("merge", "shape of other.o", to_string(other.o.shape), to_string(into.o.shape));
  }
  if (into.lse == nullptr || other.lse == nullptr) fail("merge", "lse", "null", "a pointer");
}

}  // namespace

void merge_cuda(const State& into, const State& other, void* stream) {
  check_parts(into, other);
  check(into.o.dtype == other.o.dtype, "merge", "dtype of other.o", static_cast<int>(other.o.dtype),
        "that of into.o");
  cuda::merge(into, other, stream);
}

void merge(const State& into, const State& other) {
  check_parts(into, other);
  check(into.o.dtype == DType::kF32 && other.o.dtype == DType::kF32, "merge", "dtype of o",
        static_cast<int>(into.o.dtype == DType::kF32 ? other.o.dtype : into.o.dtype), "0 (f32)");

  constexpr float kEmpty = -std::numeric_limits<float>::infinity();
  const auto [b_, h_, n_, d_v] = into.o.shape;
  for (std::int64_t b = 0; b < b_; ++b) {
    for (std::int64_t h = 0; h < h_; ++h) {
      for (std::int64_t i = 0; i < n_; ++i) {
        const std::int64_t at = (b * h_ + h) * n_ + i;
        const float x = into.lse[at], y = other.lse[at];
        if (y == kEmpty) continue;
        float* o = reinterpret_cast<float*>(row(into.o, b, h, i));
        const float* p = reinterpret_cast<const float*>(row(other.o, b, h, i));
        if (x == kEmpty) {
          std::copy(p, p + d_v, o);
          into.lse[at] = y;
          continue;
        }
        // Weights relative to the larger part. Equal infinities are one point each, not NaN.
        const float top = std::max(x, y);
        const float wx = x == top ? 1.0f : std::exp(x - top);
        const float wy = y == top ? 1.0f : std::exp(y - top);
        const float sum = wx + wy;
        for (std::int64_t c = 0; c < d_v; ++c) o[c] = (wx * o[c] + wy * p[c]) / sum;
        into.lse[at] = top + std::log(sum);
      }
    }
  }
}

}  // namespace prescore
