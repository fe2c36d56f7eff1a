// Products by AMX tiles of 16 rows x 64 bytes: keys (or dimensions) in the rows of A, lanes in the
// columns of B, so that neither keys nor weights need a transposition.
#include "tile/tile_bf16-inl.h"
#include "tile/tile_tables.h"

namespace prescore::tile {
namespace {

struct alignas(64) TileConfig {
  std::uint8_t palette = 1, start_row = 0, reserved[14] = {};
  std::uint16_t bytes_per_row[16] = {64, 64, 64, 64, 64, 64, 64, 64};
  std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};
constexpr TileConfig kConfig;
constexpr int kTileDwords = 256;

// The configuration belongs to the thread; a host thread may hold another one between calls.
struct Configured {
  // The compiler does not know that tile loads and stores touch memory: hence the barriers.
  Configured() {
    asm volatile("" ::: "memory");
    _tile_loadconfig(&kConfig);
  }
  ~Configured() {
    _tile_release();
    asm volatile("" ::: "memory");
  }
  Configured(const Configured&) = delete;
  Configured& operator=(const Configured&) = delete;
};

// Two rows of A against two lane vectors of B. A: row tiles `a_row` dwords apart, steps `a_k`
// apart, rows `a_stride` bytes; B and C: vectors b_vec, c_vec apart, one after the other within.
template <bool kAdd>
inline void product_2x2(const std::uint32_t* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k,
                        std::ptrdiff_t a_stride, int steps, const std::uint32_t* b,
                        std::ptrdiff_t b_vec, float* c, std::ptrdiff_t c_vec) {
  constexpr int kStride = 64;
  float* const c1 = c + kTileDwords;
  if constexpr (kAdd) {
    _tile_loadd(0, c, kStride);
    _tile_loadd(1, c + c_vec, kStride);
    _tile_loadd(2, c1, kStride);
    _tile_loadd(3, c1 + c_vec, kStride);
  } else {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
  }
  for (int k = 0; k < steps; ++k, a += a_k, b += kTileDwords) {
    _tile_loadd(4, a, a_stride);
    _tile_loadd(6, b, kStride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_loadd(7, b + b_vec, kStride);
    _tile_dpbf16ps(1, 4, 7);
    _tile_loadd(5, a + a_row, a_stride);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
  _tile_stored(0, c, kStride);
  _tile_stored(1, c + c_vec, kStride);
  _tile_stored(2, c1, kStride);
  _tile_stored(3, c1 + c_vec, kStride);
}

// A row tile of two steps (2, 3) against two lane vectors (4, 5 and 6, 7).
inline void product_two_steps(float* s, std::ptrdiff_t s_vec) {
  constexpr int kStride = 64;
  _tile_zero(0);
  _tile_zero(1);
  _tile_dpbf16ps(0, 2, 4);
  _tile_dpbf16ps(1, 2, 6);
  _tile_dpbf16ps(0, 3, 5);
  _tile_dpbf16ps(1, 3, 7);
  _tile_stored(0, s, kStride);
  _tile_stored(1, s + s_vec, kStride);
}

inline void load_two_vectors(const std::uint32_t* q, std::ptrdiff_t q_vec) {
  constexpr int kStride = 64;
  _tile_loadd(4, q, kStride);
  _tile_loadd(5, q + kTileDwords, kStride);
  _tile_loadd(6, q + q_vec, kStride);
  _tile_loadd(7, q + q_vec + kTileDwords, kStride);
}

// Heads of up to 64 (two steps), as most models have: the tiles of two lane vectors stay in
// registers while the rows pass by, which halves the loads.
inline void scores_two_steps(const std::uint32_t* k, std::ptrdiff_t row, int row_tiles,
                             const std::uint32_t* q, std::ptrdiff_t q_vec, float* s,
                             std::ptrdiff_t s_vec) {
  const std::ptrdiff_t k_stride = row * 4;
  load_two_vectors(q, q_vec);
  for (int r = 0; r < row_tiles; ++r, k += 16 * row, s += kTileDwords) {
    _tile_loadd(2, k, k_stride);
    _tile_loadd(3, k + 16, k_stride);
    product_two_steps(s, s_vec);
  }
}

// Sixteen rows against many lane vectors, an even number of them: here the rows stay.
inline void scores_one_row_tile(const std::uint32_t* k, std::ptrdiff_t row, const std::uint32_t* q,
                                std::ptrdiff_t q_vec, int vecs, float* s, std::ptrdiff_t s_vec) {
  _tile_loadd(2, k, row * 4);
  _tile_loadd(3, k + 16, row * 4);
  for (int v = 0; v < vecs; v += 2, q += 2 * q_vec, s += 2 * s_vec) {
    load_two_vectors(q, q_vec);
    product_two_steps(s, s_vec);
  }
}

// One row tile against one lane vector.
template <bool kAdd>
inline void product_1x1(const std::uint32_t* a, std::ptrdiff_t a_k, std::ptrdiff_t a_stride,
                        int steps, const std::uint32_t* b, float* c) {
  constexpr int kStride = 64;
  if constexpr (kAdd)
    _tile_loadd(0, c, kStride);
  else
    _tile_zero(0);
  for (int k = 0; k < steps; ++k, a += a_k, b += kTileDwords) {
    _tile_loadd(4, a, a_stride);
    _tile_loadd(6, b, kStride);
    _tile_dpbf16ps(0, 4, 6);
  }
  _tile_stored(0, c, kStride);
}

// The same for one lane vector: two row tiles at a time, to keep two sums in flight.
inline void scores_two_steps(const std::uint32_t* k, std::ptrdiff_t row, int row_tiles,
                             const std::uint32_t* q, float* s) {
  constexpr int kStride = 64;
  const std::ptrdiff_t k_stride = row * 4;
  _tile_loadd(4, q, kStride);
  _tile_loadd(5, q + kTileDwords, kStride);
  int r = 0;
  for (; r + 2 <= row_tiles; r += 2, k += 32 * row, s += 2 * kTileDwords) {
    _tile_loadd(2, k, k_stride);
    _tile_loadd(3, k + 16, k_stride);
    _tile_loadd(6, k + 16 * row, k_stride);
    _tile_loadd(7, k + 16 * row + 16, k_stride);
    _tile_zero(0);
    _tile_zero(1);
    _tile_dpbf16ps(0, 2, 4);
    _tile_dpbf16ps(1, 6, 4);
    _tile_dpbf16ps(0, 3, 5);
    _tile_dpbf16ps(1, 7, 5);
    _tile_stored(0, s, kStride);
    _tile_stored(1, s + kTileDwords, kStride);
  }
  if (r < row_tiles) product_1x1<false>(k, 16, k_stride, 2, q, s);
}

template <bool kAdd>
void product(const std::uint32_t* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k,
             std::ptrdiff_t a_stride, int row_tiles, int steps, const std::uint32_t* b,
             std::ptrdiff_t b_vec, int vecs, float* c, std::ptrdiff_t c_vec) {
  int v = 0;
  for (; v + 2 <= vecs; v += 2) {
    int r = 0;
    for (; r + 2 <= row_tiles; r += 2)
      product_2x2<kAdd>(a + r * a_row, a_row, a_k, a_stride, steps, b + v * b_vec, b_vec,
                        c + v * c_vec + r * kTileDwords, c_vec);
    for (int w = 0; r < row_tiles && w < 2; ++w)
      product_1x1<kAdd>(a + r * a_row, a_k, a_stride, steps, b + (v + w) * b_vec,
                        c + (v + w) * c_vec + r * kTileDwords);
  }
  for (; v < vecs; ++v)
    for (int r = 0; r < row_tiles; ++r)
      product_1x1<kAdd>(a + r * a_row, a_k, a_stride, steps, b + v * b_vec,
                        c + v * c_vec + r * kTileDwords);
}

void scores(const void* k, int n_pad, const void* q, int vecs, int d_pad, float* s,
            std::ptrdiff_t s_vec) {
  const Configured config;
  const std::ptrdiff_t row = std::ptrdiff_t{d_pad} / 2;  // dwords
  if (d_pad == 64) {
    const auto* keys = static_cast<const std::uint32_t*>(k);
    const auto* lanes = static_cast<const std::uint32_t*>(q);
    int v = 0;
    if (n_pad == 16) {
      v = vecs / 2 * 2;
      scores_one_row_tile(keys, row, lanes, row * kLanes, v, s, s_vec);
    }
    for (; v + 2 <= vecs; v += 2)
      scores_two_steps(keys, row, n_pad / 16, lanes + v * row * kLanes, row * kLanes, s + v * s_vec,
                       s_vec);
    if (v < vecs) scores_two_steps(keys, row, n_pad / 16, lanes + v * row * kLanes, s + v * s_vec);
    return;
  }
  product<false>(static_cast<const std::uint32_t*>(k), 16 * row, 16, row * 4, n_pad / 16,
                 d_pad / 32, static_cast<const std::uint32_t*>(q), row * kLanes, vecs, s, s_vec);
}

// V block: tiles [dv_pad / 16][n_pad / 32] of 16 dimensions x 16 pairs of keys.
void load_v(const void* const* rows, DType t, int n, int n_pad, int d, int d_pad, void* out) {
  auto* to = static_cast<std::uint32_t*>(out);
  for (int c = 0; c < d_pad; c += 16) {
    const __mmask16 m = first(std::clamp(d - c, 0, 16));
    for (int j = 0; j < n_pad; j += 32, to += kTileDwords) {
      __m512i r[16];
      for (int i = 0; i < 16; ++i) r[i] = value_pairs(rows, t, j + 2 * i, n, c, m);
      transpose16(r);
      for (int i = 0; i < 16; ++i) _mm512_storeu_si512(to + i * kLanes, r[i]);
    }
  }
}

void accumulate(const void* p, const void* v, int n_pad, int vecs, int dv_pad,
                const LaneState* state, float* o) {
  const std::ptrdiff_t o_vec = std::ptrdiff_t{dv_pad} * kLanes;
  const int steps = n_pad / 32;
  for (int i = 0; i < vecs; ++i) rescale_bf16(state[i], dv_pad, o + i * o_vec);
  const Configured config;
  product<true>(static_cast<const std::uint32_t*>(v), std::ptrdiff_t{steps} * kTileDwords,
                kTileDwords, 64, dv_pad / 16, steps, static_cast<const std::uint32_t*>(p),
                std::ptrdiff_t{n_pad} / 2 * kLanes, vecs, o, o_vec);
}

}  // namespace

constinit const Kernels kAmxBf16Kernels = bf16_table({.isa = Isa::kAmxBf16,
                                                      .block_multiple = 32,
                                                      .row_multiple = 16,
                                                      .strip = 2,
                                                      .block = 128,
                                                      .load_v = load_v,
                                                      .scores = scores,
                                                      .accumulate = accumulate});

}  // namespace prescore::tile
