// PTX of sm_80 and later: asynchronous copies, matrix fragments, products.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

namespace prescore::cuda {

using bf16 = __nv_bfloat16;
using f16 = __half;

__device__ __forceinline__ std::uint32_t smem_address(const void* p) {
  return static_cast<std::uint32_t>(__cvta_generic_to_shared(p));
}

/// 16 bytes global -> shared; zeros where not `valid`.
__device__ __forceinline__ void copy16(std::uint32_t to, const void* from, bool valid) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;\n" ::"r"(to), "l"(from),
               "r"(valid ? 16 : 0)
               : "memory");
}
__device__ __forceinline__ void commit() { asm volatile("cp.async.commit_group;\n" ::: "memory"); }
template <int kPending>
__device__ __forceinline__ void wait() {
  asm volatile("cp.async.wait_group %0;\n" ::"n"(kPending) : "memory");
}

/// A matrix of 16-bit elements in shared memory is a row of panels of 64 columns. Within a panel a
/// row has 128 bytes, whose 16-byte chunks are permuted by the row (the 128-byte swizzle of Hopper,
/// free of bank conflicts for ldmatrix too). `chunk` counts 8 columns each.
__device__ __forceinline__ std::uint32_t swizzled(int rows, int row, int chunk) {
  return static_cast<std::uint32_t>((chunk >> 3) * rows * 128 + row * 128 +
                                    (((chunk & 7) ^ (row & 7)) << 4));
}

__device__ __forceinline__ void load_matrix(std::uint32_t (&r)[4], std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}
__device__ __forceinline__ void load_matrix_transposed(std::uint32_t (&r)[4],
                                                       std::uint32_t address) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0,%1,%2,%3}, [%4];\n"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(address)
               : "memory");
}

/// c[16 x 8] += a[16 x 16] b[16 x 8]; rows lane / 4 and + 8, columns 2 (lane % 4) and + 1.
template <typename T>
__device__ __forceinline__ void multiply(float (&c)[4], const std::uint32_t (&a)[4],
                                         std::uint32_t b0, std::uint32_t b1) {
  if constexpr (sizeof(T) == 2 && std::is_same_v<T, bf16>) {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  } else {
    asm volatile(
        "mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0,%1,%2,%3}, {%4,%5,%6,%7}, "
        "{%8,%9}, {%0,%1,%2,%3};\n"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
  }
}

/// Fragment a of rows [row, row + 16), columns [16 k, 16 k + 16).
__device__ __forceinline__ void load_a(std::uint32_t (&a)[4], std::uint32_t base, int rows, int row,
                                       int k, int lane) {
  load_matrix(a, base + swizzled(rows, row + (lane & 15), 2 * k + (lane >> 4)));
}
/// Fragments b of two blocks of 8 columns, which are rows [row, row + 16) of memory: {b[0], b[1]}
/// and {b[2], b[3]}.
__device__ __forceinline__ void load_b(std::uint32_t (&b)[4], std::uint32_t base, int rows, int row,
                                       int k, int lane) {
  load_matrix(
      b, base + swizzled(rows, row + (lane & 7) + ((lane & 16) >> 1), 2 * k + ((lane >> 3) & 1)));
}
/// The same where memory has columns [16 n, 16 n + 16) of rows [row, row + 16).
__device__ __forceinline__ void load_b_transposed(std::uint32_t (&b)[4], std::uint32_t base,
                                                  int rows, int row, int n, int lane) {
  load_matrix_transposed(b, base + swizzled(rows, row + (lane & 15), 2 * n + (lane >> 4)));
}

template <typename T>
__device__ __forceinline__ std::uint32_t pack(float x, float y) {
  if constexpr (std::is_same_v<T, bf16>) {
    const __nv_bfloat162 p = __floats2bfloat162_rn(x, y);
    return *reinterpret_cast<const std::uint32_t*>(&p);
  } else {
    const __half2 p = __floats2half2_rn(x, y);
    return *reinterpret_cast<const std::uint32_t*>(&p);
  }
}
template <typename T>
__device__ __forceinline__ float2 unpack(std::uint32_t x) {
  if constexpr (std::is_same_v<T, bf16>)
    return __bfloat1622float2(*reinterpret_cast<const __nv_bfloat162*>(&x));
  else
    return __half22float2(*reinterpret_cast<const __half2*>(&x));
}

/// In each half 1 where the halves of x and y have the same bits, else 0. No half may be a number
/// whose bits differ from those of an equal one (-0), and NaN equals nothing.
template <typename T>
__device__ __forceinline__ std::uint32_t ones_where_equal(std::uint32_t x, std::uint32_t y) {
  using Two = std::conditional_t<std::is_same_v<T, bf16>, __nv_bfloat162, __half2>;
  const Two ones = __heq2(*reinterpret_cast<const Two*>(&x), *reinterpret_cast<const Two*>(&y));
  return *reinterpret_cast<const std::uint32_t*>(&ones);
}

/// 2^x to about 2 ulp; denormal results are zero.
__device__ __forceinline__ float fast_exp2(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

/// Base-2 logarithm of x, absolute error about 2^-22 near 1; of 0 it is -infinity.
__device__ __forceinline__ float fast_log2(float x) {
  float y;
  asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

__device__ __forceinline__ float quad_max(float x) {
  x = fmaxf(x, __shfl_xor_sync(~0u, x, 1));
  return fmaxf(x, __shfl_xor_sync(~0u, x, 2));
}
__device__ __forceinline__ float quad_sum(float x) {
  x += __shfl_xor_sync(~0u, x, 1);
  return x + __shfl_xor_sync(~0u, x, 2);
}

}  // namespace prescore::cuda
