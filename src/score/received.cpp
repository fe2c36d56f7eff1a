// Attention that keys have received: the probabilities of sampled queries, summed by key.
#include <algorithm>
#include <cmath>

#include "common/views.h"
#include "score/from_queries.h"
#include "score/row_products.h"

namespace prescore {
namespace {

using tile::kLanes;

/// Row i of a block looks at keys [0, end[i]).
struct Ends {
  std::vector<std::int64_t> end;
  std::int64_t most() const { return *std::max_element(end.begin(), end.end()); }
  std::int64_t least() const { return *std::min_element(end.begin(), end.end()); }
};

/// Some queries of the heads of one group, and the attention that they pay to the keys they see.
/// Two passes over the keys, in chunks from fixed positions, and f64 sums row by row: the same bits
/// for any number of threads and however the queries were cut into calls.
class Rows {
 public:
  static constexpr std::int64_t kMost = tile::kMaxBlock;

  /// q: base-2 exponents are q . k. What row i pays to keys [0, seen[i] - distance) counts.
  Rows(const RowsF& q, std::vector<std::int64_t> seen, std::int64_t distance,
       const void* const* keys, DType dtype)
      : products_(q, tile::kernels(Compute::kAuto, dtype)), seen_{std::move(seen)}, keys_(keys),
        dtype_(dtype) {
    for (const std::int64_t end : seen_.end)
      counted_.end.push_back(std::max<std::int64_t>(0, end - distance));
  }

  void add_to(ReceivedMass& sums, Executor& executor) {
    scratch_.resize(static_cast<std::size_t>(executor.width()));
    find_totals(executor);
    const auto add_block = [&](std::int64_t begin, std::int64_t end, const float* s) {
      double part[HeadKeys::kBlock];
      std::copy(&sums.mass[static_cast<std::size_t>(begin)],
                sums.mass.data() + static_cast<std::size_t>(end), part);
      std::fill(part + (end - begin), part + HeadKeys::kBlock, 0.0);
      tile::row_kernels().add_shares(s, s_vec(), vecs(begin, end), count(), total_.data(), part);
      std::copy_n(part, end - begin, &sums.mass[static_cast<std::size_t>(begin)]);
      count_rows(begin, end, sums.rows);
    };
    for_chunks(executor, counted_,
               [&](std::int64_t begin, std::int64_t end, std::int64_t, const float* s) {
                 add_block(begin, end, s);
               });
  }

 private:
  static constexpr std::int64_t kChunk = HeadKeys::kChunk, kBlock = HeadKeys::kBlock;
  int count() const { return products_.count(); }
  std::ptrdiff_t s_vec() const { return std::ptrdiff_t{products_.padded()} * kLanes; }
  static int vecs(std::int64_t begin, std::int64_t end) {
    return static_cast<int>((end - begin + kLanes - 1) / kLanes);
  }

  // work(begin, end, chunk, exponents [vec][row][16]) for blocks of keys, those of a chunk in turn;
  // kMasked where a row does not look at a key.
  template <typename Work>
  void for_chunks(Executor& executor, const Ends& ends, const Work& work) {
    const std::int64_t most = ends.most(), least = ends.least();
    executor.run((most + kChunk - 1) / kChunk, [&](std::int64_t chunk, int worker) {
      const std::int64_t last = std::min(most, (chunk + 1) * kChunk);
      for (std::int64_t begin = chunk * kChunk; begin < last; begin += kBlock) {
        const std::int64_t end = std::min(last, begin + kBlock);
        float* s = products_.run(keys_ + begin, dtype_, end - begin,
                                 scratch_[static_cast<std::size_t>(worker)]);
        if (least < begin + std::int64_t{vecs(begin, end)} * kLanes) mask(s, begin, end, ends);
        work(begin, end, chunk, s);
      }
    });
  }

  void mask(float* s, std::int64_t begin, std::int64_t end, const Ends& ends) const {
    const std::int64_t lanes = std::int64_t{vecs(begin, end)} * kLanes;
    for (std::int64_t r = 0; r < count(); ++r) {
      const std::int64_t first = ends.end[static_cast<std::size_t>(r)] - begin;
      for (std::int64_t i = std::max<std::int64_t>(0, first); i < lanes; ++i)
        s[i / kLanes * s_vec() + r * kLanes + i % kLanes] = tile::kMasked;
    }
  }

  // The log2 of what the exponentials of each row add up to. A row with NaN or infinity in it
  // does not count.
  void find_totals(Executor& executor) {
    const std::int64_t size = std::int64_t{count()} * kLanes,
                       chunks = (seen_.most() + kChunk - 1) / kChunk;
    Buffer<float> m(chunks * size), l(chunks * size);
    std::fill_n(m.data(), chunks * size, tile::kEmptyMax);
    std::fill_n(l.data(), chunks * size, 0.0f);
    const tile::RowKernels& kernels = tile::row_kernels();
    for_chunks(executor, seen_,
               [&](std::int64_t begin, std::int64_t end, std::int64_t chunk, const float* s) {
                 kernels.add_log_sums(s, s_vec(), vecs(begin, end), count(),
                                      m.data() + chunk * size, l.data() + chunk * size);
               });
    total_.resize(static_cast<std::size_t>(count()));
    for (std::int64_t r = 0; r < count(); ++r) {
      double sum = 0, top = double{tile::kEmptyMax};
      for (std::int64_t c = 0; c < chunks; ++c) {
        const std::int64_t at = c * size + r * kLanes;
        const double x = double{kernels.total(m.data() + at, l.data() + at)};
        if (x == -std::numeric_limits<double>::infinity()) continue;
        sum = x > top ? sum * std::exp2(top - x) + 1 : sum + std::exp2(x - top);
        top = std::max(top, x);
      }
      const auto total = static_cast<float>(top + std::log2(sum));
      const bool good = std::isfinite(total);
      total_[static_cast<std::size_t>(r)] = good ? total : 0.0f;
      if (!good) counted_.end[static_cast<std::size_t>(r)] = 0;
    }
  }

  // How many rows count for each key.
  void count_rows(std::int64_t begin, std::int64_t end, std::vector<double>& rows) const {
    double everywhere = 0;
    for (const std::int64_t e : counted_.end) {
      if (e >= end) ++everywhere;
      for (std::int64_t j = begin; e < end && j < e; ++j) rows[static_cast<std::size_t>(j)] += 1;
    }
    for (std::int64_t j = begin; j < end; ++j) rows[static_cast<std::size_t>(j)] += everywhere;
  }

  RowProducts products_;
  Ends seen_, counted_;
  const void* const* keys_;
  DType dtype_;
  std::vector<float> total_;
  std::vector<RowProducts::Scratch> scratch_;  // a worker
};

}  // namespace

void ReceivedMass::add(const ScoreInputs& in, std::int64_t b, std::int64_t h_kv, const Teachers& t,
                       Executor& executor) {
  const std::int64_t group = in.q.shape[1] / in.k.shape[1], n = in.k.shape[2], d = in.q.shape[3];
  std::vector<std::int64_t> queries;
  for (std::int64_t i = t.first; i < t.last; ++i)
    if (in.visibility.end(i) > t.distance && in.visibility.position(i) % t.stride == 0)
      queries.push_back(i);
  if (queries.empty()) return;
  // No longer than what is known: every level keeps a copy.
  const std::int64_t most = std::min(n, in.visibility.end(queries.back())) - t.distance;
  const std::size_t known =
      std::max(mass.size(), static_cast<std::size_t>(std::max<std::int64_t>(0, most)));
  mass.resize(known), rows.resize(known);
  std::vector<const void*> keys(static_cast<std::size_t>(n));
  for (std::int64_t j = 0; j < n; ++j) keys[static_cast<std::size_t>(j)] = row(in.k, b, h_kv, j);

  const auto all = static_cast<std::int64_t>(queries.size()) * group;
  for (std::int64_t begin = 0; begin < all; begin += Rows::kMost) {
    const std::int64_t count = std::min(Rows::kMost, all - begin);
    RowsF q(count, d);
    std::vector<std::int64_t> ends;
    for (std::int64_t r = 0; r < count; ++r) {
      const std::int64_t i = queries[static_cast<std::size_t>((begin + r) / group)];
      tile::row_kernels().to_f32(row(in.q, b, h_kv * group + (begin + r) % group, i), in.q.dtype,
                                 static_cast<int>(d), q.row(r).data());
      ends.push_back(std::min(n, in.visibility.end(i)));
    }
    q *= in.scale * tile::kLog2E;
    Rows(q, std::move(ends), t.distance, keys.data(), in.k.dtype).add_to(*this, executor);
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
