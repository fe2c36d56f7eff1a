#include "plan/candidates.h"

#include <algorithm>

namespace prescore {

using tile::kLanes;

RouteProducts::RouteProducts(const KeyIndex::Impl& index, bool single_query)
    : kernels(tile::kernels(Compute::kAuto, index.k_type)), rows(tile::row_kernels()),
      k_type(index.k_type), d(static_cast<int>(index.d)),
      d_pad(static_cast<int>(round_up(index.d, kernels.d_multiple))), single(single_query) {}

void Candidates::make_room(std::int64_t n) {
  const auto wanted = static_cast<std::size_t>(round_up(size + n, kLanes));
  if (wanted <= row.size()) return;
  const std::size_t grown = std::max(wanted, 2 * row.size());
  node.resize(grown), count.resize(grown), row.resize(grown), weight.resize(grown);
}

void Candidates::add_nodes(const KeyIndex::Impl& index, std::int64_t bh, std::int64_t first,
                           std::int64_t n, const float* log2) {
  make_room(n);
  const std::uint16_t* counts = index.counts_of(bh);
  const int row_lines = cache_lines(index.d * size_of(index.k_type));
  auto at = static_cast<std::size_t>(size);
  for (std::int64_t i = first; i < first + n; ++i) {  // those without keys are overwritten
    node[at] = static_cast<std::int32_t>(i);
    count[at] = counts[i];
    weight[at] = log2[counts[i]];
    row[at] = index.key_of(bh, i);
    prefetch_row(row[at], row_lines);
    keys += counts[i];
    at += counts[i] != 0;
  }
  size = static_cast<int>(at);
}

void Candidates::add_key(const void* key, float log2_weight) {
  make_room(1);
  const auto at = static_cast<std::size_t>(size++);
  row[at] = key;
  weight[at] = log2_weight;
}

void Candidates::pack(const RouteProducts& p) {
  std::fill(weight.begin() + size, weight.begin() + vecs() * kLanes, tile::kMasked);
  if (p.single) return;
  const std::int64_t vec_bytes = p.row_bytes() * kLanes;
  if (vecs() * vec_bytes > lanes.size()) {  // what grows loses its contents
    packed_ = 0;
    lanes.reserve((vecs() + vecs() / 4) * vec_bytes);
  }
  p.kernels.pack_q(row.data() + packed_ * kLanes, p.k_type, size - packed_ * kLanes,
                   vecs() - packed_, p.d, p.d_pad, lanes.data() + packed_ * vec_bytes);
  packed_ = size / kLanes;
}

void Estimator::start(const Tensor& q, const Tile& tile, std::int64_t step,
                      const RouteProducts& p) {
  row_.clear();
  for (const std::int64_t phase : {0, 2, 1, 3})
    for (std::int64_t i = tile.last - 1 - phase * step; i >= tile.first; i -= 4 * step)
      for (std::int64_t h = 0; h < tile.heads; ++h)
        row_.push_back(row(q, tile.batch, tile.head_at(h), i));
  queries_ = static_cast<int>(row_.size());
  if (p.single) {
    float* to = query_.reserve(std::int64_t{queries_} * p.d);
    for (const void* query : row_) p.rows.to_f32(query, q.dtype, p.d, to), to += p.d;
  } else {
    const auto pad = static_cast<int>(round_up(queries_, p.kernels.row_multiple));
    p.kernels.load_k(row_.data(), q.dtype, queries_, pad, p.d, p.d_pad,
                     block_.reserve(pad * p.row_bytes()));
  }
}

std::int64_t Estimator::estimate(const Candidates& c, const Candidates* read, float scale,
                                 const RouteProducts& p) {
  if (read != nullptr) find_totals(c, *read, scale, p);
  const auto lanes = static_cast<std::size_t>(c.vecs() * kLanes);
  if (rank.size() < lanes) rank.resize(2 * lanes), share.resize(2 * lanes);
  const int piece = std::clamp(512 / rows_, 1, tile::kMaxPiece);  // 32 KiB
  float* const scores = score_.reserve(c.vecs() * s_vec_);
  for (int v = 0; v < c.vecs(); v += piece) {
    const int vecs = std::min(piece, c.vecs() - v);
    float* const s = scores + v * s_vec_;
    if (read == nullptr) multiply(c, v, vecs, s, p);
    p.rows.rank_nodes(s, s_vec_, vecs, rows_, scale, c.weight.data() + v * kLanes, total_.data(),
                      share.data() + v * kLanes, rank.data() + v * kLanes);
  }
  return std::int64_t{c.size + (read != nullptr ? read->size : 0)} * rows_;
}

void Estimator::find_totals(const Candidates& c, const Candidates& read, float scale,
                            const RouteProducts& p) {
  rows_ = c.size > kManyCandidates ? std::min(queries_, static_cast<int>(kFewRouting)) : queries_;
  s_vec_ = round_up(rows_, p.single ? 1 : p.kernels.row_multiple) * kLanes;
  const std::int64_t lanes = std::int64_t{rows_} * kLanes;
  std::fill_n(m_.reserve(lanes), lanes, tile::kEmptyMax);
  std::fill_n(l_.reserve(lanes), lanes, 0.0f);
  add_totals(c, scale, score_, p);
  add_totals(read, scale, read_score_, p);
  total_.resize(static_cast<std::size_t>(rows_));
  for (int i = 0; i < rows_; ++i)
    total_[static_cast<std::size_t>(i)] =
        p.rows.total(m_.data() + i * kLanes, l_.data() + i * kLanes);
}

// score <- candidates times the queries, whose running totals take them in; in pieces whose scores
// are still in cache then.
void Estimator::add_totals(const Candidates& c, float scale, Buffer<float>& score,
                           const RouteProducts& p) {
  const int piece = std::clamp(512 / rows_, 1, tile::kMaxPiece);  // 32 KiB
  float* const scores = score.reserve(c.vecs() * s_vec_);
  for (int v = 0; v < c.vecs(); v += piece) {
    const int vecs = std::min(piece, c.vecs() - v);
    float* const s = scores + v * s_vec_;
    multiply(c, v, vecs, s, p);
    p.rows.add_totals(s, s_vec_, vecs, rows_, scale, c.weight.data() + v * kLanes, m_.data(),
                      l_.data());
  }
}

void Estimator::multiply(const Candidates& c, int first_vec, int vecs, float* score,
                         const RouteProducts& p) const {
  const int first = first_vec * kLanes;
  if (!p.single) {
    p.kernels.scores(block_.data(), static_cast<int>(s_vec_ / kLanes),
                     c.lanes.data() + first * p.row_bytes(), vecs, p.d_pad, score, s_vec_);
    return;
  }
  for (int v = 0; v < vecs; ++v) {
    const int n = std::min(kLanes, c.size - first - v * kLanes);
    for (int i = 0; i < rows_; ++i) {
      float* const to = score + v * s_vec_ + i * kLanes;
      p.rows.dots(query_.data() + std::int64_t{i} * p.d, c.row.data() + first + v * kLanes,
                  p.k_type, n, p.d, to);
      std::fill(to + n, to + kLanes, 0.0f);
    }
  }
}

}  // namespace prescore
