#include "llama/llama_host.h"

#include <cstring>

#include "common/fingerprint.h"

namespace prescore::host {

/// Side record of a rewritten node: what the rewriting overwrote. The custom operation points here.
struct LlamaHost::Record {
  LlamaHost* host = nullptr;
  FlashParams params;
  std::array<char, GGML_MAX_OP_PARAMS> flash_params{};   // of the FLASH_ATTN_EXT node
  std::array<char, GGML_MAX_OP_PARAMS> custom_params{};  // of the GGML_OP_CUSTOM node
};

LlamaHost::LlamaHost(const Options& options) : runner_(options) {}
LlamaHost::~LlamaHost() = default;

void LlamaHost::attach(llama_context_params& params) {
  params.cb_eval = callback;
  params.cb_eval_user_data = this;
}

void LlamaHost::attach(ggml_backend_sched_t sched) {
  ggml_backend_sched_set_eval_callback(sched, callback, this);
}

FoundProfile LlamaHost::find_profile(const std::string& gguf_path, const std::string& setting) {
  const std::string asked = profile_setting(setting);
  FoundProfile found;
  found.off = asked == "none";
  if (!found.off) found = host::find_profile(identify(gguf_path), asked);
  set_profile(found.profile);
  return found;
}

void LlamaHost::reset_stats() {
  runner_.reset_stats();
  stock_ = {};
}

void LlamaHost::on_operation(std::function<void()> f) {
  on_operation_ = f;
  runner_.on_operation(std::move(f));
}

bool LlamaHost::callback(ggml_tensor* node, bool ask, void* self) {
  auto* host = static_cast<LlamaHost*>(self);
  if (ask) return host->ask(node);
  host->observed(node);
  return true;  // go on
}

// The scheduler asks for all nodes of a split before it computes them, so the first question after
// an operation has run opens a new evaluation (or a new split, where rereading masks does no harm).
bool LlamaHost::ask(ggml_tensor* node) {
  if (computed_since_ask_) {
    computed_since_ask_ = false;
    runner_.begin_evaluation();
  }
  Record* record = node->op == GGML_OP_CUSTOM ? rewritten(node) : nullptr;
  const bool is_attention = record != nullptr || node->op == GGML_OP_FLASH_ATTN_EXT;
  if (mode_ == Mode::kPrescore) {
    if (!is_attention || record != nullptr) return false;  // a reused graph keeps what we wrote
    const std::string reason = why_left(node, read_flash_params(node), min_queries_);
    if (reason.empty())
      take(node);
    else
      runner_.count_left(reason);
    return false;
  }
  if (record != nullptr) {  // give a reused graph's node back
    node->op = GGML_OP_FLASH_ATTN_EXT;
    std::memcpy(node->op_params, record->flash_params.data(), record->flash_params.size());
    records_.erase(node);
  }
  return mode_ == Mode::kObserve && observe_ask(node, is_attention);
}

LlamaHost::Record* LlamaHost::rewritten(const ggml_tensor* node) {
  const auto found = records_.find(node);
  if (found == records_.end()) return nullptr;
  const auto& ours = found->second->custom_params;
  return std::memcmp(node->op_params, ours.data(), ours.size()) == 0 ? found->second.get()
                                                                     : nullptr;
}

void LlamaHost::take(ggml_tensor* node) {
  std::unique_ptr<Record>& record = records_[node];
  if (record == nullptr) record = std::make_unique<Record>();
  record->host = this;
  record->params = read_flash_params(node);
  std::memcpy(record->flash_params.data(), node->op_params, record->flash_params.size());

  // How a custom operation keeps its function is private to ggml, so ggml makes one to copy from.
  alignas(GGML_MEM_ALIGN) std::array<char, 4096> arena;
  ggml_context* scratch = ggml_init({arena.size(), arena.data(), /*no_alloc=*/true});
  const ggml_tensor* custom = ggml_custom_4d(scratch, node->type, 1, 1, 1, 1, nullptr, 0, custom_op,
                                             GGML_N_TASKS_MAX, record.get());
  std::memcpy(record->custom_params.data(), custom->op_params, record->custom_params.size());
  node->op = custom->op;
  ggml_free(scratch);
  std::memcpy(node->op_params, record->custom_params.data(), record->custom_params.size());
}

void LlamaHost::custom_op(ggml_tensor* dst, int ith, int nth, void* record) {
  auto* r = static_cast<Record*>(record);
  if (ith == 0) r->host->computed_since_ask_ = true;
  r->host->runner_.run(dst, r->params, ith, nth);
}

// Answering true makes the scheduler compute everything up to and including this node and wait. To
// have an attention operation alone, the node before it is asked for too; its name is known from
// the evaluation before (names carry the layer, so they are the same in every graph of a model).
bool LlamaHost::observe_ask(ggml_tensor* node, bool is_attention) {
  bool wanted = is_attention || before_attention_.contains(node->name);
  if (is_attention) {
    if (before_attention_.insert(last_asked_).second) stock_.exact = false;
    asked_at_ = std::chrono::steady_clock::now();
  }
  last_asked_ = node->name;
  return wanted;
}

void LlamaHost::observed(ggml_tensor* node) {
  computed_since_ask_ = true;
  if (node->op != GGML_OP_FLASH_ATTN_EXT) return;
  stock_.seconds +=
      std::chrono::duration<double>(std::chrono::steady_clock::now() - asked_at_).count();
  ++stock_.operations;
  if (on_operation_) on_operation_();
}

}  // namespace prescore::host
