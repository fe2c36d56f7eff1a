// The command as a user calls it.
#pragma once

#include <array>
#include <cstdio>
#include <string>

namespace prescore::test {

inline const std::string kCommand = std::string(PRESCORE_BINARY_DIR) + "/prescore";

/// Output of a shell command, both streams; what pclose says in *status.
inline std::string output_of(const std::string& command, int* status) {
  std::string text;
  FILE* pipe = popen((command + " 2>&1").c_str(), "r");
  std::array<char, 4096> part;
  while (const std::size_t n = std::fread(part.data(), 1, part.size(), pipe))
    text.append(part.data(), n);
  *status = pclose(pipe);
  return text;
}

}  // namespace prescore::test
