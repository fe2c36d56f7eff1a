// What can go wrong, by the exit code it leads to.
#pragma once

#include <stdexcept>

namespace prescore::cli {

/// A mistake of the user's: one sentence on stderr, exit code 2, nothing written.
class BadInput : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// The job itself failed: exit code 1, nothing written.
class Failed : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

constexpr int kExitFailed = 1;
constexpr int kExitBadInput = 2;

}  // namespace prescore::cli
