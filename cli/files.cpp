#include "files.h"

#include <fmt/format.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "errors.h"

namespace prescore::cli {
namespace {

namespace fs = std::filesystem;

std::ifstream open(const std::string& path) {
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) throw BadInput(fmt::format("{} is a folder", path));
  errno = 0;
  std::ifstream in(path, std::ios::binary);
  if (!in) throw BadInput(fmt::format("cannot read {}: {}", path, std::strerror(errno)));
  return in;
}

}  // namespace

std::string read_file(const std::string& path) {
  std::ifstream in = open(path);
  std::string text{std::istreambuf_iterator<char>(in), {}};
  if (in.bad()) throw BadInput(fmt::format("cannot read {}", path));
  return text;
}

void check_gguf(const std::string& path) {
  char magic[4] = {};
  if (!open(path).read(magic, sizeof magic) || std::memcmp(magic, "GGUF", sizeof magic) != 0)
    throw BadInput(fmt::format("{} is not a GGUF model", path));
}

void check_writable(const std::string& path) {
  if (path.empty()) return;
  const fs::path folder = fs::absolute(path).parent_path();
  std::error_code ignored;
  if (fs::is_directory(path, ignored)) throw BadInput(fmt::format("{} is a folder", path));
  if (!fs::is_directory(folder, ignored))
    throw BadInput(fmt::format("cannot write {}: there is no folder {}", path, folder.string()));
  if (::access(folder.c_str(), W_OK) != 0)
    throw BadInput(fmt::format("cannot write {}: {}", path, std::strerror(errno)));
}

void write_file(const std::string& path, const std::string& contents) {
  const std::string temporary = fmt::format("{}.{}.tmp", path, ::getpid());
  {
    std::ofstream out(temporary, std::ios::binary | std::ios::trunc);
    out << contents;
    out.flush();
    if (!out) {
      std::remove(temporary.c_str());
      throw BadInput(fmt::format("cannot write {}", path));
    }
  }
  std::error_code error;
  fs::rename(temporary, path, error);
  if (error) {
    std::remove(temporary.c_str());
    throw BadInput(fmt::format("cannot write {}: {}", path, error.message()));
  }
}

}  // namespace prescore::cli
