// What the benchmark programs share: arguments, repeated timing, rows, JSON.
#pragma once

#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <sstream>
#include <string>
#include <type_traits>
#include <vector>

namespace bench {

/// "--name value" pairs; a flag without a value counts as 1.
class Args {
 public:
  Args(int argc, char** argv) : words_(argv + 1, argv + argc) {}
  std::string text(const std::string& name, const std::string& fallback) const {
    for (std::size_t i = 0; i < words_.size(); ++i)
      if (words_[i] == name)
        return i + 1 < words_.size() && words_[i + 1].rfind("--", 0) != 0 ? words_[i + 1] : "1";
    return fallback;
  }
  std::int64_t number(const std::string& name, std::int64_t fallback) const {
    const std::string t = text(name, "");
    return t.empty() ? fallback : std::atoll(t.c_str());
  }
  /// Values separated by commas.
  std::vector<std::string> list(const std::string& name, const std::string& fallback) const {
    std::vector<std::string> out;
    std::stringstream in(text(name, fallback));
    for (std::string item; std::getline(in, item, ',');) out.push_back(item);
    return out;
  }

 private:
  std::vector<std::string> words_;
};

inline double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}
/// Processor seconds of this process so far: what a busy machine disturbs least.
inline double cpu_now() {
  rusage u{};
  getrusage(RUSAGE_SELF, &u);
  const auto s = [](const timeval& t) {
    return static_cast<double>(t.tv_sec) + 1e-6 * static_cast<double>(t.tv_usec);
  };
  return s(u.ru_utime) + s(u.ru_stime);
}

/// Values of repeated runs.
struct Series {
  std::vector<double> values;
  void add(double x) { values.push_back(x); }
  double median() const {
    if (values.empty()) return 0;
    std::vector<double> v = values;
    std::sort(v.begin(), v.end());
    return v.size() % 2 != 0 ? v[v.size() / 2] : 0.5 * (v[v.size() / 2 - 1] + v[v.size() / 2]);
  }
  double low() const {
    return values.empty() ? 0 : *std::min_element(values.begin(), values.end());
  }
  double high() const {
    return values.empty() ? 0 : *std::max_element(values.begin(), values.end());
  }
};

/// One line that is written over, on a terminal only.
template <typename... T>
void progress(const char* format, T... values) {
  static const bool shown = isatty(STDOUT_FILENO) != 0;
  if (!shown) return;
  std::printf("\r%60s\r", ""), std::printf(format, values...), std::fflush(stdout);
}

/// One JSON object, fields in the order they were added.
class Row {
 public:
  template <typename T>
  Row& add(const std::string& name, const T& value) {
    text_ += (text_.empty() ? "" : ", ") + quote(name) + ": " + encode(value);
    return *this;
  }
  /// Median, spread and number of a series.
  Row& add_series(const std::string& name, const Series& s) {
    return add(name, s.median())
        .add(name + "_min", s.low())
        .add(name + "_max", s.high())
        .add("repeats", static_cast<std::int64_t>(s.values.size()));
  }
  std::string str() const { return "{" + text_ + "}"; }

 private:
  static std::string quote(const std::string& s) {
    std::string out = "\"";
    for (const char c : s) {
      if (c == '"' || c == '\\') out += '\\';
      out += c;
    }
    return out + "\"";
  }
  template <typename T>
  static std::string encode(const T& value) {
    if constexpr (std::is_same_v<T, bool>) {
      return value ? "true" : "false";
    } else if constexpr (std::is_integral_v<T>) {
      return std::to_string(value);
    } else if constexpr (std::is_floating_point_v<T>) {
      if (!std::isfinite(value)) return "null";
      char buffer[32];
      std::snprintf(buffer, sizeof buffer, "%.6g", static_cast<double>(value));
      return buffer;
    } else {
      return quote(std::string(value));
    }
  }
  std::string text_;
};

/// {"rows": [...]} into `path`; nothing where it is empty.
inline bool write_rows(const std::string& path, const std::vector<Row>& rows) {
  if (path.empty()) return true;
  std::ofstream out(path);
  out << "{\"rows\": [\n";
  for (std::size_t i = 0; i < rows.size(); ++i)
    out << "  " << rows[i].str() << (i + 1 < rows.size() ? ",\n" : "\n");
  out << "]}\n";
  return static_cast<bool>(out);
}

}  // namespace bench
