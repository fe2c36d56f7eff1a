#include "chart.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "svg_parts.h"

namespace prescore::experiments {
namespace {

using namespace cli;

constexpr double kWidth = 330, kHeight = 250, kLeft = 64, kTop = 84, kGapX = 70, kGapY = 84;
constexpr std::size_t kAcross = 3;
constexpr double kLetter = 6.2;  // of a small text, on average
constexpr const char* kColours[] = {"#3566a8", "#b4502d", "#3c8a4e", "#8a5aa8",
                                    "#c08a1e", "#2a8c9c", "#a83b62", "#6b7a2a",
                                    "#5d6670", "#d0702e", "#4e4ea8", "#7a4a2a"};

// One axis: values to pixels, with ticks at round numbers.
class Axis {
 public:
  Axis(double least, double most, bool log, double from, double to)
      : log_(log), from_(from), to_(to), least_(map(least)), most_(map(most)) {
    if (!(most_ > least_)) least_ -= 0.5, most_ += 0.5;
    const double room = 0.04 * (most_ - least_);
    least_ -= room, most_ += room;
  }
  double at(double x) const { return from_ + (map(x) - least_) / (most_ - least_) * (to_ - from_); }
  std::vector<double> ticks() const {
    std::vector<double> out;
    if (log_) {
      for (double x = std::ceil(least_); x <= most_;
           x += std::max(1.0, std::ceil((most_ - least_) / 8)))
        out.push_back(std::exp2(x));
      if (out.size() >= 3) return out;
      out.clear();
    }
    const double low = log_ ? std::exp2(least_) : least_, high = log_ ? std::exp2(most_) : most_;
    const double raw = (high - low) / 5, unit = std::pow(10, std::floor(std::log10(raw)));
    const double step = (raw / unit > 5 ? 10 : raw / unit > 2 ? 5 : raw / unit > 1 ? 2 : 1) * unit;
    for (double x = std::ceil(low / step) * step; x <= high; x += step) out.push_back(x);
    return out;
  }

 private:
  double map(double x) const { return log_ ? std::log2(std::max(x, 1e-12)) : x; }
  bool log_;
  double from_, to_, least_, most_;
};

std::string label(double x) {
  if (x >= 1024 && std::fmod(x, 1024) == 0) return fmt::format("{:.0f}k", x / 1024);
  return fmt::format("{:.4g}", x);
}

bool shown(const std::pair<double, double>& p) {
  return std::isfinite(p.first) && std::isfinite(p.second);
}

std::string draw_panel(const Panel& panel, double left, double top,
                       const std::vector<std::string>& names) {
  double x0 = 1e300, x1 = -1e300, y0 = 1e300, y1 = -1e300;
  for (const Series& s : panel.series)
    for (const auto& p : s.points) {
      if (!shown(p)) continue;
      x0 = std::min(x0, p.first), x1 = std::max(x1, p.first);
      y0 = std::min(y0, p.second), y1 = std::max(y1, p.second);
    }
  std::string out = svg_text(left, top - 12, panel.title, kSvgHead);
  if (x0 > x1) return out;
  const Axis x(x0, x1, panel.log_x, left, left + kWidth);
  const Axis y(y0, y1, panel.log_y, top + kHeight, top);
  for (const double t : x.ticks()) {
    out += fmt::format("<path d=\"M{0:.1f} {1:.1f}V{2:.1f}\" stroke=\"#eef\"/>\n", x.at(t), top,
                       top + kHeight);
    out += svg_text(x.at(t), top + kHeight + 15, label(t),
                    " font-size=\"11\" fill=\"#667\" text-anchor=\"middle\"");
  }
  for (const double t : y.ticks()) {
    out += fmt::format("<path d=\"M{0:.1f} {1:.1f}H{2:.1f}\" stroke=\"#eef\"/>\n", left, y.at(t),
                       left + kWidth);
    out += svg_text(left - 6, y.at(t) + 4, label(t),
                    " font-size=\"11\" fill=\"#667\" text-anchor=\"end\"");
  }
  out += svg_text(left + kWidth / 2, top + kHeight + 32, panel.x_label,
                  " font-size=\"11\" fill=\"#667\" text-anchor=\"middle\"");
  out += svg_text(left - 44, top - 28, panel.y_label, kSvgSmall);
  for (const Series& s : panel.series) {
    const auto number =
        static_cast<std::size_t>(std::find(names.begin(), names.end(), s.name) - names.begin());
    const char* colour = s.dashed ? "#222222" : kColours[number % std::size(kColours)];
    std::string path;
    for (const auto& p : s.points) {
      if (!shown(p)) continue;
      path +=
          fmt::format("{}{:.1f} {:.1f}", path.empty() ? "M" : "L", x.at(p.first), y.at(p.second));
      out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"2.5\" fill=\"{}\"/>\n",
                         x.at(p.first), y.at(p.second), colour);
    }
    if (!path.empty())
      out += fmt::format("<path d=\"{}\" stroke=\"{}\" stroke-width=\"1.6\" fill=\"none\"{}/>\n",
                         path, colour, s.dashed ? " stroke-dasharray=\"5 3\"" : "");
  }
  return out;
}

}  // namespace

std::string line_chart(const std::string& title, const std::vector<Panel>& panels) {
  std::vector<std::string> names;
  std::vector<bool> dashed;
  for (const Panel& p : panels)
    for (const Series& s : p.series)
      if (std::find(names.begin(), names.end(), s.name) == names.end())
        names.push_back(s.name), dashed.push_back(s.dashed);
  const std::size_t across = std::min(kAcross, std::max<std::size_t>(1, panels.size()));
  const std::size_t down = (panels.size() + across - 1) / across;
  const double width = kLeft + static_cast<double>(across) * (kWidth + kGapX);
  std::size_t longest = 0;
  for (const std::string& name : names) longest = std::max(longest, name.size());
  const double entry = kLetter * static_cast<double>(longest) + 36;
  const auto per_line = std::max<std::size_t>(1, static_cast<std::size_t>((width - 32) / entry));
  const double legend = 18.0 * static_cast<double>((names.size() + per_line - 1) / per_line);
  const double bottom = kTop + static_cast<double>(down) * (kHeight + kGapY) - 20;
  std::string out = svg_begin(width, bottom + legend + 12) + svg_text(16, 26, title, kSvgTitle);
  for (std::size_t i = 0; i < panels.size(); ++i)
    out += draw_panel(panels[i], kLeft + static_cast<double>(i % across) * (kWidth + kGapX),
                      kTop + static_cast<double>(i / across) * (kHeight + kGapY), names);
  for (std::size_t i = 0; i < names.size(); ++i) {
    const double x = 16 + entry * static_cast<double>(i % per_line);
    const double y = bottom + 18.0 * static_cast<double>(i / per_line);
    out += fmt::format("<path d=\"M{:.1f} {:.1f}h16\" stroke=\"{}\" stroke-width=\"2\"{}/>\n", x,
                       y - 4, dashed[i] ? "#222222" : kColours[i % std::size(kColours)],
                       dashed[i] ? " stroke-dasharray=\"5 3\"" : "");
    out += svg_text(x + 22, y, names[i], kSvgSmall);
  }
  return out + "</svg>\n";
}

namespace {

constexpr double kCellX = 46, kCellY = 22, kSmallCell = 18, kMapTop = 48, kMapGap = 24;
constexpr int kKeySteps = 6;

double cell_x(const HeatMap& m) { return m.small ? kSmallCell : kCellX; }
double cell_y(const HeatMap& m) { return m.small ? kSmallCell : kCellY; }

double names_width(const HeatMap& m) {
  std::size_t longest = 8;
  for (const std::string& name : m.rows) longest = std::max(longest, name.size());
  return kLetter * static_cast<double>(longest) + 8;
}
double width_of(const HeatMap& m) {
  const double title = 7.5 * static_cast<double>(m.title.size());
  return std::max(title, names_width(m) + cell_x(m) * static_cast<double>(m.columns.size()));
}
double height_of(const HeatMap& m) {
  return kMapTop + cell_y(m) * static_cast<double>(m.rows.size() + (m.small ? 2 : 0));
}

std::string colour_of(double share) {
  const auto mix = [&](int low, int high) { return low + static_cast<int>(share * (high - low)); };
  return fmt::format("#{:02x}{:02x}{:02x}", mix(246, 24), mix(244, 78), mix(236, 120));
}

std::string draw_cell(const HeatMap& m, double x, double y, double value) {
  const double share = std::clamp((value - m.least) / (m.most - m.least), 0.0, 1.0);
  const std::string cell = svg_rect(x, y, cell_x(m) - 1, cell_y(m) - 1, colour_of(share).c_str());
  if (m.small) return cell;
  return cell + svg_text(x + kCellX / 2, y + 15,
                         fmt::format("{:.3g}", std::round(1000 * value) / 1000),
                         share > 0.55 ? " font-size=\"11\" fill=\"#fff\" text-anchor=\"middle\""
                                      : " font-size=\"11\" text-anchor=\"middle\"");
}

// What the colours of small cells mean: their values from least to most.
std::string draw_key(const HeatMap& m, double x, double y) {
  std::string out =
      svg_text(x - 6, y + 13, label(m.least), " font-size=\"11\" text-anchor=\"end\"");
  for (int i = 0; i < kKeySteps; ++i)
    out += svg_rect(x + kSmallCell * i, y, kSmallCell - 1, kSmallCell - 1,
                    colour_of(i / (kKeySteps - 1.0)).c_str());
  return out + svg_text(x + kSmallCell * kKeySteps + 5, y + 13, label(m.most), " font-size=\"11\"");
}

std::string draw_map(const HeatMap& m, double left, double top) {
  const double x0 = left + names_width(m), y0 = top + kMapTop;
  std::string out = svg_text(left, top + 16, m.title, kSvgHead);
  for (std::size_t c = 0; c < m.columns.size(); ++c)
    out += svg_text(x0 + cell_x(m) * (static_cast<double>(c) + 0.5), y0 - 6, m.columns[c],
                    " font-size=\"11\" fill=\"#667\" text-anchor=\"middle\"");
  for (std::size_t r = 0; r < m.rows.size(); ++r) {
    const double y = y0 + cell_y(m) * static_cast<double>(r);
    out += svg_text(x0 - 6, y + (m.small ? 13 : 15), m.rows[r],
                    " font-size=\"11\" text-anchor=\"end\"");
    for (std::size_t c = 0; c < m.columns.size(); ++c) {
      const double value = m.values[r][c];
      if (std::isfinite(value))
        out += draw_cell(m, x0 + cell_x(m) * static_cast<double>(c), y, value);
    }
  }
  if (m.small) out += draw_key(m, x0, y0 + cell_y(m) * (static_cast<double>(m.rows.size()) + 0.5));
  return out;
}

}  // namespace

std::string heat_maps(const std::string& title, const std::vector<HeatMap>& maps) {
  constexpr double kMostWidth = 1600;
  double left = 16, top = 36, line = 0, width = 400;
  std::string body;
  for (const HeatMap& m : maps) {
    if (left > 16 && left + width_of(m) > kMostWidth) left = 16, top += line + kMapGap, line = 0;
    body += draw_map(m, left, top);
    left += width_of(m) + kMapGap;
    width = std::max(width, left), line = std::max(line, height_of(m));
  }
  return svg_begin(width, top + line + 20) + svg_text(16, 26, title, kSvgTitle) + body + "</svg>\n";
}

}  // namespace prescore::experiments
