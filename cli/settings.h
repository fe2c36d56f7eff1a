// Flags that several subcommands share.
#pragma once

#include <optional>
#include <string>

#include "llama/llama_host.h"
#include "prescore/attention.h"

namespace CLI {
class App;
}

namespace prescore::cli {

class Model;

/// Flags as given, before checking.
struct MethodFlags {
  std::int64_t budget, window, sinks, tile, open_groups, open_segments, route_stride, cluster,
      dense_until = 0;
  HyperOptions hyper;
  float standin_share = PlanOptions{}.standin_share;
  std::string standins = "auto", key_score = "leverage", selection = "top",
              cluster_score = "distance", leverage = "ridge", kernel = "features", compute = "auto";
  std::optional<float> eps;
  /// What the scored keys are chosen by, and how they are scored (only what the flags change).
  PlanOptions choice;
  ScoreOptions scoring;
  bool packed = false, pre_rope = false;

  MethodFlags();
  void add_to(CLI::App& app);
  /// Options with everything but the method; what --pre-rope undoes is the model's. Throws Error
  /// with one sentence.
  Options options(const Model* model = nullptr) const;

 private:
  void add_scores(CLI::App& app);
};

struct ModelFlags {
  std::string model;
  std::optional<std::int64_t> threads;  ///< as given; none: all
  double yarn = 1;
  bool verbose = false;

  void add_to(CLI::App& app);
  /// Throws BadInput or Error; looks at the file too.
  void check() const;
  int thread_count() const;
};

/// Threads that the machine offers this process.
int machine_threads();

/// "Intel(R) Xeon(R) Processor", or the architecture.
std::string machine_name();

}  // namespace prescore::cli
