// The rows of K and V that a plan reads, as one numbered list; and where results go.
#pragma once

#include "common/device.cuh"
#include "common/mma.cuh"

namespace prescore::cuda {

/// Which rows are keys with weight 1 that every query which sees `limit` keys or more may read.
/// Rows are numbered as in RowSource.
class Plain {
 public:
  __device__ Plain(const Reads& reads, int limit)
      : keys_(reads.total() - reads.nodes), window_(reads.end - reads.window),
        seen_(limit - reads.window) {}
  __device__ bool operator()(int first, int n) const {
    return first + n <= keys_ && (first >= window_ || min(first + n, window_) <= seen_);
  }

 private:
  int keys_, window_, seen_;
};

/// What one head reads.
__device__ __forceinline__ Reads reads_of(const Problem& p, const PlanView& plan,
                                          const TileInfo& tile, int list, int t, int head) {
  if (plan.redone != nullptr && plan.redone[head] != 0)
    return {0, tile.end(p, tile.rows - 1), 0, 0, 0};
  return plan.reads[plan.at(list, t)];
}

/// Rows are numbered in the order of Reads: window, sinks, list. So only the first ones, which are
/// consecutive keys, can be invisible to some query of the tile.
template <typename T>
class RowSource {
 public:
  struct Row {
    std::int32_t id;  ///< key of the sequence, or ~(node of the sequence)
    bool valid;
    int at = -1;  ///< its place in the list
  };

  __device__ RowSource(const Problem& p, const PlanView& plan, const IndexView& index,
                       const TileInfo& tile, int list, int t, int head)
      : reads_(reads_of(p, plan, tile, list, t, head)), list_(plan.list + plan.entries(list, t)),
        weight_(plan.weight == nullptr ? nullptr : plan.weight + plan.entries(list, t)) {
    const int h = p.kv_head(plan.head(list));
    k_ = row<T>(p.k, tile.batch, h, tile.k), v_ = row<T>(p.v, tile.batch, h, tile.k);
    k_n_ = p.k.n, v_n_ = p.v.n;
    d_ = p.d, d_v_ = p.d_v;
    node_ = index.at(h, tile.segment) * index.nodes;
    node_k_ = static_cast<const T*>(index.node_k), node_v_ = static_cast<const T*>(index.node_v);
    count_ = index.count;
    window_ = reads_.end - reads_.window;
    total_ = reads_.total();
  }

  __device__ int total() const { return total_; }
  __device__ Row find(int i) const {
    if (i >= total_) return {0, false};
    if (i < window_) return {reads_.window + i, true};
    i -= window_;
    if (i < reads_.sinks) return {i, true};
    i -= reads_.sinks;
    return {list_[i], true, i};
  }
  __device__ const T* key(Row r) const {
    return r.id >= 0 ? k_ + r.id * k_n_ : node_k_ + (node_ + ~r.id) * d_;
  }
  __device__ const T* value(Row r) const {
    return r.id >= 0 ? v_ + r.id * v_n_ : node_v_ + (node_ + ~r.id) * d_v_;
  }
  /// What is added to the logarithm (base 2) of a row's weight.
  __device__ float bias(Row r) const {
    if (!r.valid) return -INFINITY;
    if (r.id < 0) return log2f(static_cast<float>(count_[node_ + ~r.id]));
    return weight_ != nullptr && r.at >= 0 ? weight_[r.at] : 0.0f;
  }
  /// The same of row i where keys have no weights; only stand-ins are looked up.
  __device__ float bias_at(int i) const {
    if (i >= total_) return -INFINITY;
    return i < total_ - reads_.nodes ? 0.0f : bias(find(i));
  }
  /// Its key's position where it can be invisible, else -1.
  __device__ int position(int i) const { return i < window_ ? reads_.window + i : -1; }

 private:
  Reads reads_;
  const std::int32_t* list_;
  const float* weight_;
  const T *k_, *v_, *node_k_, *node_v_;
  const std::uint16_t* count_;
  std::int64_t k_n_, v_n_, node_;
  int d_, d_v_, window_, total_;
};

/// Where the queries of a tile lie: rows of one head, or lanes of several.
class Queries {
 public:
  __device__ Queries(const PlanView& plan, const TileInfo& tile, int head)
      : lane_(plan.lane), first_{head, tile.q} {}
  __device__ Lane operator()(int i) const {
    return lane_ != nullptr ? lane_[first_.query + i] : Lane{first_.head, first_.query + i};
  }

 private:
  const Lane* lane_;
  Lane first_;
};

__device__ __forceinline__ float* lse_of(const Problem& p, int batch, Lane at) {
  return p.lse + (std::int64_t{batch} * p.h_q + at.head) * p.n_q + at.query;
}

/// Writes one query's o and lse. Of its columns a lane holds pairs 2 (lane % 4) of each 8, at
/// o[column / 8][2 r] and [2 r + 1]; m: maximum in base 2, sum: of 2^(x - m).
template <typename T, int kCols>
__device__ __forceinline__ void store_row(const Problem& p, int batch, Lane at,
                                          const float (&o)[kCols][4], int r, int lane, float m,
                                          float sum) {
  const bool empty = !(sum > 0.0f) && sum == sum;  // NaN is no empty set
  const float inverse = empty ? 0.0f : 1.0f / sum;
  T* to = const_cast<T*>(row<T>(p.o, batch, at.head, at.query));
#pragma unroll
  for (int n = 0; n < kCols; ++n) {
    const int c = 8 * n + 2 * (lane % 4);
    if (c < p.d_v)
      *reinterpret_cast<std::uint32_t*>(to + c) =
          pack<T>(o[n][2 * r] * inverse, o[n][2 * r + 1] * inverse);
  }
  if (p.lse != nullptr && lane % 4 == 0)
    *lse_of(p, batch, at) = empty ? -INFINITY : (m + log2f(sum)) * kLn2;
}

/// The reverse: what is there is one entry of the softmax, its log-sum-exp as score, weight 1.
template <typename T, int kCols>
__device__ __forceinline__ void load_row(const Problem& p, int batch, Lane at, float (&o)[kCols][4],
                                         int r, int lane, float& m, float& sum) {
  const float lse = *lse_of(p, batch, at);
  if (lse == -INFINITY) return;
  m = lse * kLog2E, sum = lane % 4 == 0 ? 1.0f : 0.0f;  // sums of a quad are added up later
  const T* from = row<T>(p.o, batch, at.head, at.query);
#pragma unroll
  for (int n = 0; n < kCols; ++n) {
    const int c = 8 * n + 2 * (lane % 4);
    if (c >= p.d_v) continue;
    const float2 x = unpack<T>(*reinterpret_cast<const std::uint32_t*>(from + c));
    o[n][2 * r] = x.x, o[n][2 * r + 1] = x.y;
  }
}

}  // namespace prescore::cuda
