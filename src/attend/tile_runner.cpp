#include "attend/tile_runner.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace prescore {
namespace {

using tile::kLanes;
using tile::kLog2E;
constexpr float kLn2 = 0.69314718f;
// A key that every lane sees.
constexpr std::int32_t kEverywhere = -1;
// Up to this many lanes, dot products with rows as they lie beat filling tiles.
constexpr std::size_t kRowLanes = 2;

int block_size(const tile::Kernels& k, std::int64_t d) {
  return d <= 128 ? k.block : k.block / 2 / k.block_multiple * k.block_multiple;
}

}  // namespace

TileRunner::TileRunner(const AttendInputs& in, const State& out, const tile::Kernels& kernels)
    : in_(in), out_(out), kernels_(kernels), rows_(tile::row_kernels()), d_(in.q.shape[3]),
      d_v_(in.v.shape[3]), d_pad_(static_cast<int>(round_up(d_, kernels.d_multiple))),
      dv_pad_(static_cast<int>(round_up(d_v_, kernels.d_multiple))),
      block_(block_size(kernels, std::max(d_, d_v_))), scale_(std::fabs(in.scale) * kLog2E),
      sign_(in.scale < 0 ? -1.0f : 1.0f), k_lines_(cache_lines(d_ * size_of(in.k.dtype))),
      v_lines_(cache_lines(d_v_ * size_of(in.v.dtype))) {}

std::int64_t TileRunner::bytes(std::int64_t lanes, std::int64_t d, std::int64_t d_v) {
  const std::int64_t block = tile::kMaxBlock;
  const std::int64_t l = round_up(lanes, kLanes), dp = round_up(d, 32), dvp = round_up(d_v, 32);
  return 4 * (l * dp * 2 + l * dvp + block * (dp + dvp) + 3 * 4 * kLanes * block) + 16 * l +
         12 * l + block * 24 + 4 * dvp;
}

void TileRunner::run(const Tile& tile, const TilePlan& plan) {
  start(tile);
  feed(tile, plan);
  flush();
  if (plan.zero_rows > 0) add_zero_rows(plan.zero_rows);
  finish(tile);
}

void TileRunner::start(const Tile& tile) {
  batch_ = tile.batch;
  lanes_.clear();
  if (tile.lanes != nullptr)
    lanes_.assign(tile.lanes + tile.first, tile.lanes + tile.last);
  else
    for (std::int64_t h = 0; h < tile.heads; ++h)
      for (std::int64_t i = tile.first; i < tile.last; ++i)
        lanes_.push_back(
            {static_cast<std::int32_t>(tile.head_at(h)), static_cast<std::int32_t>(i)});
  load_lanes();
  if (tile.part > 0) resume();
}

void TileRunner::load_lanes() {
  const auto n = static_cast<std::int64_t>(lanes_.size());
  by_rows_ = lanes_.size() <= kRowLanes && in_.visibility.mask == nullptr;
  const std::int64_t padded = round_up(n, kLanes);
  vecs_ = static_cast<int>(padded / kLanes);

  const bool as_it_is = !by_rows_ && sign_ > 0;  // not in f32
  float* q = query_.reserve(as_it_is ? 0 : padded * d_pad_);
  q_row_.resize(static_cast<std::size_t>(n));
  std::int32_t* end = lane_end_.reserve(padded);
  std::fill_n(end, padded, 0);
  for (std::int64_t l = 0; l < n; ++l) {
    const Lane& lane = lanes_[static_cast<std::size_t>(l)];
    const void*& from = q_row_[static_cast<std::size_t>(l)];
    from = row(in_.q, batch_, lane.head, lane.query);
    if (!as_it_is) {
      float* to = q + l * d_pad_;
      rows_.to_f32(from, in_.q.dtype, static_cast<int>(d_), to);
      if (sign_ < 0)
        for (std::int64_t c = 0; c < d_; ++c) to[c] = -to[c];
      from = to;
    }
    end[l] =
        static_cast<std::int32_t>(std::min(in_.visibility.end(lane.query), in_.visibility.n_kv));
  }
  tile::LaneState* state = state_.reserve(vecs_);
  for (int v = 0; v < vecs_; ++v) {
    std::fill_n(state[v].m, kLanes, tile::kEmptyMax);
    std::fill_n(state[v].l, kLanes, 0.0f);
    std::fill_n(state[v].alpha, kLanes, 1.0f);
  }
  std::fill_n(o_.reserve(padded * dv_pad_), padded * dv_pad_, 0.0f);
  if (!by_rows_)
    kernels_.pack_q(q_row_.data(), as_it_is ? in_.q.dtype : DType::kF32, static_cast<int>(n), vecs_,
                    static_cast<int>(d_), d_pad_,
                    packed_q_.reserve(padded * d_pad_ * (kernels_.bf16 ? 2 : 4)));
}

// What is there is one entry of the softmax: its log-sum-exp as score, weight 1.
void TileRunner::resume() {
  for (std::size_t l = 0; l < lanes_.size(); ++l) {
    const Lane& lane = lanes_[l];
    const float lse = out_.lse[(batch_ * in_.q.shape[1] + lane.head) * in_.q.shape[2] + lane.query];
    if (lse == -std::numeric_limits<float>::infinity()) continue;
    const auto vec = static_cast<std::int64_t>(l) / kLanes;
    const auto i = static_cast<std::int64_t>(l) % kLanes;
    state_[vec].m[i] = lse * kLog2E;
    state_[vec].l[i] = 1.0f;
    const auto* from = reinterpret_cast<const float*>(row(out_.o, batch_, lane.head, lane.query));
    float* to = by_rows_ ? o_.data() + static_cast<std::int64_t>(l) * dv_pad_
                         : o_.data() + vec * dv_pad_ * kLanes + i;
    for (std::int64_t c = 0; c < d_v_; ++c) to[c * (by_rows_ ? 1 : kLanes)] = from[c];
  }
}

// Score 0 and value 0: they only lengthen the sum. The maximum must not stay below their score.
void TileRunner::add_zero_rows(float count) {
  for (std::size_t lane = 0; lane < lanes_.size(); ++lane) {
    const auto vec = static_cast<std::int64_t>(lane) / kLanes;
    const auto i = static_cast<std::int64_t>(lane) % kLanes;
    float &m = state_[vec].m[i], &sum = state_[vec].l[i];
    const float alpha = m < 0 ? std::exp2(m) : 1.0f;
    float* o = by_rows_ ? o_.data() + static_cast<std::int64_t>(lane) * dv_pad_
                        : o_.data() + vec * dv_pad_ * kLanes + i;
    if (alpha != 1.0f)
      for (std::int64_t c = 0; c < d_v_; ++c) o[c * (by_rows_ ? 1 : kLanes)] *= alpha;
    m = std::max(m, 0.0f);
    sum = sum * alpha + count * std::exp2(-m);
  }
}

void TileRunner::feed(const Tile& tile, const TilePlan& plan) {
  const std::int64_t group = in_.q.shape[1] / in_.k.shape[1], h = tile.head / group;
  const std::byte* k0 = row(in_.k, tile.batch, h, 0);
  const std::byte* v0 = row(in_.v, tile.batch, h, 0);
  const std::int64_t k_step = in_.k.stride[2] * size_of(in_.k.dtype);
  const std::int64_t v_step = in_.v.stride[2] * size_of(in_.v.dtype);
  const std::int64_t last = lane_end_[static_cast<std::int64_t>(lanes_.size()) - 1];

  for (const Range& r : plan.ranges)
    for (std::int64_t j = r.begin; j < std::min(r.end, last); ++j)
      push(k0 + j * k_step, v0 + j * v_step, static_cast<std::int32_t>(j), 0.0f);

  const KeyIndex::Impl* index = in_.index != nullptr ? &in_.index->impl() : nullptr;
  const std::int64_t bh = index != nullptr ? index->head(tile.batch, h) : 0;
  if (plan.packed.empty()) {
    for (std::size_t i = 0; i < plan.keys.size(); ++i)
      push(k0 + plan.keys[i] * k_step, v0 + plan.keys[i] * v_step, kEverywhere,
           plan.log_weights.empty() ? 0.0f : plan.log_weights[i] * kLog2E);
  } else {
    const std::int64_t rows = index->capacity * index->options.segment;
    const std::int64_t kb = d_ * size_of(in_.k.dtype), vb = d_v_ * size_of(in_.v.dtype);
    for (const std::int32_t at : plan.packed)
      push(index->packed_k.data() + (bh * rows + at) * kb,
           index->packed_v.data() + (bh * rows + at) * vb, kEverywhere, 0.0f);
  }
  for (const std::int32_t node : plan.nodes)
    push(index->key_of(bh, node), index->value_of(bh, node), kEverywhere,
         std::log2(static_cast<float>(index->counts_of(bh)[node])));
}

inline void TileRunner::push(const void* k, const void* v, std::int32_t position, float weight) {
  // Gathered rows are far apart: ask for them while the block fills.
  prefetch_row(k, k_lines_);
  prefetch_row(v, v_lines_);
  k_row_[n_] = k;
  v_row_[n_] = v;
  position_[n_] = position;
  weight_[n_] = weight;
  weighted_ |= weight != 0.0f;
  if (++n_ == block_) flush();
}

void TileRunner::flush() {
  if (n_ == 0) return;
  if (by_rows_)
    flush_rows(n_);
  else
    flush_tiles(n_);
  n_ = 0;
  weighted_ = false;
}

void TileRunner::flush_tiles(int n) {
  const auto n_pad = static_cast<int>(round_up(n, kernels_.block_multiple));
  const int width = kernels_.bf16 ? 2 : 4, strip = kernels_.strip;
  std::byte* k = k_block_.reserve(std::int64_t{n_pad} * d_pad_ * width);
  std::byte* v = v_block_.reserve(kernels_.v_block_bytes(n_pad, dv_pad_));
  float* s = score_.reserve(std::int64_t{strip} * n_pad * kLanes);
  std::byte* p = p_block_.reserve(std::int64_t{strip} * n_pad * kLanes * width);
  kernels_.load_k(k_row_, in_.k.dtype, n, n_pad, static_cast<int>(d_), d_pad_, k);
  kernels_.load_v(v_row_, in_.v.dtype, n, n_pad, static_cast<int>(d_v_), dv_pad_, v);
  const auto [nearest, furthest] = std::minmax_element(position_, position_ + n);

  for (int first = 0; first < vecs_; first += strip) {
    const int vecs = std::min(strip, vecs_ - first);
    const std::int32_t* end = lane_end_.data() + first * kLanes;
    const auto [low, high] = std::minmax_element(end, end + vecs * kLanes);
    if (*nearest >= *high) continue;  // nothing here that any of these lanes sees
    tile::BlockMask mask;
    if (*furthest >= *low) mask.position = position_, mask.lane_end = end;
    if (weighted_) mask.weight = weight_;
    if (in_.visibility.mask != nullptr) {
      fill_bias(n, n_pad, first, vecs);
      mask.bias = bias_.data();
    }
    kernels_.scores(k, n_pad, packed_q_.data() + std::int64_t{first} * kLanes * d_pad_ * width,
                    vecs, d_pad_, s, std::ptrdiff_t{n_pad} * kLanes);
    tile::LaneState* state = state_.data() + first;
    kernels_.softmax(s, n, n_pad, vecs, scale_, mask, state, p);
    kernels_.accumulate(p, v, n_pad, vecs, dv_pad_, state,
                        o_.data() + std::int64_t{first} * kLanes * dv_pad_);
  }
}

// One or two lanes: rows are read as they lie, in f32.
void TileRunner::flush_rows(int n) {
  float p[tile::kMaxBlock];
  for (std::size_t l = 0; l < lanes_.size(); ++l) {
    const auto lane = static_cast<std::int64_t>(l);
    float* m = &state_[0].m[l];
    float* sum = &state_[0].l[l];
    rows_.dots(query_.data() + lane * d_pad_, k_row_, in_.k.dtype, n, static_cast<int>(d_), p);
    for (int j = 0; j < n; ++j)
      p[j] = position_[j] < lane_end_[lane] ? p[j] * scale_ + weight_[j] : tile::kMasked;
    const float top = rows_.max(p, n), m_new = top > *m || top != top ? top : *m;
    const float alpha = m_new == *m ? 1.0f : std::exp2(*m - m_new);
    *sum = *sum * alpha + rows_.exp2s(p, n, m_new, p);
    *m = m_new;
    rows_.axpys(p, v_row_, in_.v.dtype, n, static_cast<int>(d_v_), alpha,
                o_.data() + lane * dv_pad_);
  }
}

// The additive mask of the caller, in lanes and in base 2.
void TileRunner::fill_bias(int n, int n_pad, int first_vec, int vecs) {
  const Visibility& v = in_.visibility;
  float* to = bias_.reserve(std::int64_t{vecs} * n_pad * kLanes);
  for (int vec = 0; vec < vecs; ++vec)
    for (int i = 0; i < kLanes; ++i) {
      const auto l = static_cast<std::size_t>((first_vec + vec) * kLanes + i);
      float* column = to + std::int64_t{vec} * n_pad * kLanes + i;
      if (l >= lanes_.size()) {
        for (int j = 0; j < n; ++j) column[j * kLanes] = 0.0f;
        continue;
      }
      const std::uint16_t* mask =
          v.mask + batch_ * v.mask_batch_stride + lanes_[l].query * v.mask_stride;
      for (int j = 0; j < n; ++j) column[j * kLanes] = f16_to_f32(mask[position_[j]]) * kLog2E;
    }
}

void TileRunner::finish(const Tile& tile) {
  float* o = row_o_.reserve(dv_pad_);
  for (std::size_t l = 0; l < lanes_.size(); ++l) {
    const Lane& lane = lanes_[l];
    const float lse = finish_lane(static_cast<std::int64_t>(l), o);
    rows_.from_f32(o, static_cast<int>(d_v_), out_.o.dtype,
                   row(out_.o, tile.batch, lane.head, lane.query));
    if (out_.lse != nullptr)
      out_.lse[(tile.batch * in_.q.shape[1] + lane.head) * in_.q.shape[2] + lane.query] = lse;
  }
}

float TileRunner::finish_lane(std::int64_t l, float* o) const {
  const std::int64_t vec = l / kLanes, i = l % kLanes, step = by_rows_ ? 1 : kLanes;
  const float sum = state_[vec].l[i], m = state_[vec].m[i];
  const float factor = sum == 0.0f ? 0.0f : 1.0f / sum;
  const float* from = by_rows_ ? o_.data() + l * dv_pad_ : o_.data() + (vec * dv_pad_) * kLanes + i;
  for (std::int64_t c = 0; c < d_v_; ++c) o[c] = from[c * step] * factor;
  return sum == 0.0f ? -std::numeric_limits<float>::infinity() : (m + std::log2(sum)) * kLn2;
}

void TileRunner::run_lanes(std::int64_t batch, std::span<const Lane> lanes, const TilePlan& plan,
                           float* o, float* lse) {
  batch_ = batch;
  lanes_.assign(lanes.begin(), lanes.end());
  load_lanes();
  feed({batch, lanes[0].head}, plan);
  flush();
  for (std::size_t l = 0; l < lanes.size(); ++l)
    lse[l] = finish_lane(static_cast<std::int64_t>(l), o + static_cast<std::int64_t>(l) * d_v_);
}

void TileRunner::count(const Visibility& v, const Tile& tile, const TilePlan& plan, Counters& c) {
  const auto single = static_cast<std::int64_t>(plan.keys.size());
  if (tile.lanes != nullptr) {  // a later part: these queries have been counted
    c.keys += (tile.last - tile.first) * single;
    c.products += plan.products;
    return;
  }
  for (std::int64_t i = tile.first; i < tile.last; ++i) {
    const std::int64_t end = std::min(v.end(i), v.n_kv);
    std::int64_t keys = single;
    for (const Range& r : plan.ranges)
      keys += std::max<std::int64_t>(0, std::min(r.end, end) - r.begin);
    c.keys += tile.heads * keys;
    c.visible += tile.heads * end;
  }
  const std::int64_t queries = tile.heads * (tile.last - tile.first);
  c.queries += queries;
  c.standins += queries * static_cast<std::int64_t>(plan.nodes.size());
  c.products += plan.products;
}

}  // namespace prescore
