#include "coverage_report.h"

#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <string_view>

#include "experiment.h"

namespace prescore::experiments {
namespace {

using nlohmann::json;

// Methods whose heads are shown: the window, the keys alone, the best score, and queries that
// choose.
constexpr std::string_view kByHead[] = {"window", "top-k leverage", "top-k received, from afar",
                                        "routed"};

double mean_of(const json& list) {
  double sum = 0;
  for (const json& x : list) sum += x.get<double>();
  return sum / static_cast<double>(list.size());
}

// A mean over the layers that have one; NaN where none has.
double overlap(const CoverageRows& r, std::size_t m, std::size_t o) {
  double sum = 0, count = 0;
  for (const json& row : r.rows)
    if (const json& x = row.at("far_overlap")[m][o]; x.is_number()) sum += x.get<double>(), ++count;
  return count > 0 ? sum / count : std::numeric_limits<double>::quiet_NaN();
}

std::string numbered(const CoverageRows& r, std::size_t m) {
  return fmt::format("{} {}", m + 1, r.name(m));
}

HeatMap layer_map(const CoverageRows& r) {
  HeatMap map{"mass read, by layer", {}, {}, {}};
  for (const std::int64_t l : r.layers) map.columns.push_back(std::to_string(l));
  for (std::size_t m = 0; m < r.methods(); ++m) {
    map.rows.push_back(r.name(m));
    map.values.emplace_back();
    for (const json& row : r.rows)
      map.values.back().push_back(mean_of(row.at("methods")[m].at("mass")));
  }
  return map;
}

HeatMap overlap_map(const CoverageRows& r) {
  HeatMap map{"overlap of far keys (Jaccard)", {}, {}, {}};
  for (std::size_t m = 0; m < r.methods(); ++m) {
    map.columns.push_back(std::to_string(m + 1));
    map.rows.push_back(numbered(r, m));
    map.values.emplace_back();
    for (std::size_t o = 0; o < r.methods(); ++o) map.values.back().push_back(overlap(r, m, o));
  }
  return map;
}

// Layers down, heads across.
HeatMap head_map(const CoverageRows& r, std::size_t m) {
  HeatMap map{"mass by head: " + r.name(m), {}, {}, {}};
  map.small = true;
  for (std::size_t l = 0; l < r.rows.size(); ++l) {
    map.rows.push_back(fmt::format("layer {}", r.layers[l]));
    map.values.push_back(r.rows[l].at("methods")[m].at("mass").get<std::vector<double>>());
  }
  for (std::size_t h = 0; h < map.values.at(0).size(); ++h)
    map.columns.push_back(std::to_string(h));
  return map;
}

}  // namespace

std::string mass_table(const CoverageRows& r) {
  std::vector<std::string> header{"method", "keys", "mass", "least head", "median", "most"};
  for (const double e : kHeavy) header.push_back(fmt::format("p > {:g}", e));
  std::vector<std::vector<std::string>> lines;
  const double n = static_cast<double>(r.rows.size());
  for (std::size_t m = 0; m < r.methods(); ++m) {
    double keys = 0;
    std::vector<double> heads;
    std::array<double, kHeavy.size()> heavy{};
    for (const json& row : r.rows) {
      const json& own = row.at("methods")[m];
      keys += mean_of(own.at("keys")) / n;
      for (const json& head : own.at("mass")) heads.push_back(head);
      for (std::size_t e = 0; e < heavy.size(); ++e)
        for (const json& head : own.at("heavy"))
          heavy[e] += head[e].get<double>() / static_cast<double>(own.at("heavy").size()) / n;
    }
    std::sort(heads.begin(), heads.end());
    lines.push_back({r.name(m), fmt::format("{:.0f}", keys)});
    for (const double x : {mean_of(heads), heads.front(), heads[heads.size() / 2], heads.back(),
                           heavy[0], heavy[1], heavy[2]})
      lines.back().push_back(fmt::format("{:.3f}", x));
  }
  return markdown(header, lines);
}

std::string overlap_table(const CoverageRows& r) {
  std::vector<std::string> header{"method"};
  std::vector<std::vector<std::string>> lines;
  for (std::size_t m = 0; m < r.methods(); ++m) {
    header.push_back(std::to_string(m + 1));
    lines.push_back({numbered(r, m)});
    for (std::size_t o = 0; o < r.methods(); ++o) {
      const double x = overlap(r, m, o);
      lines.back().push_back(x >= 0 ? fmt::format("{:.2f}", x) : "");
    }
  }
  return markdown(header, lines);
}

std::string coverage_picture(const CoverageRows& r) {
  std::vector<HeatMap> maps{layer_map(r)};
  for (const std::string_view name : kByHead)
    for (std::size_t m = 0; m < r.methods(); ++m)
      if (r.name(m) == name) maps.push_back(head_map(r, m));
  maps.push_back(overlap_map(r));
  return heat_maps("Coverage of real attention", maps);
}

}  // namespace prescore::experiments
