// The micro-kernels that index, plan and attend share, one table an ISA level.
//
// Lanes are queries. A "lane vector" is 16 queries, whatever the width of the machine's vectors, so
// every layout below is the same for all levels of one compute type T (f32, or bf16 in pairs):
//
//   packed Q   f32:  [vec][d_pad][16]        bf16: [vec][d_pad / 2][16][2]
//   K block    f32:  [n_pad][d_pad]          bf16: the same
//   V block    opaque to callers, v_block_bytes(n_pad, dv_pad) bytes
//   scores     f32:  [vec][n_pad][16]        (q.k, unscaled)
//   weights P  f32:  [vec][n_pad][16]        bf16: [vec][n_pad / 2][16][2]
//   O          f32:  [vec][dv_pad][16]
//
// With queries in the lanes the softmax is vertical, keys need no transposition, and the products
// of Q K^T and P V are both "rows of a gathered block times a lane vector".
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "common/isa.h"
#include "prescore/types.h"

namespace prescore::tile {

inline constexpr int kLanes = 16;
inline constexpr int kMaxDim = 512;
inline constexpr int kMaxBlock = 128;         // keys of a block at most
inline constexpr int kMaxPiece = 32;          // lane vectors of nodes that are totalled at once
inline constexpr float kLog2E = 1.44269504f;  // exponents are in base 2

/// Softmax state of one lane vector, in base 2: m is the running maximum of the scaled scores.
struct alignas(64) LaneState {
  float m[kLanes];
  float l[kLanes];
  float alpha[kLanes];  // factor for O since the block before
};
inline constexpr float kEmptyMax = -1e29f;  // below every real score, above every masked one
inline constexpr float kMasked = -1e30f;

/// What hides or weighs keys of a block; null members do nothing.
struct BlockMask {
  const std::int32_t* position = nullptr;  // [n] key j is visible to lanes with end > position[j]
  const float* weight = nullptr;           // [n] log2 weights
  const std::int32_t* lane_end = nullptr;  // [vec][16]
  const float* bias = nullptr;             // [vec][n_pad][16] added, in log2 units
  bool any() const noexcept { return position != nullptr || weight != nullptr || bias != nullptr; }
};

struct Kernels {
  Isa isa;
  bool bf16;           // compute type T
  int d_multiple;      // d_pad, dv_pad are multiples of it
  int block_multiple;  // n_pad is a multiple of it
  int row_multiple;    // and in `scores` alone of this
  int strip;           // lane vectors that are best computed together
  int block;           // keys of a block for d up to 128

  /// Rows of any dtype to T, zero-padded to d_pad and n_pad.
  void (*load_k)(const void* const* rows, DType dtype, int n, int n_pad, int d, int d_pad,
                 void* out);
  /// The same for values; unused keys must not be read, their weights are zero.
  void (*load_v)(const void* const* rows, DType dtype, int n, int n_pad, int d, int d_pad,
                 void* out);
  std::int64_t (*v_block_bytes)(int n_pad, int dv_pad);
  /// Rows of any dtype to packed Q, zero-padded to d_pad and 16 vecs.
  void (*pack_q)(const void* const* rows, DType dtype, int n, int vecs, int d, int d_pad,
                 void* out);
  /// Lane vectors of the scores are s_vec floats apart, 16 n_pad where they are dense.
  void (*scores)(const void* k, int n_pad, const void* q, int vecs, int d_pad, float* s,
                 std::ptrdiff_t s_vec);
  /// One online-softmax step over a block for each lane vector; s is overwritten.
  void (*softmax)(float* s, int n, int n_pad, int vecs, float scale, const BlockMask& mask,
                  LaneState* state, void* p);
  /// O <- alpha O + P V.
  void (*accumulate)(const void* p, const void* v, int n_pad, int vecs, int dv_pad,
                     const LaneState* state, float* o);
};

/// Kernels that work on rows as they lie in memory, in f32, for few queries and for everything
/// around the tiles. One table an ISA level with the widths of Highway.
struct RowKernels {
  Isa isa;
  /// out[j] = q . rows[j]
  void (*dots)(const float* q, const void* const* rows, DType dtype, int n, int d, float* out);
  /// out[j] = |q - rows[j]|^2
  void (*squared_distances)(const float* q, const void* const* rows, DType dtype, int n, int d,
                            float* out);
  /// out[j] = sum |q - rows[j]|
  void (*distances)(const float* q, const void* const* rows, DType dtype, int n, int d, float* out);
  /// o = alpha o + sum_j p[j] rows[j]
  void (*axpys)(const float* p, const void* const* rows, DType dtype, int n, int d, float alpha,
                float* o);
  /// p[j] = 2^(s[j] - m); returns the sum
  float (*exp2s)(const float* s, int n, float m, float* p);
  float (*max)(const float* s, int n);
  void (*to_f32)(const void* src, DType dtype, int n, float* out);
  void (*from_f32)(const float* src, int n, DType dtype, void* out);
  // Routing: here lanes are nodes, and the rows of the scores [vec][row][16] are queries. Lane
  // vectors are s_vec floats apart; weight[vec][16] is log2 of a node's keys, kMasked where there
  // is no node.

  /// One step of a running log-sum-exp: (m, l)[row][16] take in the exponents scale s + weight of
  /// at most kMaxPiece lane vectors, to within 3 %.
  void (*add_totals)(const float* s, std::ptrdiff_t s_vec, int vecs, int rows, float scale,
                     const float* weight, float* m, float* l);
  /// The log2 of what sixteen lanes of (m, l) add up to.
  float (*total)(const float* m, const float* l);
  /// share[node] <- the mean over the rows of 2^(scale s + weight - total[row]): the part of what
  /// they attend to that the node holds, to within 3 %; rank orders by the part of one of its keys
  /// (larger is better, below 2^22, NaN counts as nothing).
  void (*rank_nodes)(const float* s, std::ptrdiff_t s_vec, int vecs, int rows, float scale,
                     const float* weight, const float* total, float* share, std::uint32_t* rank);
  /// add_totals without weights, exact: exponents are s, hidden keys kMasked.
  void (*add_log_sums)(const float* s, std::ptrdiff_t s_vec, int vecs, int rows, float* m,
                       float* l);
  /// sum[node] += 2^(s - total[row]) for each row in turn, in f64: the same bits for rows that come
  /// in one call or in many.
  void (*add_shares)(const float* s, std::ptrdiff_t s_vec, int vecs, int rows, const float* total,
                     double* sum);
  /// The smallest rank t > 0 for which the counts of all entries with rank >= t are within `limit`.
  /// Of those just below t the first are raised to t for as long as they fit. Counts are whole
  /// numbers below 2^24 in all.
  std::uint32_t (*threshold)(std::uint32_t* rank, const float* count, int n, float limit);
  /// Nodes with rank >= threshold, and of the others those with share > worth, both in order. Both
  /// outputs have room for n + 16 nodes.
  void (*partition)(const std::int32_t* node, const std::uint32_t* rank, const float* share, int n,
                    std::uint32_t threshold, float worth, std::int32_t* kept, int* n_kept,
                    std::int32_t* others, int* n_others);

  /// For each lane the row with the largest s + bias (lowest on ties): s [vecs][n_pad][16].
  void (*argmax)(const float* s, int n, int n_pad, int vecs, const float* bias,
                 std::uint16_t* best);
};

/// Tables that were compiled in and that the machine supports.
std::vector<const Kernels*> all_kernels();
std::vector<const RowKernels*> all_row_kernels();

/// The tables for the chosen ISA. kAuto allows bf16 products for keys that are not f32.
const Kernels& kernels(Compute compute, DType keys);
const RowKernels& row_kernels();

}  // namespace prescore::tile
