// Progress on stderr, for everything that takes more than a second.
#pragma once

#include <chrono>
#include <string>

namespace prescore::cli {

/// One line that is rewritten in place on a terminal, and now and then a new one elsewhere. Silent
/// in its first second.
class Progress {
 public:
  explicit Progress(std::string what);
  ~Progress() { clear(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  /// `done` of `total`; cheap, may be called often.
  void at(double done, double total);
  /// Removes the line from a terminal.
  void clear();

 private:
  using Clock = std::chrono::steady_clock;
  std::string what_;
  bool terminal_;
  bool shown_ = false;
  Clock::time_point start_ = Clock::now();
  Clock::time_point last_ = start_;
};

}  // namespace prescore::cli
