#include "prescore/index.h"

#include <algorithm>

#include "common/check.h"
#include "index/index_impl.h"

namespace prescore {
namespace {

// Room for at least `wanted` rows a head, keeping what is there.
template <typename T>
void regrow(Buffer<T>& buffer, std::int64_t heads, std::int64_t old_rows, std::int64_t new_rows,
            std::int64_t used_rows, std::int64_t width) {
  Buffer<T> bigger(std::max<std::int64_t>(1, heads * new_rows * width));
  for (std::int64_t i = 0; i < heads && used_rows > 0; ++i)
    std::copy_n(buffer.data() + i * old_rows * width, used_rows * width,
                bigger.data() + i * new_rows * width);
  buffer.swap(bigger);
}

}  // namespace

void KeyIndex::Impl::grow(std::int64_t wanted) {
  if (wanted <= capacity) return;
  // A first call takes exactly what it needs; a growing cache an eighth more, so that appending
  // stays linear.
  const std::int64_t to = capacity == 0 ? wanted : std::max(wanted, capacity + capacity / 8 + 1);
  const std::int64_t heads = b * h, was = capacity, now = segments;
  regrow(node_k, heads, was * nodes, to * nodes, now * nodes, d * size_of(k_type));
  regrow(node_v, heads, was * nodes, to * nodes, now * nodes, d_v * size_of(v_type));
  regrow(count, heads, was * nodes, to * nodes, now * nodes, 1);
  regrow(begin, heads, was * nodes, to * nodes, now * nodes, 1);
  regrow(child, heads, was, to, now, groups + 1);
  regrow(member, heads, was, to, now, options.segment);
  regrow(fingerprint, heads, was, to, now, 1);
  if (options.packed) {
    const std::int64_t s = options.segment;
    regrow(packed_k, heads, was * s, to * s, now * s, d * size_of(k_type));
    regrow(packed_v, heads, was * s, to * s, now * s, d_v * size_of(v_type));
  }
  capacity = to;
}

void check_index_options(const IndexOptions& o) {
  check(o.segment >= 16 && o.segment <= 4096, "index", "segment", o.segment, "16 to 4096 keys");
  check(o.cluster >= 1 && o.cluster <= o.segment, "index", "cluster", o.cluster,
        "1 key to a segment");
  check(o.group >= o.cluster && o.group <= o.segment, "index", "group", o.group,
        "a cluster to a segment");
  check(o.iterations >= 1 && o.iterations <= 1000, "index", "iterations", o.iterations,
        "1 to 1000");
  check(o.sinks >= 0 && o.sinks <= o.segment, "index", "sinks", o.sinks, "0 to a segment");
}

KeyIndex::KeyIndex(const IndexOptions& o) : impl_(std::make_unique<Impl>()) {
  check_index_options(o);
  impl_->options = o;
  impl_->clusters = (o.segment + o.cluster - 1) / o.cluster;
  impl_->groups = (o.segment + o.group - 1) / o.group;
  impl_->nodes = impl_->clusters + impl_->groups + 1;
}
KeyIndex::~KeyIndex() = default;
KeyIndex::KeyIndex(KeyIndex&&) noexcept = default;
KeyIndex& KeyIndex::operator=(KeyIndex&&) noexcept = default;

void KeyIndex::extend(const Tensor& k, const Tensor& v, Executor& executor) {
  check_tensor(k, "index", "k");
  check_tensor(v, "index", "v");
  Impl& x = *impl_;
  for (std::size_t i = 0; i < 3; ++i)
    check(k.shape[i] == v.shape[i], "index", "v shape " + to_string(v.shape) + " at axis",
          static_cast<std::int64_t>(i), "batch, heads and keys of k " + to_string(k.shape));
  check(k.shape[3] <= 512 && v.shape[3] <= 512, "index", "head size",
        std::max(k.shape[3], v.shape[3]), "at most 512");
  if (x.b == 0) {
    x.b = k.shape[0], x.h = k.shape[1], x.d = k.shape[3], x.d_v = v.shape[3];
    x.k_type = k.dtype, x.v_type = v.dtype;
  }
  if (k.shape[0] != x.b || k.shape[1] != x.h || k.shape[3] != x.d || v.shape[3] != x.d_v ||
      k.dtype != x.k_type || v.dtype != x.v_type)
    fail("index", "k and v of other shape or dtype than before", to_string(k.shape),
         to_string({x.b, x.h, k.shape[2], x.d}));
  check(k.shape[2] >= size(), "index", "keys", k.shape[2],
        "at least the " + std::to_string(size()) + " keys indexed already");

  const std::int64_t first = x.segments, last = k.shape[2] / x.options.segment;
  if (last <= first) return;
  x.grow(last);
  const std::int64_t heads = x.b * x.h;
  std::vector<SegmentBuilder> builders(static_cast<std::size_t>(executor.width()));
  executor.run(heads * (last - first), [&](std::int64_t task, int worker) {
    builders[static_cast<std::size_t>(worker)].build(x, k, v, task % heads, first + task / heads);
  });
  x.segments = last;
}

void KeyIndex::truncate(std::int64_t n) {
  impl_->segments = std::clamp<std::int64_t>(n / impl_->options.segment, 0, impl_->segments);
}

std::int64_t KeyIndex::validate(const Tensor& k) {
  Impl& x = *impl_;
  if (x.segments == 0) return 0;
  check_tensor(k, "index", "k");
  if (k.shape[0] != x.b || k.shape[1] != x.h || k.shape[3] != x.d || k.dtype != x.k_type) {
    truncate(0);
    return 0;
  }
  const std::int64_t seg = x.options.segment;
  std::int64_t good = std::min(x.segments, k.shape[2] / seg);
  for (std::int64_t bh = 0; bh < x.b * x.h; ++bh)
    for (std::int64_t s = 0; s < good; ++s)
      if (x.fingerprint[bh * x.capacity + s] != fingerprint(k, bh / x.h, bh % x.h, s * seg, seg))
        good = s;
  x.segments = good;
  return size();
}

std::int64_t KeyIndex::size() const noexcept { return impl_->segments * impl_->options.segment; }

std::int64_t KeyIndex::bytes() const noexcept {
  const Impl& x = *impl_;
  return x.node_k.bytes() + x.node_v.bytes() + x.count.bytes() + x.begin.bytes() + x.child.bytes() +
         x.member.bytes() + x.fingerprint.bytes() + x.packed_k.bytes() + x.packed_v.bytes();
}

const IndexOptions& KeyIndex::options() const noexcept { return impl_->options; }

std::int64_t KeyIndex::nodes_per_segment(int level) const noexcept {
  return level == 0 ? impl_->clusters : level == 1 ? impl_->groups : 1;
}
std::int64_t KeyIndex::nodes_per_segment() const noexcept { return impl_->nodes; }
std::int64_t KeyIndex::first_node(int level) const noexcept {
  return level == 0 ? 0 : level == 1 ? impl_->clusters : impl_->clusters + impl_->groups;
}

Tensor KeyIndex::node_keys() const noexcept {
  const Impl& x = *impl_;
  const std::int64_t rows = x.capacity * x.nodes;
  return {x.node_k.data(),
          x.k_type,
          {x.b, x.h, x.segments * x.nodes, x.d},
          {x.h * rows * x.d, rows * x.d, x.d, 1}};
}
Tensor KeyIndex::node_values() const noexcept {
  const Impl& x = *impl_;
  const std::int64_t rows = x.capacity * x.nodes;
  return {x.node_v.data(),
          x.v_type,
          {x.b, x.h, x.segments * x.nodes, x.d_v},
          {x.h * rows * x.d_v, rows * x.d_v, x.d_v, 1}};
}

std::int32_t KeyIndex::count(std::int64_t b, std::int64_t h, std::int64_t node) const noexcept {
  return impl_->counts_of(impl_->head(b, h))[node];
}
std::span<const std::uint16_t> KeyIndex::counts(std::int64_t b, std::int64_t h) const noexcept {
  return {impl_->counts_of(impl_->head(b, h)),
          static_cast<std::size_t>(impl_->segments * impl_->nodes)};
}
std::pair<std::int32_t, std::int32_t> KeyIndex::children(std::int64_t b, std::int64_t h,
                                                         std::int64_t node) const noexcept {
  const Impl& x = *impl_;
  const std::int64_t segment = node / x.nodes, local = node % x.nodes;
  if (local < x.clusters) return {0, 0};
  if (local == x.nodes - 1)
    return {static_cast<std::int32_t>(x.clusters), static_cast<std::int32_t>(x.nodes - 1)};
  const std::uint16_t* c = x.children_of(x.head(b, h), segment) + (local - x.clusters);
  return {c[0], c[1]};
}
std::span<const std::uint16_t> KeyIndex::members(std::int64_t b, std::int64_t h,
                                                 std::int64_t node) const noexcept {
  const Impl& x = *impl_;
  const std::int64_t bh = x.head(b, h);
  return {x.members_of(bh, node / x.nodes) + x.begins_of(bh)[node], x.counts_of(bh)[node]};
}

}  // namespace prescore
