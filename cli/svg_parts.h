// The few shapes that pictures are made of.
#pragma once

#include <fmt/format.h>

#include <algorithm>
#include <string>

namespace prescore::cli {

inline std::string svg_escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&')
      out += "&amp;";
    else if (c == '<')
      out += "&lt;";
    else if (c == '>')
      out += "&gt;";
    else
      out += c;
  }
  return out;
}

inline std::string svg_text(double x, double y, const std::string& words, const char* style = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\"{}>{}</text>\n", x, y, style,
                     svg_escaped(words));
}

inline std::string svg_rect(double x, double y, double width, double height, const char* fill) {
  return fmt::format(
      "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"2\" fill=\"{}\"/>\n",
      x, y, std::max(0.0, width), height, fill);
}

inline std::string svg_begin(double width, double height) {
  return fmt::format(
             "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
             "viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"sans-serif\" font-size=\"13\" "
             "fill=\"#223\">\n",
             width, height) +
         svg_rect(0, 0, width, height, "#ffffff");
}

inline constexpr char kSvgEnd[] = " text-anchor=\"end\"";
inline constexpr char kSvgMiddle[] = " text-anchor=\"middle\"";
inline constexpr char kSvgHead[] = " font-weight=\"600\"";
inline constexpr char kSvgTitle[] = " font-size=\"15\" font-weight=\"600\"";
inline constexpr char kSvgSmall[] = " font-size=\"11\" fill=\"#667\"";

}  // namespace prescore::cli
