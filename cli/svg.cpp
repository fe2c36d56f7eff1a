#include "svg.h"

#include <fmt/format.h>

#include <algorithm>

namespace prescore::cli {
namespace {

// Pixels.
constexpr double kLeft = 90, kTop = 88, kLine = 34, kBar = 18;
constexpr double kTimeWidth = 360, kGap = 90, kPplWidth = 240, kRight = 70;

std::string escaped(const std::string& text) {
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

std::string text(double x, double y, const std::string& words, const char* style = "") {
  return fmt::format("<text x=\"{:.1f}\" y=\"{:.1f}\"{}>{}</text>\n", x, y, style, escaped(words));
}

std::string rect(double x, double y, double width, double height, const char* fill) {
  return fmt::format(
      "<rect x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\" rx=\"2\" fill=\"{}\"/>\n",
      x, y, std::max(0.0, width), height, fill);
}

constexpr char kEnd[] = " text-anchor=\"end\"";
constexpr char kHead[] = " font-weight=\"600\"";
constexpr char kSmall[] = " font-size=\"11\" fill=\"#667\"";
constexpr char kAttention[] = "#3566a8", kRest[] = "#b9c9de", kDot[] = "#b4502d";

}  // namespace

std::string to_svg(const Report& r) {
  double slowest = 0, least = 1e300, most = 0;
  for (const Row& row : r.rows) {
    slowest = std::max(slowest, row.prefill_s);
    least = std::min(least, row.ppl);
    most = std::max(most, row.ppl);
  }
  // At least 2 % wide, so that rounding does not look like a difference.
  const double middle = (least + most) / 2, span = std::max(most - least, 0.02 * middle) * 1.2;
  const double ppl_x = kLeft + kTimeWidth + kGap;
  const double width = ppl_x + kPplWidth + kRight;
  const double bottom = kTop + kLine * static_cast<double>(r.rows.size());
  const auto at = [&](double ppl) { return ppl_x + kPplWidth * ((ppl - middle) / span + 0.5); };

  std::string out = fmt::format(
      "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
      "viewBox=\"0 0 {0:.0f} {1:.0f}\" font-family=\"sans-serif\" font-size=\"13\" "
      "fill=\"#223\">\n",
      width, bottom + 40);
  out += rect(0, 0, width, bottom + 40, "#ffffff");
  out += text(16, 26, fmt::format("{}: reading {} tokens", r.model, r.ctx),
              " font-size=\"15\" font-weight=\"600\"");
  out += text(16, 44, fmt::format("{} threads, {}", r.threads, r.machine), kSmall);
  out += text(kLeft, kTop - 14, "seconds", kHead);
  out += rect(kLeft + 70, kTop - 24, 10, 10, kAttention) +
         text(kLeft + 84, kTop - 15, "attention", kSmall);
  out += rect(kLeft + 144, kTop - 24, 10, 10, kRest) +
         text(kLeft + 158, kTop - 15, "the rest", kSmall);
  out += text(ppl_x, kTop - 14,
              r.score == "tail" ? "perplexity, last quarter" : "perplexity, second half", kHead);
  out += fmt::format(
      "<path d=\"M{0:.1f} {1:.1f}V{2:.1f}M{3:.1f} {1:.1f}V{2:.1f}\" stroke=\"#ccd\" "
      "fill=\"none\"/>\n",
      kLeft, kTop - 6, bottom, ppl_x);

  double y = kTop;
  for (const Row& row : r.rows) {
    const double scale = slowest > 0 ? kTimeWidth / slowest : 0, base = y + kBar - 4;
    out += text(kLeft - 10, base, row.method, kEnd);
    out += rect(kLeft, y, row.prefill_s * scale, kBar, kRest);
    out += rect(kLeft, y, std::min(row.attention_s, row.prefill_s) * scale, kBar, kAttention);
    out += text(kLeft + row.prefill_s * scale + 6, base, fmt::format("{:.1f}", row.prefill_s));
    out += fmt::format("<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"#eef\"/>\n", ppl_x, y + kBar / 2,
                       ppl_x + kPplWidth);
    out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\" fill=\"{}\"/>\n", at(row.ppl),
                       y + kBar / 2, kDot);
    out += text(ppl_x + kPplWidth + 10, base, fmt::format("{:.3f}", row.ppl));
    y += kLine;
  }
  out += text(16, bottom + 24,
              "Lower is better in both. The axis of perplexity does not begin at 0.", kSmall);
  return out + "</svg>\n";
}

}  // namespace prescore::cli
