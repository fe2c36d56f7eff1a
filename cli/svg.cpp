#include "svg.h"

#include <fmt/format.h>

#include <algorithm>

#include "svg_parts.h"

namespace prescore::cli {
namespace {

// Pixels.
constexpr double kLeft = 90, kTop = 88, kLine = 34, kBar = 18;
constexpr double kTimeWidth = 360, kGap = 90, kPplWidth = 240, kRight = 70;

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

  std::string out = svg_begin(width, bottom + 40);
  out += svg_text(16, 26, fmt::format("{}: reading {} tokens", r.model, r.protocol.ctx), kSvgTitle);
  out += svg_text(16, 44, fmt::format("{} threads, {}", r.protocol.threads, r.machine), kSvgSmall);
  out += svg_text(kLeft, kTop - 14, "seconds", kSvgHead);
  out += svg_rect(kLeft + 70, kTop - 24, 10, 10, kAttention) +
         svg_text(kLeft + 84, kTop - 15, "attention", kSvgSmall);
  out += svg_rect(kLeft + 144, kTop - 24, 10, 10, kRest) +
         svg_text(kLeft + 158, kTop - 15, "the rest", kSvgSmall);
  out +=
      svg_text(ppl_x, kTop - 14, fmt::format("perplexity, {}", scored_part(r.protocol)), kSvgHead);
  out += fmt::format(
      "<path d=\"M{0:.1f} {1:.1f}V{2:.1f}M{3:.1f} {1:.1f}V{2:.1f}\" stroke=\"#ccd\" "
      "fill=\"none\"/>\n",
      kLeft, kTop - 6, bottom, ppl_x);

  double y = kTop;
  for (const Row& row : r.rows) {
    const double scale = slowest > 0 ? kTimeWidth / slowest : 0, base = y + kBar - 4;
    out += svg_text(kLeft - 10, base, row.method, kSvgEnd);
    out += svg_rect(kLeft, y, row.prefill_s * scale, kBar, kRest);
    out += svg_rect(kLeft, y, std::min(row.attention_s, row.prefill_s) * scale, kBar, kAttention);
    out += svg_text(kLeft + row.prefill_s * scale + 6, base, fmt::format("{:.1f}", row.prefill_s));
    out += fmt::format("<path d=\"M{:.1f} {:.1f}H{:.1f}\" stroke=\"#eef\"/>\n", ppl_x, y + kBar / 2,
                       ppl_x + kPplWidth);
    out += fmt::format("<circle cx=\"{:.1f}\" cy=\"{:.1f}\" r=\"5\" fill=\"{}\"/>\n", at(row.ppl),
                       y + kBar / 2, kDot);
    out += svg_text(ppl_x + kPplWidth + 10, base, fmt::format("{:.3f}", row.ppl));
    y += kLine;
  }
  out += svg_text(16, bottom + 24,
                  fmt::format("Lower is better in both. The axis of perplexity ({}) does not begin "
                              "at 0.",
                              r.protocol.name()),
                  kSvgSmall);
  return out + "</svg>\n";
}

}  // namespace prescore::cli
