// Products by vdpbf16ps: pairs of keys or dimensions broadcast against a lane vector.
#include "tile/tile_bf16-inl.h"
#include "tile/tile_tables.h"

namespace prescore::tile {
namespace {

// V block: [n_pad / 2][dv_pad][2].
void load_v(const void* const* rows, DType t, int n, int n_pad, int d, int d_pad, void* out) {
  auto* to = static_cast<std::uint32_t*>(out);
  for (int j = 0; j < n_pad; j += 2, to += d_pad)
    for (int c = 0; c < d_pad; c += 16) {
      const __mmask16 m = first(std::clamp(d - c, 0, 16));
      _mm512_storeu_si512(to + c, value_pairs(rows, t, j, n, c, m));
    }
}

// C[r][w] (+)= sum over pairs k of a[r * a_row + k * a_k] . b[w][k][16]; a and b hold bf16 pairs.
template <int kR, int kW, bool kAdd>
inline void block_product(const std::uint32_t* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k,
                          int depth, const std::uint32_t* b, std::ptrdiff_t b_vec, float* c,
                          std::ptrdiff_t c_vec) {
  __m512 acc[kR][kW];
  for (int r = 0; r < kR; ++r)
    for (int w = 0; w < kW; ++w)
      acc[r][w] = kAdd ? _mm512_load_ps(c + w * c_vec + r * kLanes) : _mm512_setzero_ps();
  for (int k = 0; k < depth; ++k) {
    __m512i x[kW];
    for (int w = 0; w < kW; ++w) x[w] = _mm512_load_si512(b + w * b_vec + k * kLanes);
    for (int r = 0; r < kR; ++r) {
      const __m512i y = _mm512_set1_epi32(static_cast<int>(a[r * a_row + k * a_k]));
      for (int w = 0; w < kW; ++w)
        acc[r][w] = _mm512_dpbf16_ps(acc[r][w], reinterpret_cast<__m512bh>(x[w]),
                                     reinterpret_cast<__m512bh>(y));
    }
  }
  for (int r = 0; r < kR; ++r)
    for (int w = 0; w < kW; ++w) _mm512_store_ps(c + w * c_vec + r * kLanes, acc[r][w]);
}

template <int kW, bool kAdd>
void product_columns(const std::uint32_t* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k, int rows,
                     int depth, const std::uint32_t* b, std::ptrdiff_t b_vec, float* c,
                     std::ptrdiff_t c_vec) {
  int r = 0;
  for (; r + 6 <= rows; r += 6)
    block_product<6, kW, kAdd>(a + r * a_row, a_row, a_k, depth, b, b_vec, c + r * kLanes, c_vec);
  for (; r + 2 <= rows; r += 2)
    block_product<2, kW, kAdd>(a + r * a_row, a_row, a_k, depth, b, b_vec, c + r * kLanes, c_vec);
  for (; r < rows; ++r)
    block_product<1, kW, kAdd>(a + r * a_row, a_row, a_k, depth, b, b_vec, c + r * kLanes, c_vec);
}

template <bool kAdd>
void product(const void* a_in, std::ptrdiff_t a_row, std::ptrdiff_t a_k, int rows, int depth,
             const void* b_in, std::ptrdiff_t b_vec, int vecs, float* c, std::ptrdiff_t c_vec) {
  const auto* a = static_cast<const std::uint32_t*>(a_in);
  const auto* b = static_cast<const std::uint32_t*>(b_in);
  int v = 0;
  for (; v + 4 <= vecs; v += 4)
    product_columns<4, kAdd>(a, a_row, a_k, rows, depth, b + v * b_vec, b_vec, c + v * c_vec,
                             c_vec);
  for (; v < vecs; ++v)
    product_columns<1, kAdd>(a, a_row, a_k, rows, depth, b + v * b_vec, b_vec, c + v * c_vec,
                             c_vec);
}

void scores(const void* k, int n_pad, const void* q, int vecs, int d_pad, float* s,
            std::ptrdiff_t s_vec) {
  product<false>(k, d_pad / 2, 1, n_pad, d_pad / 2, q, std::ptrdiff_t{d_pad} / 2 * kLanes, vecs, s,
                 s_vec);
}

void accumulate(const void* p, const void* v, int n_pad, int vecs, int dv_pad,
                const LaneState* state, float* o) {
  const std::ptrdiff_t o_vec = std::ptrdiff_t{dv_pad} * kLanes;
  for (int i = 0; i < vecs; ++i) rescale_bf16(state[i], dv_pad, o + i * o_vec);
  product<true>(v, 1, dv_pad, dv_pad, n_pad / 2, p, std::ptrdiff_t{n_pad} / 2 * kLanes, vecs, o,
                o_vec);
}

}  // namespace

constinit const Kernels kAvx512Bf16Kernels = bf16_table({.isa = Isa::kAvx512Bf16,
                                                         .block_multiple = 2,
                                                         .row_multiple = 1,
                                                         .strip = 4,
                                                         .block = 96,
                                                         .load_v = load_v,
                                                         .scores = scores,
                                                         .accumulate = accumulate});

}  // namespace prescore::tile
