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

void Estimator::start(const Tensor& q, const Tile& tile, std::int64_t stride,
                      const RouteProducts& p) {
  row_.clear();
  for (const std::int64_t phase : {0, 2, 1, 3})
    for (std::int64_t i = tile.last - 1 - phase * stride; i >= tile.first; i -= 4 * stride)
      row_.push_back(row(q, tile.batch, tile.head, i));
  queries_ = static_cast<int>(row_.size());
  fitted_ = 0;
  if (p.single) {
    p.rows.to_f32(row_[0], q.dtype, p.d, query_.reserve(p.d));
  } else {
    const auto pad = static_cast<int>(round_up(queries_, p.kernels.row_multiple));
    p.kernels.load_k(row_.data(), q.dtype, queries_, pad, p.d, p.d_pad,
                     block_.reserve(pad * p.row_bytes()));
  }
  m_.reserve(std::int64_t{queries_} * kLanes);
  l_.reserve(std::int64_t{queries_} * kLanes);
  far_total_.resize(row_.size());
  total_.resize(row_.size());
}

std::int64_t Estimator::estimate(const Candidates& c, const Candidates* read, float scale,
                                 const RouteProducts& p) {
  const int rows = rows_ = c.size > kManyCandidates ? std::min(queries_, kLanes) : queries_;
  s_vec_ = round_up(rows, p.single ? 1 : p.kernels.row_multiple) * kLanes;
  std::fill_n(m_.data(), rows * kLanes, tile::kEmptyMax);
  std::fill_n(l_.data(), rows * kLanes, 0.0f);
  add_totals(c, rows, scale, score_, p);
  take_totals(rows, p, far_total_);
  std::int64_t products = std::int64_t{c.size} * rows;
  if (read != nullptr) {
    add_totals(*read, rows, scale, read_score_, p);
    take_totals(rows, p, total_);
    fitted_ = rows;
    products += std::int64_t{read->size} * rows;
  }
  const auto lanes = static_cast<std::size_t>(c.vecs() * kLanes);
  if (rank.size() < lanes) rank.resize(2 * lanes), share.resize(2 * lanes);
  p.rows.rank_nodes(score_.data(), s_vec_, c.vecs(), rows, scale, far_total_.data(), share.data(),
                    rank.data());
  return products;
}

void Estimator::find_shares(const Candidates& c, std::uint32_t threshold, float scale, float worth,
                            const RouteProducts& p) {
  p.rows.mean_shares(score_.data(), s_vec_, c.vecs(), std::min(rows_, fitted_), scale,
                     c.weight.data(), total_.data(), rank.data(), threshold, worth, share.data());
}

// score <- candidates times the first `rows` queries, whose running totals take them in; in pieces
// whose scores are still in cache then.
void Estimator::add_totals(const Candidates& c, int rows, float scale, Buffer<float>& score,
                           const RouteProducts& p) {
  const int piece = std::clamp(512 / rows, 1, tile::kMaxPiece);  // 32 KiB
  float* const scores = score.reserve(c.vecs() * s_vec_);
  for (int v = 0; v < c.vecs(); v += piece) {
    const int vecs = std::min(piece, c.vecs() - v);
    float* const s = scores + v * s_vec_;
    multiply(c, v, vecs, s, p);
    p.rows.add_totals(s, s_vec_, vecs, rows, scale, c.weight.data() + v * kLanes, m_.data(),
                      l_.data());
  }
}

void Estimator::take_totals(int rows, const RouteProducts& p, std::vector<float>& total) const {
  for (int i = 0; i < rows; ++i)
    total[static_cast<std::size_t>(i)] =
        p.rows.total(m_.data() + i * kLanes, l_.data() + i * kLanes);
}

void Estimator::multiply(const Candidates& c, int first_vec, int vecs, float* score,
                         const RouteProducts& p) const {
  const int first = first_vec * kLanes;
  if (p.single) {
    const int n = std::min(vecs * kLanes, c.size - first);
    p.rows.dots(query_.data(), c.row.data() + first, p.k_type, n, p.d, score);
    std::fill(score + n, score + vecs * kLanes, 0.0f);
  } else {
    p.kernels.scores(block_.data(), static_cast<int>(s_vec_ / kLanes),
                     c.lanes.data() + first * p.row_bytes(), vecs, p.d_pad, score, s_vec_);
  }
}

}  // namespace prescore
