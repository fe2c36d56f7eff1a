#include "journal.h"

#include <fmt/format.h>

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <utility>
#include <vector>

#include "errors.h"
#include "files.h"

namespace prescore::experiments {

using nlohmann::json;

namespace {

class Fnv1a {
 public:
  void add(std::span<const std::byte> bytes) {
    for (const std::byte b : bytes)
      hash_ = (hash_ ^ std::to_integer<std::uint64_t>(b)) * 0x100000001b3u;
  }
  std::string text() const { return fmt::format("{:016x}", hash_); }

 private:
  std::uint64_t hash_ = 0xcbf29ce484222325u;
};

// Names of the settings that are not the same in both, with commas.
std::string different(const json& one, const json& other) {
  if (!one.is_object() || !other.is_object()) return "all";
  std::string names;
  const auto collect = [&](const json& from, const json& to, bool both) {
    for (const auto& [name, value] : from.items())
      if (const auto at = to.find(name); at == to.end() || (both && *at != value))
        names += (names.empty() ? "" : ", ") + name;
  };
  collect(one, other, true), collect(other, one, false);
  return names;
}

}  // namespace

std::string short_hash(std::span<const std::byte> bytes) {
  Fnv1a hash;
  hash.add(bytes);
  return hash.text();
}

std::string running_build() {
  std::ifstream in("/proc/self/exe", std::ios::binary);
  Fnv1a hash;
  std::vector<char> block(1 << 20);
  bool any = false;
  while (in.read(block.data(), static_cast<std::streamsize>(block.size())), in.gcount() > 0) {
    any = true;
    hash.add(std::as_bytes(std::span(block).first(static_cast<std::size_t>(in.gcount()))));
  }
  return any ? hash.text() : "unknown";
}

Journal::Journal(const std::string& folder, const std::string& name, json settings, bool fresh,
                 std::string build)
    : folder_(folder), name_(name), path_(folder + "/" + name + ".jsonl"), build_(std::move(build)),
      settings_(std::move(settings)) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) throw cli::BadInput(fmt::format("cannot create {}: {}", folder, error.message()));
  std::string whole = settings_.dump() + "\n";
  if (!fresh && std::filesystem::exists(path_)) {
    std::ifstream in(path_);
    std::string line;
    json before;
    for (bool first = true; std::getline(in, line) && !in.eof(); first = false) {
      json parsed = json::parse(line, nullptr, /*allow_exceptions=*/false);
      if (parsed.is_discarded()) break;
      if (first) {
        before = std::move(parsed);
        continue;
      }
      known_.push_back(std::move(parsed));
      whole += line + "\n";
    }
    if (!known_.empty() && before != settings_)
      throw cli::BadInput(
          fmt::format("{} holds rows of other settings ({}), want the same, another --out, or "
                      "--fresh to begin anew",
                      path_, different(settings_, before)));
  }
  cli::write_file(path_, whole);
}

const json& Journal::row(const json& key, const std::function<json()>& compute) {
  for (const json& row : known_) {
    if (row.at("key") != key) continue;
    tell_other_build(row);
    return asked_.emplace_back(row);
  }
  const auto start = std::chrono::steady_clock::now();
  const json row = {{"key", key}, {"row", compute()}, {"build", build_}};
  const std::string line = row.dump() + "\n";
  std::ofstream out(path_, std::ios::app);
  out << line << std::flush;
  if (!out) throw cli::Failed(fmt::format("cannot write {}", path_));
  known_.push_back(row);
  asked_.push_back(row);
  fmt::print(stderr, "{}: {} of {} rows, the last in {:.1f} s: {}\n", name_, asked_.size(),
             std::max(expected_, asked_.size()),
             std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(),
             key.dump());
  return asked_.back();
}

void Journal::tell_other_build(const json& row) {
  if (told_ || row.value("build", std::string()) == build_) return;
  told_ = true;
  fmt::print(stderr,
             "{}: {} has rows of another build, which are used again; --fresh begins anew\n", name_,
             path_);
}

json Journal::document() const {
  json rows = json::array();
  for (const json& r : asked_) rows.push_back(r);
  return {{"name", name_}, {"settings", settings_}, {"rows", rows}};
}

}  // namespace prescore::experiments
