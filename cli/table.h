// A plain-text table: columns as wide as their widest cell, first column left, numbers right.
#pragma once

#include <string>
#include <vector>

namespace prescore::cli {

class Table {
 public:
  explicit Table(std::vector<std::string> header) : rows_{std::move(header)} {}
  /// Missing cells are empty, surplus ones an error of the caller's.
  void add(std::vector<std::string> row) { rows_.push_back(std::move(row)); }
  /// Ends with a newline.
  std::string str() const;

 private:
  std::vector<std::vector<std::string>> rows_;
};

}  // namespace prescore::cli
