// Pictures of experiments: lines in panels, and heat maps.
#pragma once

#include <string>
#include <utility>
#include <vector>

namespace prescore::experiments {

struct Series {
  std::string name;
  std::vector<std::pair<double, double>> points;  ///< what is not finite is left out
  bool dashed = false;                            ///< what the others are compared with
};

struct Panel {
  std::string title, x_label, y_label;
  std::vector<Series> series;
  bool log_x = true, log_y = false;
};

/// Panels side by side, three to a line; series of the same name have the same colour in all.
std::string line_chart(const std::string& title, const std::vector<Panel>& panels);

struct HeatMap {
  std::string title;
  std::vector<std::string> rows, columns;
  std::vector<std::vector<double>> values;  ///< [row][column]; not finite: an empty cell
  double least = 0, most = 1;               ///< ends of the colours
  bool small = false;                       ///< small cells, a key of the colours for their values
};

/// Heat maps side by side, as many to a line as fit, each cell with its value unless it is small.
std::string heat_maps(const std::string& title, const std::vector<HeatMap>& maps);

}  // namespace prescore::experiments
