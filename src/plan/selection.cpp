// Top-k, threshold, share of the total, and drawing in proportion to the score.
#include "plan/selection.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/random.h"

namespace prescore {
namespace {

bool before(const Choosable& a, const Choosable& b) {
  return a.rank != b.rank ? a.rank > b.rank : a.key < b.key;
}

// log p + Gumbel noise that belongs to the key: choices at different ends overlap.
double perturbed(double log_score, std::uint64_t stream, std::int64_t key) {
  const double u = unit(mix(stream + static_cast<std::uint64_t>(key))) + 0x1p-54;
  return log_score - std::log(-std::log(u));
}

}  // namespace

std::vector<Choosable> choose_keys(std::span<const float> scores, std::int64_t begin,
                                   std::int64_t end, std::int64_t most, const PlanOptions& o,
                                   std::int64_t bh) {
  const bool samples = o.selection == Selection::kSample;
  const std::uint64_t stream = mix(mix(o.seed ^ 0x67756d62656cu) + static_cast<std::uint64_t>(bh));
  std::vector<Choosable> all;
  all.reserve(static_cast<std::size_t>(std::max<std::int64_t>(0, end - begin)));
  double total = 0;
  for (std::int64_t j = begin; j < end; ++j) {
    Choosable c{static_cast<std::int32_t>(j), scores[static_cast<std::size_t>(j)], 0};
    if (o.selection == Selection::kThreshold && !(c.score >= o.least_score)) continue;
    if (samples) {
      if (!(c.score > 0)) continue;                  // nothing is in proportion to it
      c.score = std::min(std::log(c.score), 1e30f);  // a key that is not finite is always drawn
      c.rank = perturbed(double{c.score}, stream, j);
    } else {
      c.rank = std::isnan(c.score) ? -std::numeric_limits<double>::infinity() : double{c.score};
    }
    if (c.score > 0 && std::isfinite(c.score)) total += double{c.score};
    all.push_back(c);
  }
  const auto n = std::min(all.size(), static_cast<std::size_t>(most + (samples ? 1 : 0)));
  const auto last = all.begin() + static_cast<std::ptrdiff_t>(n);
  if (n < all.size()) std::nth_element(all.begin(), last, all.end(), before);
  std::sort(all.begin(), last, before);
  std::size_t kept = n;
  if (o.selection == Selection::kShare) {
    double held = 0;
    kept = 0;
    while (kept < n && (held < double{o.share} * total || all[kept].rank > 1e30))
      if (const float s = all[kept++].score; s > 0 && std::isfinite(s)) held += double{s};
  }
  return {all.begin(), all.begin() + static_cast<std::ptrdiff_t>(kept)};  // of no more capacity
}

// The chance that log p + Gumbel noise passes the bar.
float draw_log_weight(const Choosable& c, double bar) {
  const double chance = -std::expm1(-std::exp(double{c.score} - bar));
  return static_cast<float>(-std::log(std::max(chance, 1e-30)));
}

void sample_log_weights(std::span<const Choosable> best, std::int64_t n, std::vector<float>& out) {
  out.assign(static_cast<std::size_t>(n), 0.0f);
  if (n >= static_cast<std::int64_t>(best.size())) return;  // all are read: each for itself
  const double bar = best[static_cast<std::size_t>(n)].rank;
  for (std::size_t i = 0; i < out.size(); ++i) out[i] = draw_log_weight(best[i], bar);
}

}  // namespace prescore
