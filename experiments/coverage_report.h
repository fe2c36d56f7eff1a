// Tables and pictures of what methods read of real attention.
#pragma once

#include <array>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "chart.h"

namespace prescore::experiments {

/// Probabilities above which an entry is heavy.
inline constexpr std::array<double, 3> kHeavy{0.001, 0.01, 0.1};

/// Rows of the journal, one a layer: {"methods": [{"method", "mass": [head], "keys": [head],
/// "heavy": [head][kHeavy]}], "far_overlap": [method][method]}.
struct CoverageRows {
  std::vector<std::int64_t> layers;
  std::vector<nlohmann::json> rows;

  std::size_t methods() const { return rows.at(0).at("methods").size(); }
  std::string name(std::size_t method) const {
    return rows.at(0).at("methods")[method].at("method");
  }
};

/// One line a method: keys, mass (its mean and its spread over the heads of all layers), heavy
/// entries.
std::string mass_table(const CoverageRows&);
/// Overlaps, a mean over layers; columns are numbered in the order of the rows.
std::string overlap_table(const CoverageRows&);
/// Mass by layer, for a few methods also by head, and overlaps.
std::string coverage_picture(const CoverageRows&);

}  // namespace prescore::experiments
