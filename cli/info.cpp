// prescore info: what this build is and what it would use here.
#include <fmt/format.h>
#include <oneapi/tbb/version.h>

#include <CLI/CLI.hpp>
#include <Eigen/Core>
#include <filesystem>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "common/isa.h"
#include "common/profile_files.h"
#include "ggml.h"
#include "hwy/highway.h"
#include "llama.h"
#include "prescore/attention.h"
#include "settings.h"

namespace prescore::cli {
namespace {

void show(const char* name, const std::string& value) { fmt::print("{:<14}{}\n", name, value); }

std::string levels() {
  std::string text;
  for (const Isa isa : available_isas()) {
    text += text.empty() ? "" : ", ";
    text += name_of(isa);
  }
  return text;
}

/// "2 in FOLDER"
std::string kept_profiles() {
  namespace fs = std::filesystem;
  const fs::path folder = fs::path(host::cached_profile_path("x")).parent_path();
  if (folder.empty()) return "no cache folder (HOME is not set)";
  std::error_code error;
  std::size_t n = 0;
  for (const fs::directory_entry& file : fs::directory_iterator(folder, error))
    n += file.path().extension() == ".json";
  return fmt::format("{} in {}", n, folder.string());
}

void info() {
  const std::string_view half = isa_name(Compute::kAuto, DType::kF16);  // throws on a bad level
  const std::string_view single = isa_name(Compute::kAuto, DType::kF32);
  show("prescore", std::string(version()));
  show("machine", machine_name());
  show("threads", std::to_string(machine_threads()));
  show("kernels", levels() + " (compiled and supported here)");
  show("chosen", fmt::format("{} for f16 and bf16 keys, {} for f32 keys", half, single));
  const std::vector<Gpu> found = gpus();
  for (const Gpu& gpu : found)
    show("GPU",
         fmt::format("{}, sm_{}{}, {} multiprocessors, {:.0f} GiB", gpu.name, gpu.major, gpu.minor,
                     gpu.multiprocessors, static_cast<double>(gpu.memory) / (1 << 30)));
  if (found.empty()) show("GPU", "none that this build can use");
  show("profiles", fmt::format("{} shipped, {}", host::shipped_profiles().size(), kept_profiles()));
  show("llama.cpp", fmt::format("ggml {} ({})", ggml_version(), ggml_commit()));
  show("", llama_print_system_info());
  show("oneTBB", TBB_runtime_version());
  show("Highway", fmt::format("{}.{}.{}", HWY_MAJOR, HWY_MINOR, HWY_PATCH));
  show("Eigen",
       fmt::format("{}.{}.{}", EIGEN_WORLD_VERSION, EIGEN_MAJOR_VERSION, EIGEN_MINOR_VERSION));
  show("CLI11", CLI11_VERSION);
  show("fmt",
       fmt::format("{}.{}.{}", FMT_VERSION / 10000, FMT_VERSION / 100 % 100, FMT_VERSION % 100));
  show("nlohmann-json", fmt::format("{}.{}.{}", NLOHMANN_JSON_VERSION_MAJOR,
                                    NLOHMANN_JSON_VERSION_MINOR, NLOHMANN_JSON_VERSION_PATCH));
}

}  // namespace

void add_info(CLI::App& app) {
  app.add_subcommand("info", "Version, kernels, threads, dependencies")->callback(info);
}

}  // namespace prescore::cli
