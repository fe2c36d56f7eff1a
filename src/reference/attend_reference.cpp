// Oracle of the stages attend and merge.
#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <map>

#include "reference/reference.h"

namespace prescore::reference {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

double widen_half(std::uint16_t bits) {
  const double sign = (bits & 0x8000u) != 0 ? -1.0 : 1.0;
  const int exponent = (bits >> 10) & 0x1f;
  const int fraction = bits & 0x3ff;
  if (exponent == 0x1f) {
    return fraction != 0 ? std::numeric_limits<double>::quiet_NaN() : sign * kInf;
  }
  if (exponent == 0) return sign * std::ldexp(fraction, -24);
  return sign * std::ldexp(fraction + 1024, exponent - 25);
}

}  // namespace

double load(const void* data, DType dtype, std::int64_t element) {
  const char* bytes = static_cast<const char*>(data) + element * size_of(dtype);
  if (dtype == DType::kF32) {
    float x = 0;
    std::memcpy(&x, bytes, sizeof x);
    return x;
  }
  std::uint16_t bits = 0;
  std::memcpy(&bits, bytes, sizeof bits);
  if (dtype == DType::kF16) return widen_half(bits);
  return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

Array load(const Tensor& t) {
  Array out(t.shape);
  for (std::int64_t b = 0; b < t.shape[0]; ++b) {
    for (std::int64_t h = 0; h < t.shape[1]; ++h) {
      for (std::int64_t i = 0; i < t.shape[2]; ++i) {
        for (std::int64_t c = 0; c < t.shape[3]; ++c) {
          const std::int64_t at =
              b * t.stride[0] + h * t.stride[1] + i * t.stride[2] + c * t.stride[3];
          out.row(b, h, i)[c] = load(t.data, t.dtype, at);
        }
      }
    }
  }
  return out;
}

double attend_row(const double* q, std::span<const Entry> entries, std::int64_t d, std::int64_t d_v,
                  double scale, double* o) {
  std::fill(o, o + d_v, 0.0);
  std::vector<double> logits;
  double top = -kInf;
  for (const Entry& e : entries) {
    double dot = 0;
    for (std::int64_t c = 0; c < d; ++c) dot += q[c] * e.key[c];
    logits.push_back(scale * dot + e.log_weight);
    if (e.log_weight != -kInf) top = std::max(top, logits.back());
  }
  if (top == -kInf) return -kInf;
  double sum = 0;
  for (std::size_t j = 0; j < entries.size(); ++j) {
    if (entries[j].log_weight == -kInf) continue;
    const double p = std::exp(logits[j] - top);
    sum += p;
    for (std::int64_t c = 0; c < d_v; ++c) o[c] += p * entries[j].value[c];
  }
  for (std::int64_t c = 0; c < d_v; ++c) o[c] /= sum;
  return top + std::log(sum);
}

namespace {

// Applies attend_row to whatever `rows` visits.
template <typename Rows>
Result attend_rows(const Problem& p, const Rows& rows) {
  const auto [b_, h_q, n_q, d] = p.q.shape;
  Result r{Array({b_, h_q, n_q, p.v.shape[3]}), {}};
  r.lse.assign(static_cast<std::size_t>(b_ * h_q * n_q), -kInf);
  rows([&](std::int64_t b, std::int64_t h, std::int64_t i, std::span<const Entry> entries) {
    const auto at = static_cast<std::size_t>((b * p.q.shape[1] + h) * p.q.shape[2] + i);
    r.lse[at] = attend_row(p.q.row(b, h, i), entries, p.q.shape[3], p.v.shape[3], p.scale,
                           r.o.row(b, h, i));
  });
  return r;
}

}  // namespace

void for_each_row(const Problem& p, const VisitRow& visit) {
  const auto [b_, h_q, n_q, d] = p.q.shape;
  const std::int64_t group = h_q / p.k.shape[1];
  const Visibility& see = p.visibility;
  for (std::int64_t b = 0; b < b_; ++b) {
    for (std::int64_t h = 0; h < h_q; ++h) {
      for (std::int64_t i = 0; i < n_q; ++i) {
        std::vector<Entry> entries;
        for (std::int64_t j = 0; j < std::min(see.end(i), p.k.shape[2]); ++j) {
          double weight = 0;
          if (see.mask != nullptr) {
            weight = widen_half(see.mask[b * see.mask_batch_stride + i * see.mask_stride + j]);
          }
          entries.push_back({p.k.row(b, h / group, j), p.v.row(b, h / group, j), weight});
        }
        visit(b, h, i, entries);
      }
    }
  }
}

Result dense(const Problem& p) {
  return attend_rows(p, [&](const VisitRow& visit) { for_each_row(p, visit); });
}

Reads reads_of(const TilePlan& plan, std::int64_t end) {
  Reads r;
  for (const Range& range : plan.ranges) {
    for (std::int64_t j = range.begin; j < std::min(range.end, end); ++j) {
      r.keys.push_back(j);
      r.log_weights.push_back(0);
    }
  }
  for (std::size_t i = 0; i < plan.keys.size(); ++i) {
    r.keys.push_back(plan.keys[i]);
    r.log_weights.push_back(plan.log_weights.empty() ? 0.0 : double{plan.log_weights[i]});
  }
  r.nodes.assign(plan.nodes.begin(), plan.nodes.end());
  return r;
}

void for_each_row(const Problem& p, const Plan& plan, const KeyIndex* index,
                  const VisitRow& visit) {
  const std::int64_t group = p.q.shape[1] / p.k.shape[1];
  Array node_keys, node_values;
  if (index != nullptr && index->size() > 0) {
    node_keys = load(index->node_keys());
    node_values = load(index->node_values());
  }
  // A query may have tiles in several parts: what it reads is all of them.
  std::map<std::array<std::int64_t, 3>, std::vector<Entry>> all;
  for (std::size_t t = 0; t < plan.tiles.size(); ++t) {
    const Tile& tile = plan.tiles[t];
    const std::int64_t h_kv = tile.head / group;
    std::vector<Lane> lanes;
    if (tile.lanes != nullptr) lanes.assign(tile.lanes + tile.first, tile.lanes + tile.last);
    for (std::int64_t h = 0; h < tile.heads; ++h) {
      for (std::int64_t i = tile.first; i < tile.last && tile.lanes == nullptr; ++i)
        lanes.push_back(
            {static_cast<std::int32_t>(tile.head_at(h)), static_cast<std::int32_t>(i)});
    }
    for (const Lane& lane : lanes) {
      const Reads reads = reads_of(plan.reads[t], p.visibility.end(lane.query));
      std::vector<Entry>& entries = all[{tile.batch, lane.head, lane.query}];
      for (std::size_t e = 0; e < reads.keys.size(); ++e) {
        entries.push_back({p.k.row(tile.batch, h_kv, reads.keys[e]),
                           p.v.row(tile.batch, h_kv, reads.keys[e]), reads.log_weights[e]});
      }
      for (const std::int64_t node : reads.nodes) {
        const double count = index->count(tile.batch, h_kv, node);
        entries.push_back({node_keys.row(tile.batch, h_kv, node),
                           node_values.row(tile.batch, h_kv, node), std::log(count)});
      }
    }
  }
  for (const auto& [at, entries] : all) visit(at[0], at[1], at[2], entries);
}

Result attend(const Problem& p, const Plan& plan, const KeyIndex* index) {
  return attend_rows(
      p, [&](const VisitRow& visit) { for_each_row(p, plan, index, visit); });
}

Result merge(const Result& x, const Result& y) {
  Result r{Array(x.o.shape), std::vector<double>(x.lse.size(), -kInf)};
  const auto d_v = static_cast<std::size_t>(x.o.shape[3]);
  for (std::size_t i = 0; i < x.lse.size(); ++i) {
    const double top = std::max(x.lse[i], y.lse[i]);
    if (top == -kInf) continue;
    const double wx = std::exp(x.lse[i] - top), wy = std::exp(y.lse[i] - top);
    r.lse[i] = top + std::log(wx + wy);
    for (std::size_t c = i * d_v; c < (i + 1) * d_v; ++c) {
      r.o.data[c] = (wx * x.o.data[c] + wy * y.o.data[c]) / (wx + wy);
    }
  }
  return r;
}

}  // namespace prescore::reference
