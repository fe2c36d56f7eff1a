// Attention that keys have received: the probabilities of sampled queries, summed by key.
#include <algorithm>

#include "common/views.h"
#include "score/from_queries.h"
#include "tile/tile.h"

namespace prescore {

void ReceivedMass::add(const ScoreInputs& in, std::int64_t b, std::int64_t h_kv, std::int64_t first,
                       std::int64_t last, std::int64_t stride, Executor& executor) {
  const std::int64_t group = in.q.shape[1] / in.k.shape[1], n = in.k.shape[2], d = in.q.shape[3];
  mass.resize(static_cast<std::size_t>(n)), rows.resize(static_cast<std::size_t>(n));
  std::vector<std::int64_t> queries;
  for (std::int64_t i = first; i < last; ++i)
    if (in.visibility.end(i) > 0 && in.visibility.position(i) % stride == 0) queries.push_back(i);
  if (queries.empty()) return;
  std::vector<const void*> keys(static_cast<std::size_t>(n));
  for (std::int64_t j = 0; j < n; ++j) keys[static_cast<std::size_t>(j)] = row(in.k, b, h_kv, j);

  // Some rows at a time, added key by key in their order: the same bits for any number of threads.
  constexpr std::int64_t kRows = 32, kKeys = 4096;
  const tile::RowKernels& kernels = tile::row_kernels();
  const auto all = static_cast<std::int64_t>(queries.size()) * group;
  std::vector<float> shares(static_cast<std::size_t>(std::min(all, kRows) * n));
  std::vector<std::int64_t> ends(static_cast<std::size_t>(std::min(all, kRows)));
  for (std::int64_t begin = 0; begin < all; begin += kRows) {
    const std::int64_t count = std::min(kRows, all - begin);
    executor.run(count, [&](std::int64_t r, int) {
      const std::int64_t i = queries[static_cast<std::size_t>((begin + r) / group)];
      const std::int64_t h = h_kv * group + (begin + r) % group;
      std::vector<float> q(static_cast<std::size_t>(d));
      kernels.to_f32(row(in.q, b, h, i), in.q.dtype, static_cast<int>(d), q.data());
      for (float& x : q) x *= in.scale * tile::kLog2E;
      const auto end = static_cast<int>(in.visibility.end(i));
      float* share = shares.data() + r * n;
      kernels.dots(q.data(), keys.data(), in.k.dtype, end, static_cast<int>(d), share);
      const float sum = kernels.exp2s(share, end, kernels.max(share, end), share);
      const bool good = sum > 0 && sum < std::numeric_limits<float>::infinity();
      ends[static_cast<std::size_t>(r)] = good ? end : 0;
      for (int j = 0; good && j < end; ++j) share[j] /= sum;
    });
    executor.run((n + kKeys - 1) / kKeys, [&](std::int64_t block, int) {
      for (std::int64_t r = 0; r < count; ++r) {
        const std::int64_t end = std::min(ends[static_cast<std::size_t>(r)], (block + 1) * kKeys);
        for (std::int64_t j = block * kKeys; j < end; ++j) {
          mass[static_cast<std::size_t>(j)] += double{shares[static_cast<std::size_t>(r * n + j)]};
          rows[static_cast<std::size_t>(j)] += 1;
        }
      }
    });
  }
}

void ReceivedMass::means(std::int64_t n, std::int64_t segment, float* out) const {
  std::int64_t seen = 0;
  const auto known = std::min<std::int64_t>(n, static_cast<std::int64_t>(rows.size()));
  for (std::int64_t j = 0; j < known; ++j) {
    const auto at = static_cast<std::size_t>(j);
    out[j] = rows[at] > 0 ? static_cast<float>(mass[at] / rows[at]) : 0;
    if (rows[at] > 0) seen = j + 1;
  }
  double last = 0;
  const std::int64_t from = std::max<std::int64_t>(0, seen - segment);
  for (std::int64_t j = from; j < seen; ++j) last += double{out[j]};
  const auto fill = static_cast<float>(seen > from ? last / static_cast<double>(seen - from) : 0);
  std::fill(out + seen, out + n, fill);
}

}  // namespace prescore
