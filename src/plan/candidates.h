// Nodes of the index that compete for being read, and what the queries of a tile think of them.
#pragma once

#include <cstdint>
#include <vector>

#include "index/index_impl.h"
#include "prescore/plan.h"
#include "tile/tile.h"

namespace prescore {

/// More candidates than this (far keys beyond 32,768 in groups of 32) are searched by so many of
/// the routing queries only, so that planning stays below reading.
inline constexpr std::int64_t kManyCandidates = 1024, kFewRouting = 32;

/// The products of one call: queries against mean keys.
struct RouteProducts {
  RouteProducts(const KeyIndex::Impl& index, bool single_position);

  const tile::Kernels& kernels;
  const tile::RowKernels& rows;
  DType k_type;
  int d, d_pad;
  bool single;  ///< one position at a time: rows are read as they lie, nothing is packed
  std::int64_t row_bytes() const noexcept { return std::int64_t{d_pad} * (kernels.bf16 ? 2 : 4); }
};

/// Rows that every query is multiplied with: nodes, or keys (then `node` and `count` are unused).
struct Candidates {
  std::vector<std::int32_t> node;  ///< [size]
  std::vector<float> count;        ///< [size] keys of a node
  std::vector<const void*> row;    ///< [size] mean key
  std::vector<float> weight;       ///< [vecs][16] log2 of the keys, kMasked beyond size
  Buffer<std::byte> lanes;         ///< the rows packed, for more than one query
  int size = 0;                    ///< the vectors may be longer
  std::int64_t keys = 0;           ///< sum of count

  int vecs() const noexcept { return (size + tile::kLanes - 1) / tile::kLanes; }
  void clear() noexcept { size = 0, keys = 0, packed_ = 0; }
  /// Nodes [first, first + n) of a head that have keys; log2[c] is the log2 of c.
  void add_nodes(const KeyIndex::Impl& index, std::int64_t bh, std::int64_t first, std::int64_t n,
                 const float* log2);
  void add_key(const void* key, float log2_weight);
  /// After adding, before estimating. What was packed before stays.
  void pack(const RouteProducts& products);

 private:
  void make_room(std::int64_t n);

  int packed_ = 0;  // lane vectors of `lanes` that are full and up to date
};

/// The routing queries of a tile and their estimates; scratch of one worker.
class Estimator {
 public:
  /// The next tile begins.
  void clear() noexcept { queries_ = 0; }
  bool started() const noexcept { return queries_ > 0; }
  /// Of each head of a tile every step-th query, counted back from the tile's last, in the order
  /// that any first part of them is spread out.
  void start(const Tensor& q, const Tile& tile, std::int64_t step, const RouteProducts& products);

  /// share <- the part of all attention that each candidate holds, averaged over the queries; rank
  /// <- the same of one of its keys. The first call of a tile has the uppermost candidates and the
  /// keys that are `read` anyway, from which the whole attention of a query is known from then on;
  /// null later. Returns the number of products.
  std::int64_t estimate(const Candidates& candidates, const Candidates* read, float scale,
                        const RouteProducts& products);

  std::vector<std::uint32_t> rank;
  std::vector<float> share;

 private:
  void find_totals(const Candidates&, const Candidates& read, float scale, const RouteProducts&);
  void add_totals(const Candidates&, float scale, Buffer<float>& score, const RouteProducts&);
  void multiply(const Candidates&, int first_vec, int vecs, float* score,
                const RouteProducts&) const;

  int queries_ = 0;
  int rows_ = 0;              // of them, from the first on, those that are asked
  std::ptrdiff_t s_vec_ = 0;  // between lane vectors of score_
  std::vector<const void*> row_;
  Buffer<std::byte> block_;           // queries as rows
  Buffer<float> query_;               // the same in f32, for one position
  Buffer<float> score_, read_score_;  // [vec][row, padded][16]
  Buffer<float> m_, l_;               // [row][16] running totals
  std::vector<float> total_;          // of all that a query attends to
};

}  // namespace prescore
