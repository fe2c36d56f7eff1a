// Building one segment: k-means on the tile kernels, with the keys in the lanes.
#include <algorithm>
#include <cstring>
#include <numeric>

#include "index/index_impl.h"
#include "tile/tile.h"

namespace prescore {
namespace {

using tile::kLanes;

float squared_norm(const float* x, std::int64_t d) {
  float s = 0;
  for (std::int64_t i = 0; i < d; ++i) s += x[i] * x[i];
  return s;
}

// Subtracts the mean row: distances stay, and bf16 products lose less.
void centre(float* x, std::int64_t n, std::int64_t d, std::int64_t d_pad) {
  float mean[tile::kMaxDim] = {};
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t i = 0; i < d; ++i) mean[i] += x[j * d_pad + i];
  for (std::int64_t i = 0; i < d; ++i) mean[i] /= static_cast<float>(n);
  for (std::int64_t j = 0; j < n; ++j)
    for (std::int64_t i = 0; i < d; ++i) x[j * d_pad + i] -= mean[i];
}

// Means of the rows by label; a cluster that lost all its rows keeps its place.
void update_means(const float* x, std::int64_t n, std::int64_t stride, std::int64_t d,
                  const std::uint16_t* label, float* centroid, std::int64_t n_clusters,
                  std::vector<std::int32_t>& size) {
  size.assign(static_cast<std::size_t>(n_clusters), 0);
  for (std::int64_t j = 0; j < n; ++j) {
    float* c = centroid + label[j] * stride;
    const float* row = x + j * stride;
    if (size[label[j]]++ == 0)
      std::copy_n(row, d, c);
    else
      for (std::int64_t i = 0; i < d; ++i) c[i] += row[i];
  }
  for (std::int64_t c = 0; c < n_clusters; ++c) {
    const auto count = static_cast<float>(size[static_cast<std::size_t>(c)]);
    if (count > 1)
      for (std::int64_t i = 0; i < d; ++i) centroid[c * stride + i] /= count;
  }
}

}  // namespace

std::uint64_t fingerprint(const Tensor& k, std::int64_t b, std::int64_t h, std::int64_t first,
                          std::int64_t n) {
  // Keys carry their position and context (RoPE, deeper layers), so a rewritten row differs
  // everywhere: sixteen bytes of each suffice. FNV-1a over 64-bit words.
  const std::int64_t bytes = std::min<std::int64_t>(16, k.shape[3] * size_of(k.dtype));
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (std::int64_t j = first; j < first + n; ++j) {
    std::uint64_t word[2] = {};
    std::memcpy(word, row(k, b, h, j), static_cast<std::size_t>(bytes));
    for (const std::uint64_t w : word) hash = (hash ^ w) * 0x100000001b3u ^ (hash >> 29);
  }
  return hash;
}

// label_ <- nearest centroid of each key: argmax of x.c - |c|^2 / 2.
void SegmentBuilder::assign(std::int64_t n_keys, std::int64_t n_clusters, std::int64_t d) {
  const tile::Kernels& t = *kernels_;
  const tile::RowKernels& r = tile::row_kernels();
  const auto n_pad = static_cast<int>(round_up(n_clusters, t.block_multiple));
  const auto vecs = static_cast<int>(round_up(n_keys, kLanes) / kLanes);
  float* bias = bias_.reserve(n_clusters);
  for (std::int64_t c = 0; c < n_clusters; ++c) {
    rows_[static_cast<std::size_t>(c)] = centroid_.data() + c * d_pad_;
    bias[c] = -0.5f * squared_norm(centroid_.data() + c * d_pad_, d);
  }
  const std::int64_t width = t.bf16 ? 2 : 4;
  std::byte* block = block_.reserve(n_pad * d_pad_ * width);
  t.load_k(rows_.data(), DType::kF32, static_cast<int>(n_clusters), n_pad, static_cast<int>(d),
           static_cast<int>(d_pad_), block);
  float* s = score_.reserve(std::int64_t{t.strip} * n_pad * kLanes);
  for (int v = 0; v < vecs; v += t.strip) {
    const int w = std::min(t.strip, vecs - v);
    t.scores(block, n_pad, packed_.data() + std::int64_t{v} * kLanes * d_pad_ * width, w,
             static_cast<int>(d_pad_), s, std::ptrdiff_t{n_pad} * kLanes);
    r.argmax(s, static_cast<int>(n_clusters), n_pad, w, bias, label_.data() + v * kLanes);
  }
}

// group_ <- group of each cluster: k-means over the non-empty centroids.
void SegmentBuilder::group(KeyIndex::Impl& index) {
  const tile::RowKernels& r = tile::row_kernels();
  const std::int64_t n_clusters = index.clusters, n_groups = index.groups, d = index.d;
  std::vector<std::int64_t> full;
  for (std::int64_t c = 0; c < n_clusters; ++c)
    if (size_[static_cast<std::size_t>(c)] > 0) full.push_back(c);
  group_.assign(static_cast<std::size_t>(n_clusters), 0);
  const auto n = static_cast<std::int64_t>(full.size());
  const std::int64_t k = std::min(n_groups, n);
  std::vector<float> x(static_cast<std::size_t>(n * d)), mean(static_cast<std::size_t>(k * d));
  for (std::int64_t j = 0; j < n; ++j)
    std::copy_n(centroid_.data() + full[static_cast<std::size_t>(j)] * d_pad_, d, x.data() + j * d);
  for (std::int64_t g = 0; g < k; ++g)
    std::copy_n(x.data() + (k == 1 ? 0 : g * (n - 1) / (k - 1)) * d, d, mean.data() + g * d);
  std::vector<std::uint16_t> label(static_cast<std::size_t>(n), 0);
  std::vector<const void*> rows(static_cast<std::size_t>(k));
  std::vector<float> dot(static_cast<std::size_t>(k)), half(static_cast<std::size_t>(k));
  std::vector<std::int32_t> size;
  constexpr int kIterations = 5;
  for (int it = 0; it <= kIterations; ++it) {
    for (std::int64_t g = 0; g < k; ++g) {
      rows[static_cast<std::size_t>(g)] = mean.data() + g * d;
      half[static_cast<std::size_t>(g)] = 0.5f * squared_norm(mean.data() + g * d, d);
    }
    bool same = it > 0;
    for (std::int64_t j = 0; j < n; ++j) {
      r.dots(x.data() + j * d, rows.data(), DType::kF32, static_cast<int>(k), static_cast<int>(d),
             dot.data());
      std::size_t best = 0;
      for (std::size_t g = 1; g < static_cast<std::size_t>(k); ++g)
        if (dot[g] - half[g] > dot[best] - half[best]) best = g;
      same = same && label[static_cast<std::size_t>(j)] == best;
      label[static_cast<std::size_t>(j)] = static_cast<std::uint16_t>(best);
    }
    if (same) break;
    if (it < kIterations) update_means(x.data(), n, d, d, label.data(), mean.data(), k, size);
  }
  for (std::size_t j = 0; j < static_cast<std::size_t>(n); ++j)
    group_[static_cast<std::size_t>(full[j])] = label[j];
}

void SegmentBuilder::build(KeyIndex::Impl& index, const Tensor& k, const Tensor& v, std::int64_t bh,
                           std::int64_t segment) {
  const tile::RowKernels& r = tile::row_kernels();
  kernels_ = &tile::kernels(Compute::kAuto, k.dtype);
  const tile::Kernels& t = *kernels_;
  const std::int64_t ib = bh / index.h, ih = bh % index.h, seg = index.options.segment;
  const std::int64_t skip = segment == 0 ? index.options.sinks : 0, n = seg - skip;
  const std::int64_t d = index.d, d_v = index.d_v, n_clusters = index.clusters;
  const std::int64_t first = segment * seg + skip;
  d_pad_ = round_up(d, t.d_multiple);
  index.fingerprint[bh * index.capacity + segment] = fingerprint(k, ib, ih, segment * seg, seg);

  // Keys in f32, centred, then packed as lanes.
  const std::int64_t lanes = std::max<std::int64_t>(kLanes, round_up(n, kLanes));
  float* x = x_.reserve(lanes * d_pad_);
  std::fill_n(x, lanes * d_pad_, 0.0f);
  for (std::int64_t j = 0; j < n; ++j)
    r.to_f32(row(k, ib, ih, first + j), k.dtype, static_cast<int>(d), x + j * d_pad_);
  if (n > 0) centre(x, n, d, d_pad_);
  rows_.resize(static_cast<std::size_t>(std::max(seg, n_clusters)));
  for (std::int64_t j = 0; j < n; ++j) rows_[static_cast<std::size_t>(j)] = x + j * d_pad_;
  t.pack_q(rows_.data(), DType::kF32, static_cast<int>(n), static_cast<int>(lanes / kLanes),
           static_cast<int>(d), static_cast<int>(d_pad_),
           packed_.reserve(lanes * d_pad_ * (t.bf16 ? 2 : 4)));

  float* centroid = centroid_.reserve(n_clusters * d_pad_);
  std::fill_n(centroid, n_clusters * d_pad_, 0.0f);
  label_.assign(static_cast<std::size_t>(lanes), 0);
  size_.assign(static_cast<std::size_t>(n_clusters), 0);
  if (n > 0) {
    for (std::int64_t c = 0; c < n_clusters; ++c)
      std::copy_n(x + (n_clusters == 1 ? 0 : c * (n - 1) / (n_clusters - 1)) * d_pad_, d,
                  centroid + c * d_pad_);
    for (std::int64_t it = 0; it < index.options.iterations; ++it) {
      assign(n, n_clusters, d);
      update_means(x, n, d_pad_, d, label_.data(), centroid, n_clusters, size_);
    }
    assign(n, n_clusters, d);
    size_.assign(static_cast<std::size_t>(n_clusters), 0);
    for (std::int64_t j = 0; j < n; ++j) ++size_[label_[static_cast<std::size_t>(j)]];
    group(index);
  } else {
    group_.assign(static_cast<std::size_t>(n_clusters), 0);
  }

  // Clusters in the order of their groups; members in the order of clusters and positions.
  order_.resize(static_cast<std::size_t>(n_clusters));
  std::iota(order_.begin(), order_.end(), std::uint16_t{0});
  std::stable_sort(order_.begin(), order_.end(),
                   [&](auto a, auto b) { return group_[a] < group_[b]; });
  const std::int64_t base = (bh * index.capacity + segment) * index.nodes;
  std::uint16_t* count = index.count.data() + base;
  std::uint16_t* begin = index.begin.data() + base;
  std::uint16_t* child = index.child.data() + (bh * index.capacity + segment) * (index.groups + 1);
  std::uint16_t* member = index.member.data() + (bh * index.capacity + segment) * seg;
  std::fill_n(count, index.nodes, std::uint16_t{0});
  std::fill_n(member, seg, std::uint16_t{0});
  std::uint16_t at = 0;
  std::vector<std::uint16_t> place(static_cast<std::size_t>(n_clusters));
  for (std::int64_t g = 0, c = 0; g < index.groups; ++g) {
    child[g] = static_cast<std::uint16_t>(c);
    begin[n_clusters + g] = at;
    for (; c < n_clusters && group_[order_[static_cast<std::size_t>(c)]] == g; ++c) {
      const std::uint16_t old = order_[static_cast<std::size_t>(c)];
      begin[c] = place[old] = at;
      count[c] = static_cast<std::uint16_t>(size_[old]);
      at = static_cast<std::uint16_t>(at + size_[old]);
    }
    count[n_clusters + g] = static_cast<std::uint16_t>(at - begin[n_clusters + g]);
  }
  child[index.groups] = static_cast<std::uint16_t>(n_clusters);
  begin[index.nodes - 1] = 0;
  count[index.nodes - 1] = at;
  for (std::int64_t j = 0; j < n; ++j)
    member[place[label_[static_cast<std::size_t>(j)]]++] = static_cast<std::uint16_t>(skip + j);

  // Mean key and value of every node, in fp32, stored in the dtypes of K and V.
  std::vector<float> weight(static_cast<std::size_t>(seg), 1.0f);
  float mean[tile::kMaxDim];
  const auto store_means = [&](const Tensor& from, std::int64_t width, std::byte* to) {
    for (std::int64_t node = 0; node < index.nodes; ++node, to += width * size_of(from.dtype)) {
      const int c = count[node];
      for (int j = 0; j < c; ++j)
        rows_[static_cast<std::size_t>(j)] =
            row(from, ib, ih, segment * seg + member[begin[node] + j]);
      std::fill_n(mean, width, 0.0f);
      r.axpys(weight.data(), rows_.data(), from.dtype, c, static_cast<int>(width), 0.0f, mean);
      const float scale = c > 0 ? 1.0f / static_cast<float>(c) : 0.0f;
      for (std::int64_t i = 0; i < width; ++i) mean[i] *= scale;
      r.from_f32(mean, static_cast<int>(width), from.dtype, to);
    }
  };
  store_means(k, d, index.node_k.data() + base * d * size_of(k.dtype));
  store_means(v, d_v, index.node_v.data() + base * d_v * size_of(v.dtype));

  if (index.options.packed) {
    const auto copy = [&](const Tensor& from, std::int64_t width, Buffer<std::byte>& to) {
      const std::int64_t bytes = width * size_of(from.dtype);
      std::byte* out = to.data() + (bh * index.capacity + segment) * seg * bytes;
      for (std::int64_t j = 0; j < at; ++j, out += bytes)
        std::memcpy(out, row(from, ib, ih, segment * seg + member[j]),
                    static_cast<std::size_t>(bytes));
    };
    copy(k, d, index.packed_k);
    copy(v, d_v, index.packed_v);
  }
}

}  // namespace prescore
