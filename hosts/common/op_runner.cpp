#include "common/op_runner.h"

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstring>
#include <limits>

#include "common/keep_tiles.h"
#include "common/names.h"

namespace prescore::host {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point t) {
  return std::chrono::duration<double>(Clock::now() - t).count();
}

void fill_output(ggml_tensor* dst, std::int64_t s, float value) {
  for (std::int64_t i2 = 0; i2 < dst->ne[2]; ++i2)
    for (std::int64_t i1 = 0; i1 < dst->ne[1]; ++i1) {
      char* row = static_cast<char*>(dst->data) + s * static_cast<std::int64_t>(dst->nb[3]) +
                  i2 * static_cast<std::int64_t>(dst->nb[2]) +
                  i1 * static_cast<std::int64_t>(dst->nb[1]);
      std::fill_n(reinterpret_cast<float*>(row), dst->ne[0], value);
    }
}

bool same(const IndexOptions& a, const IndexOptions& b) {
  return a.segment == b.segment && a.cluster == b.cluster && a.group == b.group &&
         a.iterations == b.iterations && a.sinks == b.sinks && a.packed == b.packed;
}

/// The tensor that owns the data.
const ggml_tensor* root_of(const ggml_tensor* t) {
  while (t->view_src != nullptr) t = t->view_src;
  return t;
}

/// The sinks of plan and index must agree: the index leaves them out.
Options with_equal_sinks(Options o) {
  o.index.sinks = o.plan.sinks;
  return o;
}

}  // namespace

struct OpRunner::Layer {
  KeyIndex index;
  KeyScores scores;
  std::int64_t heads = 0, d = 0, d_v = 0;
};

OpRunner::OpRunner(const Options& options) : options_(with_equal_sinks(options)) {}
OpRunner::~OpRunner() = default;

void OpRunner::set_options(const Options& options) {
  const Options next = with_equal_sinks(options);
  if (!same(next.index, options_.index) || !(score_options(next) == score_options(options_)))
    forget();
  options_ = next;
}

void OpRunner::begin_evaluation() { masks_.clear(); }

void OpRunner::forget() {
  layers_.clear();
  masks_.clear();
}

std::int64_t OpRunner::index_bytes() const {
  std::int64_t n = 0;
  for (const auto& [key, layer] : layers_) n += layer->index.bytes() + layer->scores.bytes();
  return n;
}

TeamExecutor& OpRunner::team(int nth) {
  const std::lock_guard lock(teams_mutex_);
  const auto width = static_cast<std::size_t>(nth);
  if (teams_.size() <= width) teams_.resize(width + 1);
  if (teams_[width] == nullptr) teams_[width] = std::make_unique<TeamExecutor>(nth);
  return *teams_[width];
}

void OpRunner::note_error(const std::string& text) {
  if (stats_.error.empty()) stats_.error = text;
}

void OpRunner::run(ggml_tensor* dst, const FlashParams& params, int ith, int nth) noexcept {
  const KeepTiles keep;
  TeamExecutor& executor = team(nth);
  executor.join(ith, [&] { run(dst, params, executor); });
}

bool OpRunner::run(ggml_tensor* dst, const FlashParams& params, Executor& executor) noexcept {
  const KeepTiles keep;
  const auto start = Clock::now();
  bool ok = true;
  try {
    compute(dst, params, false, executor);
  } catch (const std::exception& e) {
    note_error(e.what());
    forget();  // whatever was being built
    try {
      compute(dst, params, true, executor);
    } catch (const std::exception& again) {
      note_error(again.what());
      for (std::int64_t s = 0; s < dst->ne[3]; ++s)
        fill_output(dst, s, std::numeric_limits<float>::quiet_NaN());
      ok = false;
    }
  }
  stats_.seconds += seconds_since(start);
  if (on_operation_) on_operation_();
  return ok;
}

void OpRunner::compute(ggml_tensor* dst, const FlashParams& params, bool plain_dense,
                       Executor& executor) {
  const std::int64_t streams = dst->src[0]->ne[3];
  for (std::int64_t s = 0; s < streams; ++s) compute_stream(dst, params, s, plain_dense, executor);
  ++stats_.taken;
}

void OpRunner::compute_stream(ggml_tensor* dst, const FlashParams& params, std::int64_t s,
                              bool plain_dense, Executor& executor) {
  const ggml_tensor* q = dst->src[0];
  const ggml_tensor* k = dst->src[1];
  const ggml_tensor* v = dst->src[2];
  const ggml_tensor* mask = dst->src[3];
  const std::int64_t n_q = q->ne[1];
  if (n_q == 0) return;

  const MaskSight& sight = sight_of(mask, s, n_q, k->ne[1], executor);
  const std::int64_t n = sight.end;
  if (n == 0) {
    fill_output(dst, s, 0);
    return;
  }

  Visibility visibility;
  visibility.n_q = n_q;
  visibility.n_kv = n;
  visibility.causal = sight.prefix;
  if (sight.prefix) {
    visibility.positions = sight.positions;
  } else if (mask != nullptr) {
    visibility.mask = mask_rows(mask, s);
    visibility.mask_stride = static_cast<std::int64_t>(mask->nb[1] / sizeof(std::uint16_t));
  }

  Options options = plain_dense ? Options{} : options_;
  options.scale = params.scale;
  options.causal = sight.prefix;
  const bool few = n_q < kMinTileQueries && options.plan.routing == Routing::kTile;
  const ggml_tensor* root = root_of(k);
  const std::int64_t layer = layer_of_cache(root->name);
  const bool kept = !layers_read_.contains(layer);
  if (plain_dense || few || kept || !sight.prefix) options.plan.method = Method::kDense;

  const Tensor keys = key_view(k, s, n);
  if (on_inputs_ && !few && sight.prefix)
    on_inputs_(root->name, query_view(q, s), keys, key_view(v, s, n), visibility, params.scale);
  const bool automatic = options.plan.method == Method::kAuto;
  const bool covered = apply_profile(options.plan, layer, query_view(q, s), keys);
  const bool profiled = covered && !options.plan.heads.empty();
  // Nobody has said which heads can do without most keys.
  const bool unknown = automatic && !covered && options.plan.heads.empty();
  if (unknown) options.plan.method = Method::kDense;
  if (on_plan_) on_plan_(root->name, options.plan);
  const Kept built = kept_of(k, s, keys, v->ne[0], options.plan);
  const Report report = attention(query_view(q, s), keys, key_view(v, s, n), visibility, built,
                                  State{output_view(dst, s), nullptr}, options, executor);
  if (s == 0) {
    stats_.masked += !sight.prefix;
    stats_.few += sight.prefix && few;
    stats_.kept += kept;
    stats_.profiled += profiled;
    if (!kept) ++stats_.methods[std::string(name_of(report.choice.method))];
  }
  if (!kept && (automatic || options.plan.dense_until > 0))
    stats_.why = unknown ? "dense: auto has no head profile of this model" : report.choice.reason;
  stats_.isa = report.isa;
  stats_.counters += report.counters;
  if (!kept) stats_.replaced += report.counters;
}

const MaskSight& OpRunner::sight_of(const ggml_tensor* mask, std::int64_t s, std::int64_t n_q,
                                    std::int64_t n_kv, Executor& executor) {
  const MaskKey key{mask == nullptr ? nullptr : mask_rows(mask, s), n_q, n_kv};
  const auto start = Clock::now();
  auto found = masks_.find(key);
  if (found == masks_.end() || !still_holds(found->second, mask, s, n_q, n_kv))
    found = masks_.insert_or_assign(key, read_mask(mask, s, n_q, n_kv, executor)).first;
  stats_.mask_s += seconds_since(start);
  return found->second;
}

bool OpRunner::apply_profile(PlanOptions& plan, std::int64_t layer, const Tensor& q,
                             const Tensor& k) {
  const bool budgets = plan.method != Method::kDense && plan.method != Method::kHyper &&
                       plan.method != Method::kPrescoredHyper;
  if (profile_ == nullptr || !budgets || !plan.heads.empty()) return false;
  const ModelIdentity& of = profile_->model;
  const auto unknown = [&](const std::string& why) {
    if (stats_.unprofiled_why.empty()) stats_.unprofiled_why = why;
    ++stats_.unprofiled;
    return false;
  };
  if (layer < 0) return unknown("a cache whose name has no layer");
  if (layer >= of.layers)
    return unknown("layer " + std::to_string(layer) + " of " + std::to_string(of.layers));
  if (q.shape[1] != of.heads || k.shape[1] != of.kv_heads || q.shape[3] != of.head_dim)
    return unknown(std::to_string(q.shape[1]) + " heads on " + std::to_string(k.shape[1]) + " of " +
                   std::to_string(q.shape[3]));
  const bool decoding = q.shape[2] < kMinTileQueries || plan.routing == Routing::kStrict;
  plan.heads = profile_->budgets(layer, decoding);
  return true;
}

Kept OpRunner::kept_of(const ggml_tensor* k, std::int64_t s, const Tensor& keys, std::int64_t d_v,
                       const PlanOptions& plan) {
  const auto any = [&](Method method) {
    return plan.method == method ||
           std::any_of(plan.heads.begin(), plan.heads.end(),
                       [&](const HeadBudget& b) { return b.method == method; });
  };
  const bool indexed = plan.method == Method::kAuto || any(Method::kRouted);
  const bool scored = plan.method == Method::kPrescoredHyper || any(Method::kTopK);
  const ggml_tensor* root = root_of(k);
  // Only a leaf of the graph (a cache) outlives the evaluation; anything else is scratch memory.
  if (root->op != GGML_OP_NONE || !(indexed || scored)) return {};

  const char* data = static_cast<const char*>(k->data) + s * static_cast<std::int64_t>(k->nb[3]);
  std::unique_ptr<Layer>& layer = layers_[LayerKey{data, root->name}];
  if (layer == nullptr || layer->heads != keys.shape[1] || layer->d != keys.shape[3] ||
      layer->d_v != d_v) {
    layer =
        std::make_unique<Layer>(Layer{KeyIndex(options_.index), KeyScores(score_options(options_)),
                                      keys.shape[1], keys.shape[3], d_v});
  }
  // A cache that has shrunk or was rewritten: what is kept of it must not go further.
  const auto catch_up = [&](auto& what) {
    what.truncate(keys.shape[2]);
    if (what.size() > 0) what.validate(keys);
    return &what;
  };
  return {indexed ? catch_up(layer->index) : nullptr, scored ? catch_up(layer->scores) : nullptr};
}

}  // namespace prescore::host
