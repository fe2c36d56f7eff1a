// Scores that grow with a cache, level by level.
#include <algorithm>
#include <cmath>
#include <limits>

#include "common/check.h"
#include "common/views.h"
#include "index/index_impl.h"
#include "score/from_queries.h"

namespace prescore {
namespace {

bool learns_from_queries(Score s) {
  return s == Score::kExpected || s == Score::kReceived || s == Score::kOracle;
}

std::int64_t next_fit(const ScoreOptions& o, std::int64_t fit) {
  const double growth = o.growth > 0 ? o.growth : learns_from_queries(o.score) ? 1.125 : 2.0;
  const auto grown = static_cast<std::int64_t>(growth * static_cast<double>(fit));
  return std::max(fit + o.segment, grown / o.segment * o.segment);
}

void check_inputs(const ScoreInputs& in) {
  check_tensor(in.q, "score", "q");
  check_tensor(in.k, "score", "k");
  check_tensor(in.v, "score", "v");
  for (std::size_t i = 0; i < 3; ++i)
    check(in.k.shape[i] == in.v.shape[i], "score", "shape of v at axis",
          static_cast<std::int64_t>(i), "batch, heads and keys of k " + to_string(in.k.shape));
  check(in.q.shape[0] == in.k.shape[0] && in.q.shape[1] % in.k.shape[1] == 0 &&
            in.q.shape[3] == in.k.shape[3] && in.q.shape[2] == in.visibility.n_q &&
            in.k.shape[2] == in.visibility.n_kv,
        "score", "heads of q", in.q.shape[1],
        "a multiple of the heads of k, with its batch and head size, and the visibility's counts");
}

}  // namespace

// Scores of 4 bytes; of received attention two sums of 8 besides; of expected attention the
// moments.
std::int64_t score_bytes(const ScoreOptions& o, const Tensor& q, const Tensor& k,
                         const Visibility& v) {
  const std::int64_t heads = k.shape[0] * k.shape[1], d = k.shape[3], n = v.n_kv;
  const std::int64_t moments =
      o.score == Score::kExpected ? q.shape[0] * q.shape[1] * (d * d + d + 1) * 8 : 0;
  const std::int64_t sums = o.score == Score::kReceived || o.score == Score::kOracle ? 16 : 0;
  const auto level = [&](std::int64_t fit, std::int64_t next) {
    return heads * (4 * next + sums * fit + 64) + moments + 256;
  };
  std::int64_t bytes = level(2 * n, n) + n / o.segment * heads * 16;
  if (!v.causal || o.score == Score::kOracle) return bytes + level(n, n);
  for (std::int64_t fit = o.segment; fit <= n; fit = next_fit(o, fit))
    bytes += level(fit, next_fit(o, fit));
  return bytes;
}

struct KeyScores::Impl {
  /// Fitted to keys [0, fit), serves keys [0, next).
  struct Level {
    std::int64_t fit = 0, next = 0, scored = 0;
    std::vector<float> scores;          // [b, h_kv][next]
    std::vector<QueryMoments> queries;  // [b, h_q]: those before fit, since the level before
    std::vector<ReceivedMass> mass;     // [b, h_kv]: of all queries before fit
    std::vector<Fitted> fitted;         // [b, h_kv], while there is something left to score
  };

  explicit Impl(const ScoreOptions& o) : options(o) {}

  std::int64_t heads() const { return shape[0] * shape[1]; }

  void add_level(std::int64_t fit, std::int64_t next) {
    levels.emplace_back();
    levels.back().fit = fit, levels.back().next = next;
  }
  void reset();
  void learn(const ScoreInputs&, std::int64_t until, Executor&);
  void score(const ScoreInputs&, Level&, std::int64_t until, Executor&);
  Fitted fit(const ScoreInputs&, const Level&, std::int64_t bh, std::int64_t keys, Executor&) const;
  void apply(const ScoreInputs&, const Level&, std::int64_t bh, std::int64_t begin,
             std::int64_t end, float* out, Executor&) const;
  void add_fingerprints(const Tensor& k);
  void refresh_views();

  ScoreOptions options;
  std::array<std::int64_t, 4> shape{};  // b, h_kv, h_q, d; zero before the first call
  std::int64_t n = 0;                   // keys scored
  std::int64_t learnt = 0;              // positions whose queries were looked at
  std::vector<Level> levels;
  std::vector<QueryMoments> queries;        // since the last level
  std::vector<ReceivedMass> mass;           // of all queries so far
  std::vector<std::uint64_t> fingerprints;  // [segment][b, h_kv]
  std::vector<ScoreLevel> views;
};

KeyScores::KeyScores(const ScoreOptions& o) : impl_(std::make_unique<Impl>(o)) {
  check_score_options(o);
}
KeyScores::~KeyScores() = default;
KeyScores::KeyScores(KeyScores&&) noexcept = default;
KeyScores& KeyScores::operator=(KeyScores&&) noexcept = default;

const ScoreOptions& KeyScores::options() const noexcept { return impl_->options; }
std::int64_t KeyScores::size() const noexcept { return impl_->n; }
std::span<const ScoreLevel> KeyScores::levels() const noexcept { return impl_->views; }

void KeyScores::extend(const ScoreInputs& in, Executor& executor) {
  check_inputs(in);
  Impl& x = *impl_;
  check_rotation(x.options.rotation, in.k.shape[3]);
  const std::array<std::int64_t, 4> shape{in.k.shape[0], in.k.shape[1], in.q.shape[1],
                                          in.k.shape[3]};
  if (x.n == 0 || !in.visibility.causal) x.reset(), x.shape = shape;
  if (shape != x.shape)
    fail("score", "batch, heads and head size", to_string(shape), to_string(x.shape));
  const std::int64_t n = in.k.shape[2];
  check(n >= x.n, "score", "keys", n,
        "at least the " + std::to_string(x.n) + " keys scored already");

  if (!in.visibility.causal || x.options.score == Score::kOracle) {
    // One level that serves everything: there is no future, or it is a ceiling that knows it.
    x.learn(in, n, executor);
    x.levels.clear();
    x.add_level(0, n);
    x.levels.back().queries = x.queries, x.levels.back().mass = x.mass;
    x.score(in, x.levels.back(), n, executor);
  } else {
    while (true) {
      const std::int64_t fit = x.levels.empty() ? x.options.segment : x.levels.back().next;
      if (!x.levels.empty()) x.score(in, x.levels.back(), std::min(n, fit), executor);
      if (fit > n) break;
      x.learn(in, fit, executor);
      x.add_level(fit, next_fit(x.options, fit));
      x.levels.back().queries = std::exchange(x.queries, {});
      if (x.options.score == Score::kReceived) x.levels.back().mass = x.mass;
    }
    x.learn(in, n, executor);
  }
  x.n = n;
  x.add_fingerprints(in.k);
  x.refresh_views();
}

void KeyScores::Impl::reset() {
  shape = {};
  n = learnt = 0;
  levels.clear(), queries.clear(), mass.clear(), fingerprints.clear(), views.clear();
}

// Queries at positions [learnt, until).
void KeyScores::Impl::learn(const ScoreInputs& in, std::int64_t until, Executor& executor) {
  if (!learns_from_queries(options.score)) return;
  const Visibility& v = in.visibility;
  std::int64_t first = 0, last = v.n_q;
  if (v.causal) {
    while (first < v.n_q && v.end(first) <= learnt) ++first;
    last = first;
    while (last < v.n_q && v.end(last) <= until) ++last;
  }
  learnt = until;
  const std::int64_t stride = options.score == Score::kOracle ? 1 : options.query_stride;
  if (options.score == Score::kExpected) {
    queries.resize(static_cast<std::size_t>(shape[0] * shape[2]));
    executor.run(shape[0] * shape[2], [&](std::int64_t bh, int) {
      for (std::int64_t i = first; i < last; ++i)
        if (v.position(i) % stride == 0)
          queries[static_cast<std::size_t>(bh)].add(in.q, bh / shape[2], bh % shape[2], i);
    });
    return;
  }
  mass.resize(static_cast<std::size_t>(heads()));
  const Teachers teachers{first, last, stride, v.causal ? options.distance : 0};
  for (std::int64_t bh = 0; bh < heads(); ++bh)
    mass[static_cast<std::size_t>(bh)].add(in, bh / shape[1], bh % shape[1], teachers, executor);
}

// Brings a level up to `until` keys.
void KeyScores::Impl::score(const ScoreInputs& in, Level& level, std::int64_t until,
                            Executor& executor) {
  if (level.scored >= until) return;
  level.scores.resize(static_cast<std::size_t>(heads() * level.next));
  const bool fit_anew = level.fitted.empty();
  for (std::int64_t bh = 0; bh < heads(); ++bh) {
    if (fit_anew)
      level.fitted.push_back(fit(in, level, bh, level.fit > 0 ? level.fit : until, executor));
    apply(in, level, bh, level.scored, until, level.scores.data() + bh * level.next, executor);
  }
  level.scored = until;
  if (until == level.next) level.fitted.clear();
}

// PublishedFlaws::flattened: the keys of all heads, position by position, as those of one head.
Tensor flatten(const Tensor& k) {
  if (k.stride[1] != k.shape[3] || k.stride[2] != k.shape[1] * k.shape[3])
    fail("score", "strides of keys that are flattened", to_string(k.stride),
         "all heads of a position side by side");
  Tensor all = k;
  all.shape[1] = 1, all.shape[2] *= k.shape[1];
  all.stride[1] = 0, all.stride[2] = k.shape[3];
  return all;
}

// Null where nothing is learnt from keys.
Fitted KeyScores::Impl::fit(const ScoreInputs& in, const Level& level, std::int64_t bh,
                            std::int64_t keys, Executor& executor) const {
  const std::int64_t b = bh / shape[1], h = bh % shape[1], group = shape[2] / shape[1];
  const Score s = options.score;
  if (s == Score::kReceived || s == Score::kOracle || s == Score::kRandom) return nullptr;
  if (options.flattened && s != Score::kExpected)
    return fit_score(HeadKeys(flatten(in.k), b, 0, 0, keys * shape[1], executor), options, 0,
                     executor);
  const HeadKeys rows(s == Score::kValueNorm ? in.v : in.k, b, h, 0, keys, executor,
                      rotation_of(options));
  if (s != Score::kExpected)
    return fit_score(rows, options, static_cast<std::uint64_t>(bh), executor);
  std::vector<QueryMoments> total(static_cast<std::size_t>(group));
  for (std::int64_t g = 0; g < group; ++g)
    for (const Level& past : levels)
      if (past.fit <= level.fit && !past.queries.empty())
        total[static_cast<std::size_t>(g)] +=
            past.queries[static_cast<std::size_t>(b * shape[2] + h * group + g)];
  return std::make_unique<ExpectedAttention>(rows, total, double{in.scale}, executor);
}

void KeyScores::Impl::apply(const ScoreInputs& in, const Level& level, std::int64_t bh,
                            std::int64_t begin, std::int64_t end, float* out,
                            Executor& executor) const {
  const std::int64_t b = bh / shape[1], h = bh % shape[1];
  if (options.score == Score::kReceived || options.score == Score::kOracle) {
    level.mass[static_cast<std::size_t>(bh)].means(end, options.segment, out);
    begin = 0;  // all were written
  } else {
    // From an aligned key on, so that the cut does not show in the bits.
    constexpr std::int64_t kAligned = ExpectedAttention::kAligned;
    const Tensor& scored = options.score == Score::kValueNorm ? in.v : in.k;
    const std::int64_t from = begin / kAligned * kAligned;
    apply_score(level.fitted[static_cast<std::size_t>(bh)].get(), scored, b, h, from, end, options,
                out, executor);
    begin = from;
  }
  if (options.value_weighted && learns_from_queries(options.score)) {
    const HeadKeys values(in.v, b, h, begin, end, executor);
    for (std::int64_t j = begin; j < end; ++j) {
      if (!values.finite(j - begin))
        out[j] = std::numeric_limits<float>::infinity();
      else if (std::isfinite(out[j]))  // else a value of 0 would make a NaN of it
        out[j] *= values.rows().row(j - begin).norm();
    }
  }
}

void KeyScores::Impl::add_fingerprints(const Tensor& k) {
  const std::int64_t segment = options.segment;
  for (auto s = static_cast<std::int64_t>(fingerprints.size()) / heads(); s < n / segment; ++s)
    for (std::int64_t bh = 0; bh < heads(); ++bh)
      fingerprints.push_back(fingerprint(k, bh / shape[1], bh % shape[1], s * segment, segment));
}

void KeyScores::Impl::refresh_views() {
  views.clear();
  for (const Level& level : levels) views.push_back({level.fit, level.scores.data(), level.next});
}

void KeyScores::truncate(std::int64_t n) {
  Impl& x = *impl_;
  if (n >= x.n) return;
  if (n <= 0) return x.reset();
  x.n = n;
  while (!x.levels.empty() && x.levels.back().fit > n) x.levels.pop_back();
  if (!x.levels.empty()) x.levels.back().scored = std::min(x.levels.back().scored, n);
  x.learnt = std::min(x.learnt, n);
  x.queries.clear();
  if (x.options.score == Score::kReceived)
    x.mass = x.levels.empty() ? std::vector<ReceivedMass>{} : x.levels.back().mass;
  x.fingerprints.resize(
      std::min(x.fingerprints.size(), static_cast<std::size_t>(n / x.options.segment * x.heads())));
  x.refresh_views();
}

std::int64_t KeyScores::validate(const Tensor& k) {
  Impl& x = *impl_;
  if (x.n == 0) return 0;
  check_tensor(k, "score", "k");
  if (k.shape[0] != x.shape[0] || k.shape[1] != x.shape[1] || k.shape[3] != x.shape[3]) {
    x.reset();
    return 0;
  }
  const std::int64_t segment = x.options.segment, heads = x.heads();
  std::int64_t good =
      std::min(static_cast<std::int64_t>(x.fingerprints.size()) / heads, k.shape[2] / segment);
  for (std::int64_t s = 0; s < good; ++s)
    for (std::int64_t bh = 0; bh < heads; ++bh)
      if (x.fingerprints[static_cast<std::size_t>(s * heads + bh)] !=
          fingerprint(k, bh / x.shape[1], bh % x.shape[1], s * segment, segment))
        good = s;
  if (good * segment < x.n / segment * segment || k.shape[2] < x.n)
    truncate(std::min(good * segment, k.shape[2]));
  return x.n;
}

std::int64_t KeyScores::bytes() const noexcept {
  std::int64_t n = 0;
  const auto of = [](const auto& v) {
    return static_cast<std::int64_t>(v.capacity() * sizeof(v[0]));
  };
  const auto moments = [](const std::vector<QueryMoments>& v) {
    std::int64_t sum = 0;
    for (const QueryMoments& m : v) sum += 8 * (m.sum.size() + m.outer.size());
    return sum;
  };
  const auto masses = [&](const std::vector<ReceivedMass>& v) {
    std::int64_t sum = 0;
    for (const ReceivedMass& m : v) sum += of(m.mass) + of(m.rows);
    return sum;
  };
  for (const Impl::Level& level : impl_->levels)
    n += of(level.scores) + moments(level.queries) + masses(level.mass);
  return n + of(impl_->fingerprints) + moments(impl_->queries) + masses(impl_->mass);
}

}  // namespace prescore
