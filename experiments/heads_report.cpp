#include "heads_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "chart.h"
#include "experiment.h"

namespace prescore::experiments {
namespace {

constexpr double kWorst = 0.02;
constexpr std::size_t kMapped = 2;  // predictors that have a map: the copying scores

// Ranks from 0 on, ascending; equal values have the mean of theirs.
std::vector<double> ranks(const std::vector<double>& x) {
  std::vector<std::size_t> order(x.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) { return x[a] < x[b]; });
  std::vector<double> out(x.size());
  for (std::size_t from = 0; from < order.size();) {
    std::size_t to = from;
    while (to < order.size() && x[order[to]] == x[order[from]]) ++to;
    for (std::size_t i = from; i < to; ++i)
      out[order[i]] = 0.5 * static_cast<double>(from + to - 1);
    from = to;
  }
  return out;
}

std::pair<std::vector<double>, std::vector<double>> known(std::span<const double> a,
                                                          std::span<const double> b) {
  std::pair<std::vector<double>, std::vector<double>> out;
  for (std::size_t i = 0; i < std::min(a.size(), b.size()); ++i)
    if (std::isfinite(a[i]) && std::isfinite(b[i]))
      out.first.push_back(a[i]), out.second.push_back(b[i]);
  return out;
}

std::vector<std::size_t> highest(const std::vector<double>& x, std::size_t n) {
  std::vector<std::size_t> order(x.size());
  std::iota(order.begin(), order.end(), std::size_t{0});
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return x[a] > x[b]; });
  order.resize(n);
  std::sort(order.begin(), order.end());
  return order;
}

double worst_of(const HeadRows& r, std::size_t head) {
  double worst = -std::numeric_limits<double>::infinity();
  for (const HeadValues& d : r.damages)
    if (std::isfinite(d.values[head])) worst = std::max(worst, d.values[head]);
  return worst;
}

HeatMap map_of(const HeadRows& r, const HeadValues& v, double most) {
  HeatMap map{v.name, {}, {}, {}};
  map.small = true, map.most = most;
  for (std::int64_t l = 0; l < r.layers; ++l) {
    map.rows.push_back(fmt::format("layer {}", l));
    const auto at = v.values.begin() + l * r.heads;
    map.values.emplace_back(at, at + r.heads);
  }
  for (std::int64_t h = 0; h < r.heads; ++h) map.columns.push_back(std::to_string(h));
  return map;
}

}  // namespace

std::string HeadRows::name(std::size_t head) const {
  const auto h = static_cast<std::size_t>(heads);
  return fmt::format("{}.{}", head / h, head % h);
}

Difference difference(std::span<const double> a, std::span<const double> b) {
  const double n = static_cast<double>(a.size());
  double sum = 0, squares = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += a[i] - b[i];
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double off = a[i] - b[i] - sum / n;
    squares += off * off;
  }
  return {sum / n, std::sqrt(squares / (n - 1) / n)};
}

double spearman(std::span<const double> a, std::span<const double> b) {
  const auto [x, y] = known(a, b);
  if (x.size() < 3) return std::numeric_limits<double>::quiet_NaN();
  const std::vector<double> p = ranks(x), q = ranks(y);
  const double mean = 0.5 * static_cast<double>(x.size() - 1);
  double pq = 0, pp = 0, qq = 0;
  for (std::size_t i = 0; i < p.size(); ++i) {
    pq += (p[i] - mean) * (q[i] - mean);
    pp += (p[i] - mean) * (p[i] - mean), qq += (q[i] - mean) * (q[i] - mean);
  }
  return pp > 0 && qq > 0 ? pq / std::sqrt(pp * qq) : std::numeric_limits<double>::quiet_NaN();
}

Overlap worst_overlap(std::span<const double> a, std::span<const double> b, double share) {
  const auto [x, y] = known(a, b);
  if (x.empty()) return {};
  const double n = std::max(1.0, std::round(share * static_cast<double>(x.size())));
  const std::vector<std::size_t> p = highest(x, static_cast<std::size_t>(n)),
                                 q = highest(y, static_cast<std::size_t>(n));
  std::vector<std::size_t> both;
  std::set_intersection(p.begin(), p.end(), q.begin(), q.end(), std::back_inserter(both));
  return {both.size(), p.size()};
}

std::string worst_heads(const HeadRows& r, std::size_t most) {
  std::vector<std::string> header{"head"};
  for (const HeadValues& d : r.damages) header.push_back(d.name);
  for (const HeadValues& p : r.predictors) header.push_back(p.name);
  std::vector<std::size_t> order;
  for (std::size_t i = 0; i < static_cast<std::size_t>(r.layers * r.heads); ++i)
    if (std::isfinite(worst_of(r, i))) order.push_back(i);
  std::stable_sort(order.begin(), order.end(),
                   [&](std::size_t a, std::size_t b) { return worst_of(r, a) > worst_of(r, b); });
  if (order.size() > most) order.resize(most);
  std::vector<std::vector<std::string>> rows;
  for (const std::size_t i : order) {
    rows.push_back({r.name(i)});
    for (const HeadValues& d : r.damages)
      rows.back().push_back(std::isfinite(d.values[i])
                                ? fmt::format("{:+.2f} ({:.2f})", d.values[i], d.errors[i])
                                : "-");
    for (const HeadValues& p : r.predictors)
      rows.back().push_back(std::isfinite(p.values[i]) ? fmt::format("{:.3f}", p.values[i]) : "-");
  }
  return markdown(header, rows);
}

std::string agreement(const HeadRows& r) {
  std::vector<std::string> header{"predictor"};
  for (const HeadValues& d : r.damages) header.push_back(d.name);
  std::vector<std::vector<std::string>> rows;
  for (const HeadValues& p : r.predictors) {
    rows.push_back({p.name});
    for (const HeadValues& d : r.damages) {
      const double rank = spearman(p.values, d.values);
      const Overlap worst = worst_overlap(p.values, d.values, kWorst);
      rows.back().push_back(fmt::format("{}, {} of {}",
                                        std::isfinite(rank) ? fmt::format("{:+.2f}", rank) : "-",
                                        worst.both, worst.of));
    }
  }
  return markdown(header, rows);
}

std::string heads_picture(const std::string& title, const HeadRows& r) {
  double most = 0.1;  // one scale for all damages
  for (const HeadValues& d : r.damages)
    for (const double x : d.values)
      if (std::isfinite(x)) most = std::max(most, x);
  most = std::ceil(most * 10) / 10;
  std::vector<HeatMap> maps;
  for (const HeadValues& d : r.damages) maps.push_back(map_of(r, d, most));
  for (std::size_t i = 0; i < std::min(kMapped, r.predictors.size()); ++i)
    maps.push_back(map_of(r, r.predictors[i], 1));
  return heat_maps(title, maps);
}

}  // namespace prescore::experiments
