#include "table.h"

#include <fmt/format.h>

#include <algorithm>

namespace prescore::cli {

std::string Table::str() const {
  std::vector<std::size_t> widths(rows_.front().size());
  for (const auto& row : rows_)
    for (std::size_t c = 0; c < row.size(); ++c) widths[c] = std::max(widths[c], row[c].size());

  std::string out;
  for (std::size_t r = 0; r < rows_.size(); ++r) {
    std::string line;
    for (std::size_t c = 0; c < widths.size(); ++c) {
      const std::string cell = c < rows_[r].size() ? rows_[r][c] : "";
      line += c == 0 ? fmt::format("{:<{}}", cell, widths[c])
                     : fmt::format("  {:>{}}", cell, widths[c]);
    }
    line.erase(line.find_last_not_of(' ') + 1);
    out += line + '\n';
    if (r == 0) {
      for (std::size_t c = 0; c < widths.size(); ++c)
        out += (c == 0 ? "" : "  ") + std::string(widths[c], '-');
      out += '\n';
    }
  }
  return out;
}

}  // namespace prescore::cli
