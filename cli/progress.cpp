#include "progress.h"

#include <fmt/format.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

namespace prescore::cli {
namespace {

using Seconds = std::chrono::duration<double>;
constexpr Seconds kSilent{1}, kTerminalPeriod{0.2}, kLogPeriod{10};

}  // namespace

Progress::Progress(std::string what) : what_(std::move(what)), terminal_(isatty(STDERR_FILENO)) {}

void Progress::at(double done, double total) {
  const auto now = Clock::now();
  if (now - start_ < kSilent ||
      (shown_ && now - last_ < (terminal_ ? kTerminalPeriod : kLogPeriod)))
    return;
  last_ = now;
  shown_ = true;
  const double percent = total > 0 ? std::min(100.0, 100 * done / total) : 0;
  const std::string line =
      fmt::format("{}: {:.0f} %, {:.0f} s", what_, percent, Seconds(now - start_).count());
  if (terminal_)
    fmt::print(stderr, "\r\033[K{}", line);
  else
    fmt::print(stderr, "{}\n", line);
  std::fflush(stderr);
}

void Progress::clear() {
  if (terminal_ && shown_) fmt::print(stderr, "\r\033[K");
  std::fflush(stderr);
  shown_ = false;
}

}  // namespace prescore::cli
