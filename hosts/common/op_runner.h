// Runs the attention operations of a ggml host with prescore: the code under both hosts.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <tuple>
#include <vector>

#include "common/flash_node.h"
#include "common/layer_set.h"
#include "common/mask_sight.h"
#include "common/profile.h"
#include "prescore/attention.h"
#include "prescore/executor.h"

namespace prescore::host {

/// What happened since the last reset.
struct Stats {
  std::int64_t taken = 0;       ///< operations computed by prescore
  std::int64_t masked = 0;      ///< of them dense because the mask is no plain causal one
  std::int64_t few = 0;         ///< of them dense because they have few queries (decode steps)
  std::int64_t kept = 0;        ///< of them dense because their layer is outside the layer set
  std::int64_t profiled = 0;    ///< of them with budgets by head, from the profile
  std::int64_t unprofiled = 0;  ///< of them without, as the profile does not know the layer
  std::string unprofiled_why;   ///< reason of the first of those
  std::map<std::string, std::int64_t> left;     ///< operations left to the host, by reason
  std::map<std::string, std::int64_t> methods;  ///< operations taken and not kept, by method
  std::string why;     ///< reason of the last choice of `auto`, or with dense_until
  std::string isa;     ///< kernel of the last operation
  std::string error;   ///< first error inside an operation; empty: none
  double seconds = 0;  ///< wall time inside the operations, by the host's thread 0
  double mask_s = 0;   ///< of them reading masks
  Counters counters;   ///< sums over operations
  Counters replaced;   ///< of them in the layers of the layer set

  std::int64_t left_count() const {
    std::int64_t n = 0;
    for (const auto& [reason, count] : left) n += count;
    return n;
  }
};

/// Computes attention operations of one host context. Owns what lives from operation to operation:
/// the clusters of each layer's cache, what the masks of the running evaluation say, and a team for
/// each number of threads that the host brings. One evaluation at a time; the threads of one
/// operation may enter run() together.
class OpRunner {
 public:
  explicit OpRunner(const Options& options = {});
  ~OpRunner();

  const Options& options() const { return options_; }
  /// Not while an evaluation runs. Indexes are kept only where the index options stay the same.
  void set_options(const Options& options);

  /// Layers outside the set are read densely, layers by their cache's name ("cache_k_l7").
  void set_layers(const LayerSet& layers) { layers_read_ = layers; }
  /// Budgets by head for what is not read densely anyway; null: none. Of the layers by their
  /// cache's name, for prompts or, with few queries or strict routing, for decoding. Options that
  /// have budgets by head of their own keep them; hyper has none.
  void set_profile(std::shared_ptr<const HeadProfile> profile) { profile_ = std::move(profile); }
  const std::shared_ptr<const HeadProfile>& profile() const { return profile_; }

  /// Called with the inputs of each operation that is not densely read for its few queries, before
  /// it is computed: name of its cache, batch entry, queries, keys, values, what they see. May be
  /// empty.
  using OnInputs = std::function<void(const std::string& cache, const Tensor& q, const Tensor& k,
                                      const Tensor& v, const Visibility&, float scale)>;
  void on_inputs(OnInputs f) { on_inputs_ = std::move(f); }

  /// Called with the name of its cache and the plan options of each operation before it is
  /// computed. May be empty.
  using OnPlan = std::function<void(const std::string& cache, const PlanOptions&)>;
  void on_plan(OnPlan f) { on_plan_ = std::move(f); }

  /// To be called before the operations of each graph evaluation: masks are read anew.
  void begin_evaluation();

  /// Computes `dst` from its sources; called by each of the host's `nth` threads. Never throws and
  /// never aborts: an error is noted in stats().error and the operation computed densely, or, where
  /// even that fails, filled with NaN.
  void run(ggml_tensor* dst, const FlashParams& params, int ith, int nth) noexcept;
  /// The same by own threads. False where the output is NaN.
  bool run(ggml_tensor* dst, const FlashParams& params, Executor& executor) noexcept;

  void count_left(const std::string& reason) { ++stats_.left[reason]; }

  const Stats& stats() const { return stats_; }
  void reset_stats() { stats_ = {}; }

  /// Drops all indexes; they are rebuilt when needed.
  void forget();
  std::int64_t index_bytes() const;

  /// Called on thread 0 after each operation (progress). May be empty.
  void on_operation(std::function<void()> f) { on_operation_ = std::move(f); }

  /// With Routing::kTile, fewer queries than this are computed densely.
  static constexpr std::int64_t kMinTileQueries = 32;

 private:
  /// Data of K's stream and name of the tensor that owns it ("cache_k_l7").
  using LayerKey = std::pair<const void*, std::string>;
  struct Layer;
  using MaskKey = std::tuple<const void*, std::int64_t, std::int64_t>;  // data, n_q, n_kv

  void compute(ggml_tensor* dst, const FlashParams& params, bool plain_dense, Executor& executor);
  void compute_stream(ggml_tensor* dst, const FlashParams& params, std::int64_t s, bool plain_dense,
                      Executor& executor);
  const MaskSight& sight_of(const ggml_tensor* mask, std::int64_t s, std::int64_t n_q,
                            std::int64_t n_kv, Executor& executor);
  Kept kept_of(const ggml_tensor* k, std::int64_t s, const Tensor& keys, std::int64_t d_v,
               const PlanOptions& plan);
  /// Puts the profile's budgets into the plan; true where it knows this layer.
  bool apply_profile(PlanOptions& plan, std::int64_t layer, const Tensor& q, const Tensor& k);
  TeamExecutor& team(int nth);
  void note_error(const std::string& text);

  Options options_;
  Stats stats_;
  std::map<LayerKey, std::unique_ptr<Layer>> layers_;
  std::map<MaskKey, MaskSight> masks_;
  std::mutex teams_mutex_;
  std::vector<std::unique_ptr<TeamExecutor>> teams_;  // by width
  std::function<void()> on_operation_;
  OnInputs on_inputs_;
  OnPlan on_plan_;
  LayerSet layers_read_;
  std::shared_ptr<const HeadProfile> profile_;
};

}  // namespace prescore::host
