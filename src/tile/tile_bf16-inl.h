// What the AVX512-BF16 and the AMX kernels share: blocks, packing and softmax in bf16 pairs.
// Included only by *_bf16.cpp and *_amx.cpp, which are compiled with the flags that it needs.
#pragma once

#if defined(__GNUC__) && !defined(__clang__)
// GCC's own AVX-512 headers trip over their "undefined" operands (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <immintrin.h>

#include <algorithm>
#include <cstring>

#include "common/views.h"
#include "tile/tile.h"

namespace prescore::tile {
namespace {

inline __mmask16 first(int n) { return static_cast<__mmask16>((1u << n) - 1u); }

// Sixteen elements of any dtype, those from `n` on zero.
inline __m512 load16(const void* p, DType t, int i, __mmask16 m) {
  if (t == DType::kF32) return _mm512_maskz_loadu_ps(m, static_cast<const float*>(p) + i);
  const __m256i h = _mm256_maskz_loadu_epi16(m, static_cast<const std::uint16_t*>(p) + i);
  if (t == DType::kF16) return _mm512_cvtph_ps(h);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(h), 16));
}

// bf16 bits of x, rounded to nearest (ties up), in the high halves; NaN stays NaN for the values
// that arithmetic makes.
inline __m512i rounded(__m512 x) {
  return _mm512_add_epi32(_mm512_castps_si512(x), _mm512_set1_epi32(0x8000));
}
// (lo, hi) as pairs of bf16.
inline __m512i pairs(__m512 lo, __m512 hi) {
  const __m512i l = _mm512_srli_epi32(rounded(lo), 16);
  const __m512i high_half = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
  return _mm512_ternarylogic_epi32(l, rounded(hi), high_half, 0xf8);  // l | (h & mask)
}

// Thirty-two elements of any dtype as bf16, in order.
inline __m512i load32_bf16(const void* p, DType t, int i, int left) {
  if (t == DType::kBF16) {
    const auto m = left >= 32 ? ~__mmask32{0} : static_cast<__mmask32>((1u << left) - 1u);
    return _mm512_maskz_loadu_epi16(m, static_cast<const std::uint16_t*>(p) + i);
  }
  const __m512 a = load16(p, t, i, left >= 16 ? first(16) : first(left));
  const __m512 b = load16(p, t, i + 16, left >= 32 ? first(16) : left > 16 ? first(left - 16) : 0);
  return reinterpret_cast<__m512i>(_mm512_cvtne2ps_pbh(b, a));
}

inline void load_rows_bf16(const void* const* rows, DType t, int n, int n_pad, int d, int d_pad,
                           void* out) {
  auto* to = static_cast<std::uint16_t*>(out);
  for (int j = 0; j < n; ++j, to += d_pad)
    for (int i = 0; i < d_pad; i += 32)
      _mm512_storeu_si512(to + i, load32_bf16(rows[j], t, i, std::max(0, d - i)));
  std::memset(to, 0, static_cast<std::size_t>(n_pad - n) * static_cast<std::size_t>(d_pad) * 2);
}

// Rows of 16 dwords to columns.
inline void transpose16(__m512i r[16]) {
  __m512i t[16];
  for (int i = 0; i < 8; ++i) {
    t[2 * i] = _mm512_unpacklo_epi32(r[2 * i], r[2 * i + 1]);
    t[2 * i + 1] = _mm512_unpackhi_epi32(r[2 * i], r[2 * i + 1]);
  }
  for (int i = 0; i < 4; ++i) {
    r[4 * i] = _mm512_unpacklo_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 1] = _mm512_unpackhi_epi64(t[4 * i], t[4 * i + 2]);
    r[4 * i + 2] = _mm512_unpacklo_epi64(t[4 * i + 1], t[4 * i + 3]);
    r[4 * i + 3] = _mm512_unpackhi_epi64(t[4 * i + 1], t[4 * i + 3]);
  }
  for (int i = 0; i < 4; ++i) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0x88);
    t[i + 4] = _mm512_shuffle_i32x4(r[i], r[i + 4], 0xdd);
    t[i + 8] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0x88);
    t[i + 12] = _mm512_shuffle_i32x4(r[i + 8], r[i + 12], 0xdd);
  }
  for (int i = 0; i < 4; ++i) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0x88);
    r[i + 4] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(t[i], t[i + 8], 0xdd);
    r[i + 12] = _mm512_shuffle_i32x4(t[i + 4], t[i + 12], 0xdd);
  }
}

// Packed Q: [vec][d_pad / 2][16][2]. Row r of a lane vector is query r; 32 of its elements make 16
// pairs, which a transposition turns into 16 rows of one pair of all lanes.
inline void pack_q_bf16(const void* const* rows, DType t, int n, int vecs, int d, int d_pad,
                        void* out) {
  auto* to = static_cast<std::uint32_t*>(out);
  for (int first_row = 0; first_row < vecs * kLanes; first_row += kLanes)
    for (int c = 0; c < d_pad; c += 32, to += 16 * kLanes) {
      __m512i r[16];
      for (int i = 0; i < kLanes; ++i)
        r[i] = first_row + i < n ? load32_bf16(rows[first_row + i], t, c, std::max(0, d - c))
                                 : _mm512_setzero_si512();
      transpose16(r);
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * kLanes, r[i]);
    }
}

// 2^x with a relative error of 1e-4, a twentieth of bf16's rounding; x from -3e38 to 127.
inline __m512 exp2_bf16(__m512 x) {
  const __m512 f = _mm512_reduce_ps(x, _MM_FROUND_TO_NEG_INF | _MM_FROUND_NO_EXC);
  __m512 p = _mm512_set1_ps(0.0790222f);
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.2241335f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.6967443f));
  p = _mm512_fmadd_ps(p, f, _mm512_set1_ps(0.9998925f));
  return _mm512_scalef_ps(p, x);
}

inline void apply_mask_bf16(float* s, int n, int n_pad, int vec, float scale,
                            const BlockMask& mask) {
  const __m512 factor = _mm512_set1_ps(scale), hidden = _mm512_set1_ps(kMasked);
  const __m512i end = mask.lane_end == nullptr ? _mm512_set1_epi32(0x7fffffff)
                                               : _mm512_loadu_si512(mask.lane_end + vec * kLanes);
  for (int j = 0; j < n; ++j) {
    const __m512 add = _mm512_set1_ps(mask.weight != nullptr ? mask.weight[j] : 0.0f);
    __m512 x = _mm512_fmadd_ps(_mm512_load_ps(s + j * kLanes), factor, add);
    if (mask.bias != nullptr) {
      const float* bias = mask.bias + (std::ptrdiff_t{vec} * n_pad + j) * kLanes;
      x = _mm512_max_ps(hidden, _mm512_add_ps(x, _mm512_loadu_ps(bias)));
    }
    if (mask.position != nullptr) {
      const __mmask16 visible = _mm512_cmpgt_epi32_mask(end, _mm512_set1_epi32(mask.position[j]));
      x = _mm512_mask_mov_ps(hidden, visible, x);
    }
    _mm512_store_ps(s + j * kLanes, x);
  }
}

// One online-softmax step for one lane vector, P in pairs of keys.
inline void softmax_vector(const float* s, int n, int n_pad, float scale, LaneState& state,
                           std::uint32_t* p) {
  const __m512 factor = _mm512_set1_ps(scale);
  __m512 b0 = _mm512_set1_ps(kMasked), b1 = b0, b2 = b0, b3 = b0;
  int j = 0;
  for (; j + 4 <= n; j += 4) {
    b0 = _mm512_max_ps(b0, _mm512_load_ps(s + j * kLanes));
    b1 = _mm512_max_ps(b1, _mm512_load_ps(s + (j + 1) * kLanes));
    b2 = _mm512_max_ps(b2, _mm512_load_ps(s + (j + 2) * kLanes));
    b3 = _mm512_max_ps(b3, _mm512_load_ps(s + (j + 3) * kLanes));
  }
  for (; j < n; ++j) b0 = _mm512_max_ps(b0, _mm512_load_ps(s + j * kLanes));
  b0 = _mm512_max_ps(_mm512_max_ps(b0, b1), _mm512_max_ps(b2, b3));
  // factor (s - best) + shift is exact at the maximum: see weight() in tile_f32-inl.h.
  const __m512 m_old = _mm512_load_ps(state.m), top = _mm512_mul_ps(b0, factor);
  const __m512 m = _mm512_max_ps(m_old, top), shift = _mm512_sub_ps(top, m);
  const auto weights = [&](const float* at) {
    return exp2_bf16(_mm512_fmadd_ps(_mm512_sub_ps(_mm512_load_ps(at), b0), factor, shift));
  };
  __m512 sum0 = _mm512_setzero_ps(), sum1 = sum0;
  for (j = 0; j + 4 <= n; j += 4) {
    const float* at = s + j * kLanes;
    const __m512 w0 = weights(at);
    const __m512 w1 = weights(at + kLanes);
    const __m512 w2 = weights(at + 2 * kLanes);
    const __m512 w3 = weights(at + 3 * kLanes);
    sum0 = _mm512_add_ps(sum0, _mm512_add_ps(w0, w2));
    sum1 = _mm512_add_ps(sum1, _mm512_add_ps(w1, w3));
    _mm512_store_si512(p + j / 2 * kLanes, pairs(w0, w1));
    _mm512_store_si512(p + (j / 2 + 1) * kLanes, pairs(w2, w3));
  }
  for (; j < n; j += 2) {
    const float* at = s + j * kLanes;
    const __m512 w0 = weights(at);
    const __m512 w1 = j + 1 < n ? weights(at + kLanes) : _mm512_setzero_ps();
    sum0 = _mm512_add_ps(sum0, w0);
    sum1 = _mm512_add_ps(sum1, w1);
    _mm512_store_si512(p + j / 2 * kLanes, pairs(w0, w1));
  }
  for (; j < n_pad; j += 2) _mm512_store_si512(p + j / 2 * kLanes, _mm512_setzero_si512());
  const __m512 alpha = _mm512_mask_mov_ps(exp2_bf16(_mm512_sub_ps(m_old, m)),
                                          _mm512_cmpeq_ps_mask(m_old, m), _mm512_set1_ps(1.0f));
  _mm512_store_ps(state.alpha, alpha);
  const __m512 l = _mm512_load_ps(state.l);
  _mm512_store_ps(state.l, _mm512_fmadd_ps(l, alpha, _mm512_add_ps(sum0, sum1)));
  _mm512_store_ps(state.m, m);
}

inline void softmax_bf16(float* s, int n, int n_pad, int vecs, float scale, const BlockMask& mask,
                         LaneState* state, void* p_out) {
  auto* p = static_cast<std::uint32_t*>(p_out);
  for (int v = 0; v < vecs; ++v) {
    float* sv = s + static_cast<std::ptrdiff_t>(v) * n_pad * kLanes;
    if (mask.any()) apply_mask_bf16(sv, n, n_pad, v, scale, mask);
    softmax_vector(sv, n, n_pad, mask.any() ? 1.0f : scale, state[v],
                   p + static_cast<std::ptrdiff_t>(v) * n_pad / 2 * kLanes);
  }
}

inline void rescale_bf16(const LaneState& state, int rows, float* o) {
  const __m512 alpha = _mm512_load_ps(state.alpha);
  if (_mm512_cmpneq_ps_mask(alpha, _mm512_set1_ps(1.0f)) == 0) return;
  for (int r = 0; r < rows; ++r)
    _mm512_store_ps(o + r * kLanes, _mm512_mul_ps(alpha, _mm512_load_ps(o + r * kLanes)));
}

inline std::int64_t v_block_bytes_bf16(int n_pad, int dv_pad) {
  return std::int64_t{2} * n_pad * dv_pad;
}

// Pairs of keys for sixteen dimensions from `c` on: one dword a dimension.
inline __m512i value_pairs(const void* const* rows, DType t, int j, int n, int c, __mmask16 m) {
  if (j >= n) return _mm512_setzero_si512();
  const __m512 a = load16(rows[j], t, c, m);
  const __m512 b = j + 1 < n ? load16(rows[j + 1], t, c, m) : _mm512_setzero_ps();
  if (t == DType::kBF16)  // exact: no rounding
    return _mm512_or_si512(_mm512_srli_epi32(_mm512_castps_si512(a), 16), _mm512_castps_si512(b));
  return pairs(a, b);
}

// What the two tables do not have in common, and a table of it.
struct OwnParts {
  Isa isa;
  int block_multiple, row_multiple, strip, block;
  decltype(Kernels::load_v) load_v;
  decltype(Kernels::scores) scores;
  decltype(Kernels::accumulate) accumulate;
};
constexpr Kernels bf16_table(const OwnParts& own) {
  return {.isa = own.isa,
          .bf16 = true,
          .d_multiple = 32,
          .block_multiple = own.block_multiple,
          .row_multiple = own.row_multiple,
          .strip = own.strip,
          .block = own.block,
          .load_k = load_rows_bf16,
          .load_v = own.load_v,
          .v_block_bytes = v_block_bytes_bf16,
          .pack_q = pack_q_bf16,
          .scores = own.scores,
          .softmax = softmax_bf16,
          .accumulate = own.accumulate};
}

}  // namespace
}  // namespace prescore::tile
