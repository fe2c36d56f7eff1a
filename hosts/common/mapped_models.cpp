#include "common/mapped_models.h"

#include <algorithm>
#include <cstring>
#include <fstream>
#include <sstream>

#include "common/fingerprint.h"
#include "common/profile_files.h"

namespace prescore::host {
namespace {

bool is_gguf(const std::string& path) {
  char magic[4] = {};
  return std::ifstream(path, std::ios::binary).read(magic, sizeof magic) &&
         std::memcmp(magic, "GGUF", sizeof magic) == 0;
}

/// Of a split model only the first file has the metadata.
bool is_later_part(const std::string& path) {
  constexpr std::size_t kTail = sizeof "-00002-of-00003.gguf" - 1;
  if (path.size() < kTail) return false;
  const std::string tail = path.substr(path.size() - kTail);
  return tail.substr(6, 4) == "-of-" && tail.substr(0, 6) != "-00001";
}

}  // namespace

std::vector<std::string> mapped_ggufs(std::istream& maps) {
  std::vector<std::string> paths;
  std::string last;
  for (std::string line; std::getline(maps, line);) {
    const std::size_t at = line.find('/');  // nothing before a path has a slash
    if (at == std::string::npos) continue;
    const std::string path = line.substr(at);
    if (path == last) continue;
    last = path;
    if (path.rfind("/dev/", 0) == 0 || std::find(paths.begin(), paths.end(), path) != paths.end())
      continue;
    if (is_gguf(path)) paths.push_back(path);
  }
  return paths;
}

std::vector<ModelIdentity> mapped_models() {
  std::ifstream maps("/proc/self/maps");
  std::vector<ModelIdentity> models;
  for (const std::string& path : mapped_ggufs(maps)) try {
      if (!is_later_part(path)) models.push_back(identify(path));
    } catch (const Error&) {  // not a language model: an adapter, a projector
    }
  return models;
}

std::shared_ptr<const HeadProfile> profile_of_mapped(
    const std::shared_ptr<const HeadProfile>& named, const std::vector<ModelIdentity>& models,
    std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim, std::string* note) {
  std::vector<ModelIdentity> fitting;
  for (const ModelIdentity& m : models)
    if (m.heads == heads && m.kv_heads == kv_heads && m.head_dim == head_dim &&
        std::none_of(fitting.begin(), fitting.end(),
                     [&](const ModelIdentity& f) { return f.fingerprint == m.fingerprint; }))
      fitting.push_back(m);
  if (named != nullptr) {
    std::string refused;
    for (const ModelIdentity& m : fitting) try {
        check_fits(*named, m);
        return named;
      } catch (const Error& e) {
        refused = e.what();
      }
    if (fitting.empty()) return named;  // the operations' shapes still have to agree
    *note = refused;
    return nullptr;
  }
  if (fitting.size() != 1) return nullptr;
  FoundProfile found = find_profile(fitting.front(), "");
  *note = found.note;
  return found.profile;
}

}  // namespace prescore::host
