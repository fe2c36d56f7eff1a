#include "attend/certificate.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>

#include "common/check.h"
#include "plan/planners.h"

namespace prescore {
namespace {

bool reads_all(const TilePlan& plan, std::int64_t end) {
  return plan.keys.empty() && plan.nodes.empty() && plan.zero_rows == 0 &&
         (end == 0 ||
          (plan.ranges.size() == 1 && plan.ranges[0].begin == 0 && plan.ranges[0].end >= end));
}

// Every query of some heads, which read everything.
class DenseHeads final : public Planner {
 public:
  DenseHeads(const AttendInputs& in, std::span<const std::int32_t> heads)
      : dense_(make_dense_planner({in.q, in.k, in.visibility, in.scale}, {})) {
    const std::int64_t size = tile();
    const auto cuts = cut_queries(in.visibility, size, 0, in.visibility.n_q);
    tiles_.reserve((cuts.size() - 1) * heads.size() * static_cast<std::size_t>(in.q.shape[0]));
    for (const std::int32_t h : heads)
      each_tile(cuts, size, in.q.shape[0], 1,
                [&](std::int64_t b, std::int64_t, std::int64_t from, std::int64_t to) {
                  tiles_.push_back({b, h, from, to});
                });
  }
  void plan(const Tile& tile, int worker, TilePlan& out) const override {
    dense_->plan(tile, worker, out);
  }
  std::int64_t tile() const noexcept override { return dense_tile_size(1); }
  std::span<const Tile> own_tiles() const override { return tiles_; }

 private:
  std::unique_ptr<Planner> dense_;
  std::vector<Tile> tiles_;
};

}  // namespace

void check_certify_options(const CertifyOptions& o) {
  check(o.samples >= 0 && o.samples <= (1 << 20), "attention", "samples of the certificate",
        o.samples, "0 to 2^20");
  if (!(o.min_recall >= 0.0f && o.min_recall <= 1.0f))
    fail("attention", "min_recall", std::to_string(o.min_recall), "0 to 1");
  if (o.min_recall > 0 && o.samples == 0)
    fail("attention", "min_recall without samples", "0 samples", "samples to measure it by");
}

std::vector<std::int32_t> draw_queries(std::int64_t n, const CertifyOptions& o) {
  if (n <= 0) return {};
  const std::int64_t pairs =
      std::clamp<std::int64_t>(n / 2, 1, std::max<std::int64_t>(1, o.samples));
  std::mt19937_64 random(o.seed);
  std::vector<std::int32_t> drawn;
  for (std::int64_t i = 0; i < pairs; ++i) {
    const std::int64_t first = i * n / pairs, last = (i + 1) * n / pairs;
    const std::int64_t most = std::max(first, last - 2);
    const auto at = std::uniform_int_distribution<std::int64_t>(first, most)(random);
    drawn.push_back(static_cast<std::int32_t>(at));
    drawn.push_back(static_cast<std::int32_t>(std::min(at + 1, last - 1)));
  }
  return drawn;
}

Certificate::Certificate(const AttendInputs& in, const State& out, const CertifyOptions& o)
    : in_(in), out_(out), query_(draw_queries(in.visibility.n_q, o)),
      keys_(static_cast<std::size_t>(in.q.shape[1])), standins_(keys_.size()),
      sample_(static_cast<std::size_t>(in.q.shape[0] * in.q.shape[1]) * query_.size()) {}

void Certificate::note(const Tile& tile, const Counters& of_tile) {
  for (std::int64_t h = 0; h < tile.heads; ++h) {
    const auto head = static_cast<std::size_t>(tile.head_at(h));
    keys_[head] += of_tile.keys / tile.heads, standins_[head] += of_tile.standins / tile.heads;
  }
}

std::pair<std::size_t, std::size_t> Certificate::inside(const Tile& tile) const {
  const auto at = [&](std::int64_t query) {
    return static_cast<std::size_t>(std::lower_bound(query_.begin(), query_.end(), query) -
                                    query_.begin());
  };
  return {at(tile.first), at(tile.last)};
}

bool Certificate::wants(const Tile& tile) const {
  const auto [first, last] = inside(tile);
  return first < last;
}

void Certificate::measure(const Tile& tile, const TilePlan& plan, TileRunner& runner) {
  const auto [first, last] = inside(tile);
  const std::int64_t end = in_.visibility.end(tile.last - 1), d_v = in_.v.shape[3];
  std::vector<Lane> lanes;
  std::vector<SampledQuery*> to;
  for (std::int64_t h = 0; h < tile.heads; ++h) {
    const std::int64_t head = tile.head_at(h);
    for (std::size_t i = first; i < last; ++i) {
      lanes.push_back({static_cast<std::int32_t>(head), query_[i]});
      to.push_back(
          &sample_[static_cast<std::size_t>(tile.batch * in_.q.shape[1] + head) * query_.size() +
                   i]);
      to.back()->measured = true;
    }
  }
  if (reads_all(plan, end)) return;
  const std::size_t n = lanes.size();
  std::vector<float> exact(n * static_cast<std::size_t>(d_v)), ignored(exact.size()), all(n),
      read(n), got(static_cast<std::size_t>(d_v));
  TilePlan everything, keys = plan;
  everything.ranges.push_back({0, end});
  keys.nodes.clear(), keys.log_weights.clear();
  runner.run_lanes(tile.batch, lanes, everything, exact.data(), all.data());
  runner.run_lanes(tile.batch, lanes, keys, ignored.data(), read.data());
  for (std::size_t l = 0; l < n; ++l) {
    if (all[l] == -std::numeric_limits<float>::infinity()) continue;  // it sees nothing
    tile::row_kernels().to_f32(row(out_.o, tile.batch, lanes[l].head, lanes[l].query), out_.o.dtype,
                               static_cast<int>(d_v), got.data());
    double difference = 0, size = 0;
    for (std::size_t c = 0; c < got.size(); ++c) {
      const double want = exact[l * got.size() + c];
      difference += (got[c] - want) * (got[c] - want), size += want * want;
    }
    to[l]->mass = std::min(1.0, std::exp(double{read[l]} - double{all[l]}));
    to[l]->error = size > 0 ? std::sqrt(difference / size) : 0;
  }
}

std::vector<HeadCertificate> Certificate::heads() const {
  return summarise(in_.q.shape[0], in_.q.shape[1], static_cast<std::int64_t>(query_.size()),
                   in_.visibility.n_q == 1, [this](std::size_t i) { return sample_[i]; });
}

std::string redone_reason(const std::vector<HeadCertificate>& heads) {
  const auto n =
      std::count_if(heads.begin(), heads.end(), [](const HeadCertificate& h) { return h.redone; });
  return n == 0 ? "" : "; " + std::to_string(n) + " heads below min_recall computed densely";
}

// Pairs are the units: queries next to each other read the same.
std::vector<HeadCertificate> summarise(std::int64_t b, std::int64_t h, std::int64_t queries,
                                       bool single,
                                       const std::function<SampledQuery(std::size_t)>& found) {
  std::vector<HeadCertificate> all(static_cast<std::size_t>(h));
  for (std::int64_t head = 0; head < h; ++head) {
    HeadCertificate& c = all[static_cast<std::size_t>(head)];
    double sum = 0, squares = 0, units = 0;
    for (std::int64_t ib = 0; ib < b; ++ib)
      for (std::int64_t i = 0; i < queries; i += 2) {
        const auto at = static_cast<std::size_t>((ib * h + head) * queries + i);
        const SampledQuery x = found(at), y = found(at + 1);
        if (!x.measured || !y.measured) continue;
        const double mean = (x.mass + y.mass) / 2;
        sum += mean, squares += mean * mean, units += 1;
        c.queries += single ? 1 : 2;
        c.output_error = std::max({c.output_error, x.error, y.error});
      }
    if (units == 0) continue;
    c.mass = sum / units;
    if (units > 1)
      c.mass_error = std::sqrt(std::max(0.0, squares / units - c.mass * c.mass) / (units - 1));
  }
  return all;
}

Counters attend_densely(const AttendInputs& in, std::span<const std::int32_t> heads,
                        const State& out, Executor& executor) {
  return attend(in, DenseHeads(in, heads), out, executor);
}

}  // namespace prescore
