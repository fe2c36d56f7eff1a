// Addresses of rows, and conversions of single elements.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <new>
#include <utility>

#include "prescore/types.h"

namespace prescore {

inline const std::byte* row(const Tensor& t, std::int64_t b, std::int64_t h,
                            std::int64_t n) noexcept {
  return static_cast<const std::byte*>(t.data) +
         (b * t.stride[0] + h * t.stride[1] + n * t.stride[2]) * size_of(t.dtype);
}
inline std::byte* row(const MutTensor& t, std::int64_t b, std::int64_t h, std::int64_t n) noexcept {
  return static_cast<std::byte*>(t.data) +
         (b * t.stride[0] + h * t.stride[1] + n * t.stride[2]) * size_of(t.dtype);
}

inline float bf16_to_f32(std::uint16_t x) noexcept {
  return std::bit_cast<float>(static_cast<std::uint32_t>(x) << 16);
}
/// Round to nearest even; NaN stays NaN.
inline std::uint16_t f32_to_bf16(float x) noexcept {
  const auto u = std::bit_cast<std::uint32_t>(x);
  if ((u & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((u >> 16) | 0x40u);
  return static_cast<std::uint16_t>((u + 0x7fffu + ((u >> 16) & 1u)) >> 16);
}
inline float f16_to_f32(std::uint16_t h) noexcept {
  const std::uint32_t sign = (h & 0x8000u) << 16, e = (h >> 10) & 31u, m = h & 0x3ffu;
  if (e == 31) return std::bit_cast<float>(sign | 0x7f800000u | (m << 13));
  if (e == 0) {  // zero and subnormals: m * 2^-24 exactly
    const float f = static_cast<float>(m) * 0x1p-24f;
    return sign ? -f : f;
  }
  return std::bit_cast<float>(sign | ((e + 112u) << 23) | (m << 13));
}
/// Round to nearest even; overflow becomes infinity.
inline std::uint16_t f32_to_f16(float x) noexcept {
  const auto u = std::bit_cast<std::uint32_t>(x);
  const auto sign = static_cast<std::uint16_t>((u >> 16) & 0x8000u);
  const std::uint32_t a = u & 0x7fffffffu;
  if (a > 0x7f800000u) return static_cast<std::uint16_t>(sign | 0x7e00u);
  if (a >= 0x477ff000u) return static_cast<std::uint16_t>(sign | 0x7c00u);
  if (a < 0x38800000u) {  // subnormal: adding 0.5 aligns the mantissa and rounds
    const float f = std::bit_cast<float>(a) + 0.5f;
    return static_cast<std::uint16_t>(sign | (std::bit_cast<std::uint32_t>(f) - 0x3f000000u));
  }
  const std::uint32_t odd = (a >> 13) & 1u;
  return static_cast<std::uint16_t>(sign | ((a - 0x38000000u + 0xfffu + odd) >> 13));
}

inline float load_element(const void* p, DType t, std::int64_t i) noexcept {
  if (t == DType::kF32) return static_cast<const float*>(p)[i];
  const std::uint16_t x = static_cast<const std::uint16_t*>(p)[i];
  return t == DType::kF16 ? f16_to_f32(x) : bf16_to_f32(x);
}
inline void store_element(void* p, DType t, std::int64_t i, float x) noexcept {
  if (t == DType::kF32)
    static_cast<float*>(p)[i] = x;
  else
    static_cast<std::uint16_t*>(p)[i] = t == DType::kF16 ? f32_to_f16(x) : f32_to_bf16(x);
}

/// Uninitialised memory aligned for any vector. Grows, never shrinks.
template <typename T>
class Buffer {
 public:
  Buffer() = default;
  explicit Buffer(std::int64_t n) { reserve(n); }
  Buffer(Buffer&& other) noexcept { swap(other); }
  Buffer& operator=(Buffer&& other) noexcept {
    swap(other);
    return *this;
  }
  ~Buffer() { release(); }

  /// At least n elements; contents are lost where it grows.
  T* reserve(std::int64_t n) {
    if (n > size_) {
      release();
      data_ = static_cast<T*>(
          ::operator new (static_cast<std::size_t>(n) * sizeof(T), std::align_val_t{64}));
      size_ = n;
    }
    return data_;
  }
  T* data() noexcept { return data_; }
  const T* data() const noexcept { return data_; }
  T& operator[](std::int64_t i) noexcept { return data_[i]; }
  const T& operator[](std::int64_t i) const noexcept { return data_[i]; }
  std::int64_t size() const noexcept { return size_; }
  std::int64_t bytes() const noexcept { return size_ * static_cast<std::int64_t>(sizeof(T)); }
  void swap(Buffer& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(size_, other.size_);
  }

 private:
  void release() noexcept {
    if (data_ != nullptr) ::operator delete (static_cast<void*>(data_), std::align_val_t{64});
    data_ = nullptr;
    size_ = 0;
  }
  T* data_ = nullptr;
  std::int64_t size_ = 0;
};

constexpr int cache_lines(std::int64_t bytes) noexcept {
  return static_cast<int>((bytes + 63) / 64);
}
/// Asks for a row that is read soon.
inline void prefetch_row(const void* row, int lines) noexcept {
  for (int i = 0; i < lines; ++i) __builtin_prefetch(static_cast<const std::byte*>(row) + i * 64);
}

constexpr std::int64_t round_up(std::int64_t n, std::int64_t m) noexcept {
  return (n + m - 1) / m * m;
}

}  // namespace prescore
