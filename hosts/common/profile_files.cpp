#include "common/profile_files.h"

#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace prescore::host {
namespace {

namespace fs = std::filesystem;

std::string variable(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? "" : text;
}

/// Of this process's writers, whose temporary files must differ.
int next_number() {
  static std::atomic<int> n{0};
  return n.fetch_add(1);
}

}  // namespace

HeadProfile read_profile(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored))
    throw Error("[profile] " + path + ", got a folder, want a file");
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(in), {}};
  if (!in.is_open() || in.bad())
    throw Error("[profile] " + path + ", got " +
                (errno == 0 ? "an error of reading" : std::strerror(errno)) +
                ", want a file that can be read");
  return parse_profile(text, path);
}

void write_profile(const HeadProfile& profile, const std::string& path) {
  const auto fail = [&](const std::string& why) {
    throw Error("[profile] " + path + ", got " + why + ", want a file that can be written");
  };
  std::error_code error;
  const fs::path folder = fs::path(path).parent_path();
  if (!folder.empty()) fs::create_directories(folder, error);
  if (error) fail(error.message());
  const std::string temporary =
      path + "." + std::to_string(::getpid()) + "." + std::to_string(next_number()) + ".tmp";
  errno = 0;
  std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
  out << to_json(profile);
  out.close();
  if (!out) {
    const std::string why = errno == 0 ? "an error of writing" : std::strerror(errno);
    std::remove(temporary.c_str());
    fail(why);
  }
  fs::rename(temporary, path, error);
  if (error) {
    std::remove(temporary.c_str());
    fail(error.message());
  }
}

std::string cached_profile_path(const std::string& fingerprint) {
  std::string folder = variable("PRESCORE_CACHE");
  if (folder.empty()) {
    if (const std::string xdg = variable("XDG_CACHE_HOME"); !xdg.empty())
      folder = xdg + "/prescore";
    else if (const std::string home = variable("HOME"); !home.empty())
      folder = home + "/.cache/prescore";
  }
  return folder.empty() ? "" : folder + "/profiles/" + fingerprint + ".json";
}

std::string profile_setting(const std::string& given) {
  return given.empty() ? variable("PRESCORE_PROFILE") : given;
}

FoundProfile find_profile(const ModelIdentity& model, const std::string& setting) {
  FoundProfile found;
  if (setting == "none") {
    found.off = true;
    return found;
  }
  const auto take = [&](HeadProfile p) {
    check_fits(p, model);
    found.profile = std::make_shared<const HeadProfile>(std::move(p));
  };
  if (!setting.empty()) {
    take(read_profile(setting));
    return found;
  }
  const std::string cached = cached_profile_path(model.fingerprint);
  std::error_code ignored;
  if (!cached.empty() && fs::exists(cached, ignored)) try {
      take(read_profile(cached));
      return found;
    } catch (const Error& e) {
      found.note = e.what();
    }
  for (const auto& [name, text] : shipped_profiles()) {
    HeadProfile p = parse_profile(text, std::string(name) + " (shipped)");
    if (p.model.fingerprint != model.fingerprint) continue;
    take(std::move(p));
    break;
  }
  return found;
}

}  // namespace prescore::host
