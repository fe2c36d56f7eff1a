// The C ABI: translates structs, catches everything.
#include "prescore/c_api.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <new>
#include <stdexcept>
#include <string>
#include <string_view>

#include "common/check.h"
#include "prescore/attention.h"

struct prescore_index {
  prescore::KeyIndex index;
};

namespace prescore {
namespace {

thread_local char last_error[512] = "";

// Never allocates: it also runs when memory has run out.
void copy_text(std::string_view text, char* out, std::size_t size) noexcept {
  const std::size_t n = std::min(text.size(), size - 1);
  std::memcpy(out, text.data(), n);
  out[n] = 0;
}
void remember(std::string_view text) noexcept { copy_text(text, last_error, sizeof last_error); }

template <typename F>
prescore_status guarded(F&& body) noexcept {
  try {
    body();
    return PRESCORE_OK;
  } catch (const Error& e) {
    remember(e.what());
    return PRESCORE_INVALID_ARGUMENT;
  } catch (const std::bad_alloc&) {
    remember("[c_api] memory, got none, want more");
    return PRESCORE_OUT_OF_MEMORY;
  } catch (const std::length_error&) {
    remember("[c_api] memory, got none, want more");
    return PRESCORE_OUT_OF_MEMORY;
  } catch (const std::exception& e) {
    remember(e.what());
    return PRESCORE_INTERNAL_ERROR;
  } catch (...) {
    remember("[c_api] an exception of unknown type");
    return PRESCORE_INTERNAL_ERROR;
  }
}

template <typename T>
const T& given(const T* p, std::string_view what) {
  if (p == nullptr) fail("c_api", what, "null", "a pointer");
  return *p;
}

template <typename E>
E to_enum(std::int32_t value, E last, std::string_view what) {
  check(value >= 0 && value <= static_cast<std::int32_t>(last), "c_api", what, value,
        "0 to " + std::to_string(static_cast<int>(last)));
  return static_cast<E>(value);
}
bool to_bool(std::int32_t value, std::string_view what) {
  check(value == 0 || value == 1, "c_api", what, value, "0 or 1");
  return value == 1;
}
DType to_dtype(std::int32_t value) { return to_enum(value, DType::kBF16, "dtype"); }

Tensor to_tensor(const prescore_tensor* t, std::string_view what) {
  const prescore_tensor& x = given(t, what);
  Tensor out{x.data, to_dtype(x.dtype), {}, {}};
  std::copy_n(x.shape, 4, out.shape.begin());
  std::copy_n(x.stride, 4, out.stride.begin());
  return out;
}
State to_state(const prescore_output* t, std::string_view what) {
  const prescore_output& x = given(t, what);
  State out{{x.data, to_dtype(x.dtype), {}, {}}, x.lse};
  std::copy_n(x.shape, 4, out.o.shape.begin());
  std::copy_n(x.stride, 4, out.o.stride.begin());
  return out;
}

// A size that no header ever gave could end within a pointer.
template <typename T>
void check_size(std::size_t size, const std::string& what, const char* how) {
  if (size >= sizeof(std::size_t) && size <= sizeof(T) && size % alignof(T) == 0) return;
  fail("c_api", what + ".struct_size", std::to_string(size),
       "a multiple of " + std::to_string(alignof(T)) + " up to " + std::to_string(sizeof(T)) +
           " (use " + how + ")");
}

// The caller's struct over the defaults, as far as the caller's header knew it.
template <typename T>
T versioned(const T* from, T defaults, std::string_view what) {
  if (from == nullptr) return defaults;
  check_size<T>(from->struct_size, std::string(what), "the _init function");
  std::memcpy(static_cast<void*>(&defaults), from, from->struct_size);
  return defaults;
}

prescore_index_options c_defaults(const IndexOptions& o) {
  prescore_index_options c{};  // zeroes the padding too
  c.struct_size = sizeof c;
  c.segment = o.segment, c.cluster = o.cluster, c.group = o.group;
  c.iterations = o.iterations, c.sinks = o.sinks, c.packed = o.packed ? 1 : 0;
  return c;
}

prescore_score_options c_defaults(const ScoreOptions& o) {
  prescore_score_options c{};
  c.struct_size = sizeof c;
  c.centred = o.centred ? 1 : 0, c.value_weighted = o.value_weighted ? 1 : 0;
  c.cluster_score = static_cast<std::int32_t>(o.cluster_score);
  c.leverage = static_cast<std::int32_t>(o.leverage);
  c.kernel = static_cast<std::int32_t>(o.kernel);
  c.clusters = o.clusters, c.iterations = o.iterations, c.features = o.features;
  c.sketch_rows = o.sketch_rows, c.degree = o.degree, c.fit = o.fit;
  c.segment = o.segment, c.query_stride = o.query_stride, c.distance = o.distance;
  c.sigma = o.sigma, c.ridge = o.ridge, c.growth = o.growth;
  c.rotation_dims = o.rotation.dims, c.rotation_base = o.rotation.base;
  c.rotation_interleaved = o.rotation.interleaved ? 1 : 0;
  c.rotation_position_scale = o.rotation.position_scale;
  return c;
}

prescore_hyper_options c_defaults(const HyperOptions& o) {
  prescore_hyper_options c{};
  c.struct_size = sizeof c;
  c.centred = o.centred ? 1 : 0;
  c.projections = o.projections, c.block = o.block, c.samples = o.samples;
  c.leaf = o.leaf, c.selected = o.selected;
  return c;
}

prescore_cuda_options c_defaults(const CudaOptions& o) {
  prescore_cuda_options c{};
  c.struct_size = sizeof c;
  c.stream = o.stream, c.workspace = o.workspace, c.workspace_bytes = o.workspace_bytes;
  c.cu_seqlens_q = o.cu_seqlens_q, c.cu_seqlens_k = o.cu_seqlens_k;
  c.sequences = o.sequences, c.count = o.count ? 1 : 0, c.scores = o.scores;
  return c;
}

prescore_options c_defaults(const Options& o) {
  prescore_options c{};
  c.struct_size = sizeof c;
  c.method = static_cast<std::int32_t>(o.plan.method);
  c.routing = static_cast<std::int32_t>(o.plan.routing);
  c.standins = static_cast<std::int32_t>(o.plan.standins);
  c.score = static_cast<std::int32_t>(o.plan.score);
  c.compute = static_cast<std::int32_t>(o.compute);
  c.causal = o.causal ? 1 : 0;
  c.threads = o.threads, c.scale = o.scale, c.standin_share = o.plan.standin_share;
  c.budget = o.plan.budget, c.sinks = o.plan.sinks;
  c.window = o.plan.window, c.tile = o.plan.tile, c.open_groups = o.plan.open_groups;
  c.open_segments = o.plan.open_segments, c.route_stride = o.plan.route_stride;
  c.seed = o.plan.seed, c.dense_until = o.plan.dense_until;
  c.selection = static_cast<std::int32_t>(o.plan.selection);
  c.sample_weights = o.plan.sample_weights ? 1 : 0;
  c.least_score = o.plan.least_score, c.share = o.plan.share, c.adaptive = o.plan.adaptive;
  c.heads_together = o.plan.heads_together ? 1 : 0;
  return c;
}

IndexOptions to_options(const prescore_index_options* from) {
  const auto c = versioned(from, c_defaults(IndexOptions{}), "index options");
  return {c.segment, c.cluster, c.group, c.iterations, c.sinks, to_bool(c.packed, "packed")};
}

ScoreOptions to_options(const prescore_score_options* from) {
  const auto c = versioned(from, c_defaults(ScoreOptions{}), "score options");
  ScoreOptions o;
  o.centred = to_bool(c.centred, "centred"), o.value_weighted = to_bool(c.value_weighted, "values");
  o.cluster_score = to_enum(c.cluster_score, ClusterScore::kNearness, "cluster score");
  o.leverage = to_enum(c.leverage, Leverage::kSketched, "leverage");
  o.kernel = to_enum(c.kernel, KernelKMeans::kDistance, "kernel");
  o.clusters = c.clusters, o.iterations = c.iterations, o.features = c.features;
  o.sketch_rows = c.sketch_rows, o.degree = c.degree, o.fit = c.fit;
  o.segment = c.segment, o.query_stride = c.query_stride, o.distance = c.distance;
  o.sigma = c.sigma, o.ridge = c.ridge, o.growth = c.growth;
  o.rotation.dims = c.rotation_dims, o.rotation.base = c.rotation_base;
  o.rotation.interleaved = to_bool(c.rotation_interleaved, "interleaved");
  o.rotation.position_scale = c.rotation_position_scale;
  return o;
}

HyperOptions to_options(const prescore_hyper_options* from) {
  const auto c = versioned(from, c_defaults(HyperOptions{}), "hyper options");
  return {c.projections, c.block, c.samples, c.leaf, to_bool(c.centred, "centred"), c.selected};
}

CudaOptions to_options(const prescore_cuda_options* from) {
  const auto c = versioned(from, c_defaults(CudaOptions{}), "cuda options");
  return {c.stream,       c.workspace, c.workspace_bytes, c.cu_seqlens_q,
          c.cu_seqlens_k, c.sequences, c.scores,          to_bool(c.count, "count")};
}

std::vector<HeadBudget> to_heads(const prescore_head_budget* from, std::int64_t count) {
  check(count >= 0 && count <= (1 << 20), "c_api", "head count", count, "0 to 2^20");
  if (from == nullptr && count > 0) fail("c_api", "heads", "null", "head_count entries");
  std::vector<HeadBudget> heads;
  for (std::int64_t i = 0; i < count; ++i)
    heads.push_back(
        {to_enum(from[i].method, Method::kPrescoredHyper, "method of a head"), from[i].keys});
  return heads;
}

Options to_options(const prescore_options* from) {
  const auto c = versioned(from, c_defaults(Options{}), "options");
  Options o;
  o.plan.method = to_enum(c.method, Method::kPrescoredHyper, "method");
  o.plan.routing = to_enum(c.routing, Routing::kStrict, "routing");
  o.plan.standins = to_enum(c.standins, StandIns::kNodes, "standins");
  o.plan.score = to_enum(c.score, Score::kOracle, "score");
  o.plan.budget = c.budget, o.plan.sinks = c.sinks, o.plan.window = c.window;
  o.plan.tile = c.tile, o.plan.standin_share = c.standin_share;
  o.plan.open_groups = c.open_groups;
  o.plan.open_segments = c.open_segments, o.plan.route_stride = c.route_stride;
  o.plan.seed = c.seed, o.plan.dense_until = c.dense_until;
  o.plan.selection = to_enum(c.selection, Selection::kSample, "selection");
  o.plan.sample_weights = to_bool(c.sample_weights, "sample weights");
  o.plan.least_score = c.least_score, o.plan.share = c.share, o.plan.adaptive = c.adaptive;
  o.plan.heads_together = to_bool(c.heads_together, "heads together");
  o.plan.heads = to_heads(c.heads, c.head_count);
  o.certify = {c.certify_samples, c.min_recall, c.certify_seed};
  o.plan.hyper = to_options(c.hyper);
  o.score = to_options(c.scoring);
  o.score.score = o.plan.score, o.score.seed = c.seed;
  o.index = to_options(c.index);
  o.compute = to_enum(c.compute, Compute::kBF16, "compute");
  o.causal = to_bool(c.causal, "causal");
  o.scale = c.scale;
  check(c.threads >= 0 && c.threads <= 4096, "c_api", "threads", c.threads, "0 to 4096");
  o.threads = c.threads;
  o.device = c.cuda == nullptr ? Device::kCpu : Device::kCuda;
  o.cuda = to_options(c.cuda);
  return o;
}

void check_report(const prescore_report* report) {
  if (report == nullptr) return;
  check_size<prescore_report>(report->struct_size, "report", "prescore_report_init");
}

void fill(const Report& from, prescore_report* report) {
  if (report == nullptr) return;
  prescore_report c{};
  prescore_report given{};
  std::memcpy(static_cast<void*>(&given), report, report->struct_size);
  c.struct_size = report->struct_size;
  c.heads = given.heads, c.head_count = given.head_count;  // the caller's array, where it has one
  for (std::int64_t i = 0; c.heads != nullptr && i < c.head_count; ++i) {
    if (i >= static_cast<std::int64_t>(from.heads.size())) break;
    const HeadCertificate& h = from.heads[static_cast<std::size_t>(i)];
    c.heads[i] = {h.queries, h.mass, h.mass_error, h.output_error, h.redone ? 1 : 0};
  }
  c.method = static_cast<std::int32_t>(from.choice.method);
  c.queries = from.counters.queries, c.visible = from.counters.visible;
  c.keys = from.counters.keys, c.standins = from.counters.standins;
  c.products = from.counters.products, c.index_s = from.counters.index_s;
  c.plan_s = from.counters.plan_s, c.attend_s = from.counters.attend_s;
  c.total_s = from.counters.total_s, c.certify_s = from.counters.certify_s;
  copy_text(from.isa, c.isa, sizeof c.isa);
  copy_text(from.choice.reason, c.reason, sizeof c.reason);
  std::memcpy(report, &c, c.struct_size);
}

template <typename T>
void init(T* out, std::size_t size, const T& defaults) noexcept {
  if (out == nullptr || size < sizeof(std::size_t)) return;
  const std::size_t n = std::min(size, sizeof(T));
  std::memset(static_cast<void*>(out), 0, size);
  std::memcpy(static_cast<void*>(out), &defaults, n);
  std::memcpy(static_cast<void*>(out), &n, sizeof n);  // struct_size is the first member
}

}  // namespace
}  // namespace prescore

using namespace prescore;

const char* prescore_version(void) {
  static char text[32] = "";
  static const bool once = (copy_text(version(), text, sizeof text), true);
  return once ? text : "";
}

const char* prescore_last_error(void) { return last_error; }

const char* prescore_status_name(prescore_status status) {
  switch (status) {
    case PRESCORE_OK: return "ok";
    case PRESCORE_INVALID_ARGUMENT: return "invalid argument";
    case PRESCORE_OUT_OF_MEMORY: return "out of memory";
    case PRESCORE_INTERNAL_ERROR: return "internal error";
  }
  return "unknown status";
}

const char* prescore_isa_name(int32_t compute, int32_t dtype) {
  thread_local char text[32] = "";
  const prescore_status status = guarded([&] {
    copy_text(isa_name(to_enum(compute, Compute::kBF16, "compute"), to_dtype(dtype)), text,
              sizeof text);
  });
  return status == PRESCORE_OK ? text : nullptr;
}

prescore_tensor prescore_contiguous(const void* data, int32_t dtype, int64_t b, int64_t h,
                                    int64_t n, int64_t d) {
  return {data, dtype, {b, h, n, d}, {h * n * d, n * d, d, 1}};
}
prescore_output prescore_contiguous_output(void* data, int32_t dtype, int64_t b, int64_t h,
                                           int64_t n, int64_t d, float* lse) {
  return {data, dtype, {b, h, n, d}, {h * n * d, n * d, d, 1}, lse};
}

void prescore_options_init(prescore_options* options, size_t struct_size) {
  init(options, struct_size, c_defaults(Options{}));
}
void prescore_index_options_init(prescore_index_options* options, size_t struct_size) {
  init(options, struct_size, c_defaults(IndexOptions{}));
}
void prescore_score_options_init(prescore_score_options* options, size_t struct_size) {
  init(options, struct_size, c_defaults(ScoreOptions{}));
}
void prescore_hyper_options_init(prescore_hyper_options* options, size_t struct_size) {
  init(options, struct_size, c_defaults(HyperOptions{}));
}
void prescore_cuda_options_init(prescore_cuda_options* options, size_t struct_size) {
  init(options, struct_size, c_defaults(CudaOptions{}));
}
void prescore_report_init(prescore_report* report, size_t struct_size) {
  init(report, struct_size, prescore_report{});
}

prescore_status prescore_attention(const prescore_tensor* q, const prescore_tensor* k,
                                   const prescore_tensor* v, const prescore_output* out,
                                   const prescore_options* options, prescore_report* report) {
  return prescore_attention_indexed(q, k, v, nullptr, nullptr, out, options, report);
}

prescore_status prescore_attention_indexed(const prescore_tensor* q, const prescore_tensor* k,
                                           const prescore_tensor* v, const int32_t* positions,
                                           prescore_index* index, const prescore_output* out,
                                           const prescore_options* options,
                                           prescore_report* report) {
  return guarded([&] {
    const Tensor tq = to_tensor(q, "q"), tk = to_tensor(k, "k"), tv = to_tensor(v, "v");
    const State state = to_state(out, "out");
    const Options o = to_options(options);
    check_report(report);
    if (o.device == Device::kCuda && positions == nullptr && index == nullptr) {
      fill(attention(tq, tk, tv, state, o), report);
      return;
    }
    check_tensor(tq, "attention", "q");
    check_tensor(tk, "attention", "k");
    Visibility visibility;
    visibility.n_q = tq.shape[2];
    visibility.n_kv = tk.shape[2];
    visibility.causal = o.causal;
    if (positions != nullptr) {
      visibility.positions = {positions, static_cast<std::size_t>(tq.shape[2])};
    }
    const auto executor = make_executor(o.threads);
    fill(attention(tq, tk, tv, visibility, index == nullptr ? nullptr : &index->index, state, o,
                   *executor),
         report);
  });
}

prescore_status prescore_merge(const prescore_output* into, const prescore_output* other) {
  return guarded([&] { merge(to_state(into, "into"), to_state(other, "other")); });
}

prescore_status prescore_merge_cuda(const prescore_output* into, const prescore_output* other,
                                    void* stream) {
  return guarded([&] { merge_cuda(to_state(into, "into"), to_state(other, "other"), stream); });
}

prescore_status prescore_score_keys(const prescore_tensor* k, int64_t n,
                                    const prescore_options* options, float* out) {
  return guarded([&] {
    const Options o = to_options(options);
    const auto executor = make_executor(o.threads);
    score_keys(to_tensor(k, "k"), n, o.score, out, *executor);
  });
}

prescore_status prescore_score_keys_cuda(const prescore_tensor* k, int64_t n,
                                         const prescore_options* options, float* out,
                                         void* stream) {
  return guarded(
      [&] { score_keys_cuda(to_tensor(k, "k"), n, to_options(options).score, out, stream); });
}

prescore_status prescore_workspace_bytes(const prescore_tensor* q, const prescore_tensor* k,
                                         const prescore_tensor* v, const prescore_options* options,
                                         int64_t* bytes) {
  return guarded([&] {
    given(bytes, "bytes");
    const Options o = to_options(options);
    *bytes = workspace_bytes(to_tensor(q, "q"), to_tensor(k, "k"), to_tensor(v, "v"), o, o.threads);
  });
}

prescore_status prescore_index_create(const prescore_index_options* options,
                                      prescore_index** index) {
  return guarded([&] {
    given(index, "index");
    *index = nullptr;
    *index = new prescore_index{KeyIndex(to_options(options))};
  });
}

prescore_status prescore_index_extend(prescore_index* index, const prescore_tensor* k,
                                      const prescore_tensor* v, int32_t threads) {
  return guarded([&] {
    given(index, "index");
    check(threads >= 0 && threads <= 4096, "c_api", "threads", threads, "0 to 4096");
    const auto executor = make_executor(threads);
    index->index.extend(to_tensor(k, "k"), to_tensor(v, "v"), *executor);
  });
}

prescore_status prescore_index_truncate(prescore_index* index, int64_t n) {
  return guarded([&] {
    given(index, "index");
    index->index.truncate(n);
  });
}

prescore_status prescore_index_validate(prescore_index* index, const prescore_tensor* k,
                                        int64_t* kept) {
  return guarded([&] {
    given(index, "index");
    const std::int64_t n = index->index.validate(to_tensor(k, "k"));
    if (kept != nullptr) *kept = n;
  });
}

int64_t prescore_index_size(const prescore_index* index) {
  return index == nullptr ? 0 : index->index.size();
}
int64_t prescore_index_bytes(const prescore_index* index) {
  return index == nullptr ? 0 : index->index.bytes();
}
void prescore_index_free(prescore_index* index) { delete index; }
