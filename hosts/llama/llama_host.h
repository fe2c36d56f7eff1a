// prescore inside libllama, by public headers only: an evaluation callback that rewrites
// FLASH_ATTN_EXT nodes in place to custom operations. The graph is not split and ggml's own threads
// run the operation.
//
//   LlamaHost host(options);
//   llama_context_params params = llama_context_default_params();
//   host.attach(params);                              // before llama_init_from_model
//   params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
//
// One host serves one context and must outlive it: the context may reuse a graph whose nodes point
// here. Not thread-safe beyond what llama_decode itself needs.
#pragma once

#include <array>
#include <chrono>
#include <memory>
#include <string>
#include <unordered_map>
#include <unordered_set>

#include "common/op_runner.h"
#include "common/profile_files.h"
#include "ggml-backend.h"
#include "llama.h"

namespace prescore::host {

/// Seconds that the host spends in its own attention operations.
struct StockStats {
  std::int64_t operations = 0;
  double seconds = 0;
  /// False where an operation could not be timed alone (the first evaluation of a graph): `seconds`
  /// then includes what ran before it. Evaluate once, reset, evaluate again.
  bool exact = true;
};

class LlamaHost {
 public:
  enum class Mode {
    kPrescore,  ///< take over what can be taken over
    kObserve,   ///< touch nothing, time the host's own attention operations
    kOff,       ///< touch nothing
  };

  explicit LlamaHost(const Options& options = {});
  ~LlamaHost();
  LlamaHost(const LlamaHost&) = delete;
  LlamaHost& operator=(const LlamaHost&) = delete;

  /// Sets cb_eval and cb_eval_user_data.
  void attach(llama_context_params& params);
  /// For a ggml scheduler without libllama.
  void attach(ggml_backend_sched_t sched);

  Mode mode() const { return mode_; }
  void set_mode(Mode mode) { mode_ = mode; }

  /// Nodes with fewer queries are left to llama.cpp; default 1: none.
  void set_min_queries(std::int64_t n) { min_queries_ = n; }

  /// Budgets by head (OpRunner::set_profile).
  void set_profile(std::shared_ptr<const HeadProfile> profile) {
    runner_.set_profile(std::move(profile));
  }
  /// The same with the profile of the model in this file, by find_profile; `setting` as
  /// PRESCORE_PROFILE, which is asked where it is empty. Throws Error for a file that names none of
  /// this model.
  FoundProfile find_profile(const std::string& gguf_path, const std::string& setting = {});

  OpRunner& runner() { return runner_; }
  const Stats& stats() const { return runner_.stats(); }
  const StockStats& stock_stats() const { return stock_; }
  void reset_stats();

  /// Called after each attention operation that is ours or observed (progress).
  void on_operation(std::function<void()> f);

 private:
  struct Record;

  static bool callback(ggml_tensor* node, bool ask, void* self);
  bool ask(ggml_tensor* node);
  bool observe_ask(ggml_tensor* node, bool is_attention);
  void observed(ggml_tensor* node);
  /// Record of a node that was rewritten and still is; null: none.
  Record* rewritten(const ggml_tensor* node);
  void take(ggml_tensor* node);
  static void custom_op(ggml_tensor* dst, int ith, int nth, void* record);

  OpRunner runner_;
  Mode mode_ = Mode::kPrescore;
  std::int64_t min_queries_ = 1;
  bool computed_since_ask_ = true;
  std::unordered_map<const ggml_tensor*, std::unique_ptr<Record>> records_;

  StockStats stock_;
  std::unordered_set<std::string> before_attention_;  // names of nodes that precede attention
  std::string last_asked_;
  std::chrono::steady_clock::time_point asked_at_;
  std::function<void()> on_operation_;
};

}  // namespace prescore::host
