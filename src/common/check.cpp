#include "common/check.h"

#include <limits>

namespace prescore {

std::string_view version() noexcept { return PRESCORE_VERSION; }

std::string to_string(const std::array<std::int64_t, 4>& shape) {
  std::string text = "[";
  for (std::size_t i = 0; i < 4; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

void check_tensor(const Tensor& t, std::string_view stage, std::string_view what) {
  const std::string name(what);
  if (t.dtype != DType::kF32 && t.dtype != DType::kF16 && t.dtype != DType::kBF16)
    fail(stage, name + " dtype", std::to_string(static_cast<int>(t.dtype)), "f32, f16 or bf16");
  for (const std::int64_t s : t.shape)
    if (s < 1) fail(stage, name + " shape", to_string(t.shape), "every size at least 1");
  if (t.data == nullptr) fail(stage, name + " data", "null", "a pointer");
  // The furthest element must be addressable in bytes.
  constexpr std::int64_t kMax = std::numeric_limits<std::int64_t>::max() / 8;
  std::int64_t last = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    if (t.stride[i] < 0) fail(stage, name + " strides", to_string(t.stride), "none negative");
    std::int64_t step = 0;
    if (__builtin_mul_overflow(t.stride[i], t.shape[i] - 1, &step) ||
        __builtin_add_overflow(last, step, &last) || last > kMax)
      fail(stage, name + " strides", to_string(t.stride), "offsets that fit in 64 bits");
  }
  if (t.shape[3] > 1 && t.stride[3] != 1)
    fail(stage, name + " stride of the last axis", std::to_string(t.stride[3]), "1");
}

void check_apart(const MutTensor& t, std::string_view stage, std::string_view what) {
  for (std::size_t i = 0; i < 4; ++i)
    if (t.shape[i] > 1 && t.stride[i] == 0)
      fail(stage, std::string(what) + " strides", to_string(t.stride),
           "none zero: elements would share memory");
}

}  // namespace prescore
