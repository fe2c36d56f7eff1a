// A folder and a variable of the environment that last as long as a test wants them.
#pragma once

#include <stdlib.h>

#include <filesystem>
#include <string>

namespace prescore::test {

class Temporary {
 public:
  Temporary() {
    std::string pattern = (std::filesystem::temp_directory_path() / "prescore_XXXXXX").string();
    path_ = mkdtemp(pattern.data());
  }
  ~Temporary() { std::filesystem::remove_all(path_); }
  Temporary(const Temporary&) = delete;
  Temporary& operator=(const Temporary&) = delete;

  const std::string& path() const { return path_; }
  std::string operator/(const std::string& name) const { return path_ + "/" + name; }
  /// Files in it and in its folders.
  int files() const {
    int n = 0;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(path_))
      n += !entry.is_directory();
    return n;
  }

 private:
  std::string path_;
};

/// Set to `value`, empty: as if it were not there; restored in the end.
class Variable {
 public:
  Variable(const char* name, const std::string& value) : name_(name) {
    const char* before = std::getenv(name);
    had_ = before != nullptr;
    if (had_) before_ = before;
    setenv(name, value.c_str(), 1);
  }
  ~Variable() {
    if (had_)
      setenv(name_, before_.c_str(), 1);
    else
      unsetenv(name_);
  }
  Variable(const Variable&) = delete;
  Variable& operator=(const Variable&) = delete;

 private:
  const char* name_;
  std::string before_;
  bool had_ = false;
};

}  // namespace prescore::test
