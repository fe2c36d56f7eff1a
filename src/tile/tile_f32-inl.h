// f32 micro-kernels, compiled once per Highway target (see tile_hwy.cpp and tile_scalar.cpp).

#if defined(PRESCORE_TILE_F32_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef PRESCORE_TILE_F32_INL_H_
#undef PRESCORE_TILE_F32_INL_H_
#else
#define PRESCORE_TILE_F32_INL_H_
#endif

#include <algorithm>
#include <bit>
#include <cmath>

#include "common/views.h"
#include "hwy/highway.h"
#include "tile/tile.h"

HWY_BEFORE_NAMESPACE();
namespace prescore::tile {
namespace HWY_NAMESPACE {
namespace {  // two translation units may compile the same target
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::CappedTag<float, kLanes>;
using I = hn::RebindToSigned<D>;
using V = hn::Vec<D>;
constexpr int kN = static_cast<int>(hn::MaxLanes(D()));  // lanes of a machine vector
constexpr int kParts = kLanes / kN;                      // machine vectors of a lane vector
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_NEON
constexpr int kRegisters = 32;
#else
constexpr int kRegisters = 16;
#endif
// Lane vectors and rows of the register block: rows x parts accumulators, parts operands.
constexpr int kVecs = kParts == 1 ? 4 : 1;
constexpr int kRows = kParts == 16 ? 1 : kRegisters == 32 || kParts == 2 ? 6 : 2;

// ---- elements ------------------------------------------------------------------------------

// Without instructions for f16 Highway takes infinity and NaN for numbers, both ways, and does not
// round what it stores.
#if HWY_TARGET == HWY_SCALAR || HWY_TARGET == HWY_SSE2
constexpr bool kEmulatedF16 = true;
#else
constexpr bool kEmulatedF16 = false;
#endif

HWY_INLINE V load_f32(const void* p, DType t, std::int64_t i) {
  const D d;
  if (t == DType::kF32) return hn::LoadU(d, static_cast<const float*>(p) + i);
  if (t == DType::kF16) {
    const hn::Rebind<hwy::float16_t, D> dh;
    const V x = hn::PromoteTo(d, hn::LoadU(dh, static_cast<const hwy::float16_t*>(p) + i));
    if constexpr (!kEmulatedF16) return x;
    const V exponent = hn::BitCast(d, hn::Set(hn::RebindToUnsigned<D>(), 0x7f800000u));
    return hn::IfThenElse(hn::Ge(hn::Abs(x), hn::Set(d, 65536.0f)), hn::Or(x, exponent), x);
  }
  const hn::Rebind<std::uint16_t, D> du;
  const hn::RebindToUnsigned<D> dw;
  const auto wide = hn::PromoteTo(dw, hn::LoadU(du, static_cast<const std::uint16_t*>(p) + i));
  return hn::BitCast(d, hn::ShiftLeft<16>(wide));
}

void to_f32(const void* src, DType t, int n, float* out) {
  int i = 0;
  for (; i + kN <= n; i += kN) hn::StoreU(load_f32(src, t, i), D(), out + i);
  for (; i < n; ++i) out[i] = load_element(src, t, i);
}

void from_f32(const float* src, int n, DType t, void* out) {
  int i = 0;
  const D d;
  if (t == DType::kF32) {
    for (; i + kN <= n; i += kN) hn::StoreU(hn::LoadU(d, src + i), d, static_cast<float*>(out) + i);
  } else if (t == DType::kF16 && !kEmulatedF16) {
    const hn::Rebind<hwy::float16_t, D> dh;
    for (; i + kN <= n; i += kN)
      hn::StoreU(hn::DemoteTo(dh, hn::LoadU(d, src + i)), dh,
                 static_cast<hwy::float16_t*>(out) + i);
  }
  for (; i < n; ++i) store_element(out, t, i, src[i]);
}

// 2^x for x <= 127 with a relative error below 3e-7, zero below 2^-126 (hidden keys), NaN for NaN.
HWY_INLINE V exp2_or_zero(V x) {
  const D d;
  const hn::RebindToUnsigned<D> du;
  const V magic = hn::Set(d, 12582912.0f);  // 1.5 * 2^23: its low mantissa bits become round(x)
  const V t = hn::Add(x, magic);
  const V f = hn::Sub(x, hn::Sub(t, magic));
  V p = hn::Set(d, 1.5403530e-4f);
  p = hn::MulAdd(p, f, hn::Set(d, 1.3333558e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 9.6181291e-3f));
  p = hn::MulAdd(p, f, hn::Set(d, 5.5504109e-2f));
  p = hn::MulAdd(p, f, hn::Set(d, 2.4022651e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 6.9314718e-1f));
  p = hn::MulAdd(p, f, hn::Set(d, 1.0f));
  const auto e = hn::ShiftLeft<23>(hn::BitCast(du, t));
  p = hn::BitCast(d, hn::Add(hn::BitCast(du, p), e));
  return hn::IfThenZeroElse(hn::Lt(x, hn::Set(d, -126.0f)), p);
}

// 2^(factor s - m) where m = factor best - shift: exact at s = best, whatever the size of m.
// Rounded once, factor s - m would be wrong there by as much as the product m was rounded.
HWY_INLINE V weight(V s, V best, V factor, V shift) {
  return exp2_or_zero(hn::MulAdd(hn::Sub(s, best), factor, shift));
}

// ---- blocks --------------------------------------------------------------------------------

void load_rows(const void* const* rows, DType t, int n, int n_pad, int d, int d_pad, void* out) {
  float* to = static_cast<float*>(out);
  for (int j = 0; j < n; ++j, to += d_pad) {
    to_f32(rows[j], t, d, to);
    std::fill(to + d, to + d_pad, 0.0f);
  }
  std::fill(to, to + static_cast<std::ptrdiff_t>(n_pad - n) * d_pad, 0.0f);
}

std::int64_t v_block_bytes(int n_pad, int dv_pad) { return std::int64_t{4} * n_pad * dv_pad; }

void pack_q(const void* const* rows, DType t, int n, int vecs, int d, int d_pad, void* out) {
  float* to = static_cast<float*>(out);
  float x[kMaxDim];
  for (int l = 0; l < vecs * kLanes; ++l) {
    const int known = l < n ? d : 0;
    if (l < n) to_f32(rows[l], t, d, x);
    std::fill(x + known, x + d_pad, 0.0f);
    float* lane = to + l / kLanes * std::ptrdiff_t{d_pad} * kLanes + l % kLanes;
    for (int c = 0; c < d_pad; ++c) lane[c * kLanes] = x[c];
  }
}

// C[r][v] (+)= sum_k a[r * a_row + k * a_k] b[v][k][16], one register block.
template <int kR, int kW, bool kAdd>
HWY_INLINE void block_product(const float* HWY_RESTRICT a, std::ptrdiff_t a_row, std::ptrdiff_t a_k,
                              int depth, const float* HWY_RESTRICT b, std::ptrdiff_t b_vec,
                              float* HWY_RESTRICT c, std::ptrdiff_t c_vec) {
  const D d;
  V acc[kR][kW * kParts];
  for (int r = 0; r < kR; ++r)
    for (int w = 0; w < kW; ++w)
      for (int p = 0; p < kParts; ++p)
        acc[r][w * kParts + p] =
            kAdd ? hn::Load(d, c + w * c_vec + r * kLanes + p * kN) : hn::Zero(d);
  for (int k = 0; k < depth; ++k) {
    V operand[kW * kParts];
    for (int w = 0; w < kW; ++w)
      for (int p = 0; p < kParts; ++p)
        operand[w * kParts + p] = hn::Load(d, b + w * b_vec + k * kLanes + p * kN);
    for (int r = 0; r < kR; ++r) {
      const V x = hn::Set(d, a[r * a_row + k * a_k]);
      for (int i = 0; i < kW * kParts; ++i) acc[r][i] = hn::MulAdd(x, operand[i], acc[r][i]);
    }
  }
  for (int r = 0; r < kR; ++r)
    for (int w = 0; w < kW; ++w)
      for (int p = 0; p < kParts; ++p)
        hn::Store(acc[r][w * kParts + p], d, c + w * c_vec + r * kLanes + p * kN);
}

template <int kW, bool kAdd>
void product_columns(const float* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k, int rows, int depth,
                     const float* b, std::ptrdiff_t b_vec, float* c, std::ptrdiff_t c_vec) {
  int r = 0;
  for (; r + kRows <= rows; r += kRows)
    block_product<kRows, kW, kAdd>(a + r * a_row, a_row, a_k, depth, b, b_vec, c + r * kLanes,
                                   c_vec);
  if constexpr (kRows > 4)
    for (; r + 4 <= rows; r += 4)
      block_product<4, kW, kAdd>(a + r * a_row, a_row, a_k, depth, b, b_vec, c + r * kLanes, c_vec);
  for (; r < rows; ++r)
    block_product<1, kW, kAdd>(a + r * a_row, a_row, a_k, depth, b, b_vec, c + r * kLanes, c_vec);
}

template <bool kAdd>
void product(const float* a, std::ptrdiff_t a_row, std::ptrdiff_t a_k, int rows, int depth,
             const float* b, std::ptrdiff_t b_vec, int vecs, float* c, std::ptrdiff_t c_vec) {
  int v = 0;
  for (; v + kVecs <= vecs; v += kVecs)
    product_columns<kVecs, kAdd>(a, a_row, a_k, rows, depth, b + v * b_vec, b_vec, c + v * c_vec,
                                 c_vec);
  if constexpr (kVecs > 1) {
    for (; v + 2 <= vecs; v += 2)
      product_columns<2, kAdd>(a, a_row, a_k, rows, depth, b + v * b_vec, b_vec, c + v * c_vec,
                               c_vec);
    for (; v < vecs; ++v)
      product_columns<1, kAdd>(a, a_row, a_k, rows, depth, b + v * b_vec, b_vec, c + v * c_vec,
                               c_vec);
  }
}

void scores(const void* k, int n_pad, const void* q, int vecs, int d_pad, float* s,
            std::ptrdiff_t s_vec) {
  product<false>(static_cast<const float*>(k), d_pad, 1, n_pad, d_pad, static_cast<const float*>(q),
                 std::ptrdiff_t{d_pad} * kLanes, vecs, s, s_vec);
}

void rescale(const LaneState& state, int rows, float* o) {
  const D d;
  for (int p = 0; p < kParts; ++p) {
    const V alpha = hn::Load(d, state.alpha + p * kN);
    if (hn::AllTrue(d, hn::Eq(alpha, hn::Set(d, 1.0f)))) continue;
    for (int r = 0; r < rows; ++r) {
      float* at = o + r * kLanes + p * kN;
      hn::Store(hn::Mul(alpha, hn::Load(d, at)), d, at);
    }
  }
}

void accumulate(const void* p, const void* v, int n_pad, int vecs, int dv_pad,
                const LaneState* state, float* o) {
  const std::ptrdiff_t o_vec = std::ptrdiff_t{dv_pad} * kLanes;
  for (int i = 0; i < vecs; ++i) rescale(state[i], dv_pad, o + i * o_vec);
  product<true>(static_cast<const float*>(v), 1, dv_pad, dv_pad, n_pad,
                static_cast<const float*>(p), std::ptrdiff_t{n_pad} * kLanes, vecs, o, o_vec);
}

// ---- softmax -------------------------------------------------------------------------------

// s <- scale s + weights, hidden keys at kMasked.
void apply_mask(float* s, int n, int n_pad, int vec, float scale, const BlockMask& mask) {
  const D d;
  const I di;
  for (int p = 0; p < kParts; ++p) {
    const V factor = hn::Set(d, scale), hidden = hn::Set(d, kMasked);
    const auto end = mask.lane_end == nullptr ? hn::Set(di, 0x7fffffff)
                                              : hn::Load(di, mask.lane_end + vec * kLanes + p * kN);
    for (int j = 0; j < n; ++j) {
      float* at = s + j * kLanes + p * kN;
      const V add = hn::Set(d, mask.weight != nullptr ? mask.weight[j] : 0.0f);
      V x = hn::MulAdd(hn::Load(d, at), factor, add);
      if (mask.bias != nullptr)
        x = hn::Max(hidden,
                    hn::Add(x, hn::Load(d, mask.bias + (std::ptrdiff_t{vec} * n_pad + j) * kLanes +
                                               p * kN)));
      if (mask.position != nullptr) {
        const auto visible = hn::Gt(end, hn::Set(di, mask.position[j]));
        x = hn::IfThenElse(hn::RebindMask(d, visible), x, hidden);
      }
      hn::Store(x, d, at);
    }
  }
}

void softmax(float* s, int n, int n_pad, int vecs, float scale, const BlockMask& mask,
             LaneState* state, void* p_out) {
  const D d;
  float* weights = static_cast<float*>(p_out);
  for (int v = 0; v < vecs; ++v) {
    float* sv = s + static_cast<std::ptrdiff_t>(v) * n_pad * kLanes;
    float* pv = weights + static_cast<std::ptrdiff_t>(v) * n_pad * kLanes;
    if (mask.any()) apply_mask(sv, n, n_pad, v, scale, mask);
    const V factor = hn::Set(d, mask.any() ? 1.0f : scale);
    for (int part = 0; part < kParts; ++part) {
      const float* in = sv + part * kN;
      float* out = pv + part * kN;
      const V m_old = hn::Load(d, state[v].m + part * kN);
      V best = hn::Set(d, kMasked), best2 = best;
      int j = 0;
      for (; j + 2 <= n; j += 2) {
        best = hn::Max(best, hn::Load(d, in + j * kLanes));
        best2 = hn::Max(best2, hn::Load(d, in + (j + 1) * kLanes));
      }
      for (; j < n; ++j) best = hn::Max(best, hn::Load(d, in + j * kLanes));
      best = hn::Max(best, best2);
      const V top = hn::Mul(best, factor), m = hn::Max(m_old, top), shift = hn::Sub(top, m);
      V sum = hn::Zero(d), sum2 = sum;
      for (j = 0; j + 2 <= n; j += 2) {
        const V a = weight(hn::Load(d, in + j * kLanes), best, factor, shift);
        const V b = weight(hn::Load(d, in + (j + 1) * kLanes), best, factor, shift);
        sum = hn::Add(sum, a);
        sum2 = hn::Add(sum2, b);
        hn::Store(a, d, out + j * kLanes);
        hn::Store(b, d, out + (j + 1) * kLanes);
      }
      for (; j < n; ++j) {
        const V a = weight(hn::Load(d, in + j * kLanes), best, factor, shift);
        sum = hn::Add(sum, a);
        hn::Store(a, d, out + j * kLanes);
      }
      for (; j < n_pad; ++j) hn::Store(hn::Zero(d), d, out + j * kLanes);
      const V alpha =
          hn::IfThenElse(hn::Eq(m_old, m), hn::Set(d, 1.0f), exp2_or_zero(hn::Sub(m_old, m)));
      hn::Store(alpha, d, state[v].alpha + part * kN);
      const V l = hn::Load(d, state[v].l + part * kN);
      hn::Store(hn::MulAdd(l, alpha, hn::Add(sum, sum2)), d, state[v].l + part * kN);
      hn::Store(m, d, state[v].m + part * kN);
    }
  }
}

// ---- rows ----------------------------------------------------------------------------------

// What two elements add to a sum over columns.
struct Product {
  static HWY_INLINE V add(V sum, V x, V y) { return hn::MulAdd(x, y, sum); }
  static float add(float sum, float x, float y) { return sum + x * y; }
};
struct SquaredDifference {
  static HWY_INLINE V add(V sum, V x, V y) {
    const V e = hn::Sub(x, y);
    return hn::MulAdd(e, e, sum);
  }
  static float add(float sum, float x, float y) { return sum + (x - y) * (x - y); }
};
struct Difference {
  static HWY_INLINE V add(V sum, V x, V y) { return hn::Add(sum, hn::Abs(hn::Sub(x, y))); }
  static float add(float sum, float x, float y) { return sum + std::abs(x - y); }
};

template <typename Term, int kR>
HWY_INLINE void sums_block(const float* q, const void* const* rows, DType t, int d, float* out) {
  const D tag;
  V acc[kR];
  for (int r = 0; r < kR; ++r) acc[r] = hn::Zero(tag);
  int i = 0;
  for (; i + kN <= d; i += kN) {
    const V x = hn::LoadU(tag, q + i);
    for (int r = 0; r < kR; ++r) acc[r] = Term::add(acc[r], x, load_f32(rows[r], t, i));
  }
  for (int r = 0; r < kR; ++r) {
    float sum = hn::GetLane(hn::SumOfLanes(tag, acc[r]));
    for (int c = i; c < d; ++c) sum = Term::add(sum, q[c], load_element(rows[r], t, c));
    out[r] = sum;
  }
}
template <typename Term>
void sums(const float* q, const void* const* rows, DType t, int n, int d, float* out) {
  int j = 0;
  for (; j + 4 <= n; j += 4) sums_block<Term, 4>(q, rows + j, t, d, out + j);
  for (; j < n; ++j) sums_block<Term, 1>(q, rows + j, t, d, out + j);
}

void axpys(const float* p, const void* const* rows, DType t, int n, int d, float alpha, float* o) {
  const D tag;
  constexpr int kWide = 4;
  int i = 0;
  for (; i + kWide * kN <= d; i += kWide * kN) {
    V acc[kWide];
    for (int w = 0; w < kWide; ++w)
      acc[w] = hn::Mul(hn::Set(tag, alpha), hn::LoadU(tag, o + i + w * kN));
    for (int j = 0; j < n; ++j) {
      const V x = hn::Set(tag, p[j]);
      for (int w = 0; w < kWide; ++w)
        acc[w] = hn::MulAdd(x, load_f32(rows[j], t, i + w * kN), acc[w]);
    }
    for (int w = 0; w < kWide; ++w) hn::StoreU(acc[w], tag, o + i + w * kN);
  }
  for (; i + kN <= d; i += kN) {
    V acc = hn::Mul(hn::Set(tag, alpha), hn::LoadU(tag, o + i));
    for (int j = 0; j < n; ++j) acc = hn::MulAdd(hn::Set(tag, p[j]), load_f32(rows[j], t, i), acc);
    hn::StoreU(acc, tag, o + i);
  }
  for (; i < d; ++i) {
    float acc = alpha * o[i];
    for (int j = 0; j < n; ++j) acc += p[j] * load_element(rows[j], t, i);
    o[i] = acc;
  }
}

float exp2s(const float* s, int n, float m, float* p) {
  const D d;
  V sum = hn::Zero(d);
  int j = 0;
  for (; j + kN <= n; j += kN) {
    const V x = exp2_or_zero(hn::Sub(hn::LoadU(d, s + j), hn::Set(d, m)));
    sum = hn::Add(sum, x);
    hn::StoreU(x, d, p + j);
  }
  float total = hn::GetLane(hn::SumOfLanes(d, sum));
  for (; j < n; ++j) {
    p[j] = hn::GetLane(exp2_or_zero(hn::Set(d, s[j] - m)));
    total += p[j];
  }
  return total;
}

float max_of(const float* s, int n) {
  const D d;
  V best = hn::Set(d, kMasked);
  int j = 0;
  for (; j + kN <= n; j += kN) best = hn::Max(best, hn::LoadU(d, s + j));
  float m = hn::GetLane(hn::MaxOfLanes(d, best));
  for (; j < n; ++j) m = std::max(m, s[j]);
  return m;
}

#include "tile/tile_routing-inl.h"

// By the preprocessor, since not every Highway and architecture has all of these names.
#if HWY_TARGET == HWY_AVX3
constexpr Isa kIsa = Isa::kAvx512;
#elif HWY_TARGET == HWY_AVX2
constexpr Isa kIsa = Isa::kAvx2;
#elif HWY_TARGET == HWY_SSE2
constexpr Isa kIsa = Isa::kSse2;
#elif HWY_TARGET == HWY_NEON
constexpr Isa kIsa = Isa::kNeon;
#else
constexpr Isa kIsa = Isa::kScalar;
#endif

// Constants, see tile_tables.h.
constexpr Kernels kKernels{.isa = kIsa,
                           .bf16 = false,
                           .d_multiple = 1,
                           .block_multiple = 1,
                           .row_multiple = 1,
                           .strip = kVecs,
                           .block = 96,
                           .load_k = load_rows,
                           .load_v = load_rows,
                           .v_block_bytes = v_block_bytes,
                           .pack_q = pack_q,
                           .scores = scores,
                           .softmax = softmax,
                           .accumulate = accumulate};
constexpr RowKernels kRowKernels{kIsa,
                                 sums<Product>,
                                 sums<SquaredDifference>,
                                 sums<Difference>,
                                 axpys,
                                 exp2s,
                                 max_of,
                                 to_f32,
                                 from_f32,
                                 add_totals,
                                 total,
                                 rank_nodes,
                                 add_log_sums,
                                 add_shares,
                                 threshold,
                                 partition,
                                 argmax};

}  // namespace
}  // namespace HWY_NAMESPACE
}  // namespace prescore::tile
HWY_AFTER_NAMESPACE();

#endif  // include guard
