// Any arguments to the C ABI: a status and a sentence, never a crash, and outputs only where asked.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <vector>

#include "input.h"
#include "prescore/c_api.h"

namespace {

using prescore::fuzz::Input;

constexpr std::size_t kElements = 1 << 14;  // f32 in each buffer

// Whether a tensor that the library may accept stays inside its buffer: the library cannot know the
// buffer's size, so the fuzzer must not lie about it.
bool fits(const std::int64_t (&shape)[4], const std::int64_t (&stride)[4]) {
  std::int64_t last = 0;
  for (int i = 0; i < 4; ++i) {
    std::int64_t step = 0;
    if (shape[i] < 1 || stride[i] < 0) return true;  // must be refused
    if (__builtin_mul_overflow(shape[i] - 1, stride[i], &step) ||
        __builtin_add_overflow(last, step, &last))
      return true;  // must be refused
  }
  return last < static_cast<std::int64_t>(kElements);
}

prescore_tensor tensor(Input& in, const void* data, std::int64_t b, std::int64_t h, std::int64_t n,
                       std::int64_t d, std::int32_t dtype) {
  prescore_tensor t = prescore_contiguous(in.chance(64) ? nullptr : data, dtype, b, h, n, d);
  if (in.chance(4)) {  // [b][n][h][d]
    t.stride[1] = d, t.stride[2] = h * d;
  }
  if (in.chance(16)) t.shape[in.between(0, 3)] = in.number(0, 40);
  if (in.chance(16)) t.stride[in.between(0, 3)] = in.number(0, 200);
  if (in.chance(32)) t.dtype = in.take<std::int32_t>();
  return t;
}

std::vector<float> numbers(std::uint32_t seed) {
  std::vector<float> x(kElements);
  for (std::size_t i = 0; i < x.size(); ++i) {
    const auto bits = static_cast<std::uint32_t>(i + seed * kElements) * 2654435761u;
    x[i] = static_cast<float>(static_cast<std::int32_t>(bits)) * 0x1p-31f;
  }
  return x;
}

// Puts any bits into one element, sometimes, for one run.
class Spoiled {
 public:
  Spoiled(Input& in, std::vector<float>& x) : x_(x) {
    at_ = static_cast<std::size_t>(in.between(0, 2000));
    was_ = x_[at_];
    if (in.chance(4)) x_[at_] = in.take<float>();
  }
  ~Spoiled() { x_[at_] = was_; }
  Spoiled(const Spoiled&) = delete;
  Spoiled& operator=(const Spoiled&) = delete;

 private:
  std::vector<float>& x_;
  std::size_t at_;
  float was_;
};

void check(prescore_status status) {
  if (status == PRESCORE_OK) return;
  const char* text = prescore_last_error();
  // An internal error is a mistake of the library's; memory may run out for absurd but legal sizes.
  if (status == PRESCORE_INTERNAL_ERROR || std::strlen(text) == 0 || text[0] != '[') {
    std::fprintf(stderr, "status %d: %s\n", static_cast<int>(status), text);
    std::abort();
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  Input in(data, size);
  static std::vector<float> q = numbers(1), k = numbers(2), v = numbers(3);
  static std::vector<float> o(kElements), lse(kElements);
  const Spoiled bad_q(in, q), bad_k(in, k), bad_v(in, v);

  const std::int64_t b = in.between(1, 2), h_kv = in.between(1, 2), h_q = h_kv * in.between(1, 3);
  const std::int64_t n_q = in.between(1, 40), n_kv = in.between(1, 120), d = in.between(1, 20);
  const std::int64_t d_v = in.between(1, 20);
  const auto type = [&] { return static_cast<std::int32_t>(in.between(0, 2)); };
  const std::int32_t kv_type = type();
  const prescore_tensor tq = tensor(in, q.data(), b, h_q, n_q, d, type());
  const prescore_tensor tk = tensor(in, k.data(), b, h_kv, n_kv, d, kv_type);
  const prescore_tensor tv = tensor(in, v.data(), b, h_kv, n_kv, d_v, kv_type);
  const prescore_tensor to = tensor(in, o.data(), b, h_q, n_q, d_v, type());
  prescore_output out = prescore_contiguous_output(o.data(), to.dtype, b, h_q, n_q, d_v,
                                                   in.chance(3) ? nullptr : lse.data());
  out.data = const_cast<void*>(to.data);
  std::memcpy(out.shape, to.shape, sizeof out.shape);
  std::memcpy(out.stride, to.stride, sizeof out.stride);
  for (const prescore_tensor* t : {&tq, &tk, &tv, &to}) {
    if (!fits(t->shape, t->stride)) return 0;
  }

  prescore_index_options shape = prescore_index_options_default();
  shape.segment = in.number(16, 64), shape.cluster = in.number(1, 8),
  shape.group = in.number(4, 32);
  shape.iterations = in.between(1, 3), shape.sinks = in.number(0, 8);
  shape.packed = static_cast<std::int32_t>(in.number(0, 1));
  prescore_options options = prescore_options_default();
  options.method = static_cast<std::int32_t>(in.number(0, 6));
  options.routing = static_cast<std::int32_t>(in.number(0, 1));
  options.standins = static_cast<std::int32_t>(in.number(0, 2));
  options.score = static_cast<std::int32_t>(in.number(0, 12));
  options.compute = static_cast<std::int32_t>(in.number(0, 2));
  options.causal = static_cast<std::int32_t>(in.number(0, 1));
  options.threads = 1;
  options.scale = in.chance(8) ? in.take<float>() : 0;
  options.standin_share = in.chance(4) ? in.take<float>() : 1e-3f;
  options.budget = in.number(1, 100), options.sinks = in.number(0, 8);
  options.window = in.number(1, 40),
  options.tile = in.chance(32) ? in.number(0, 300) : 16 * in.between(1, 3);
  options.open_groups = in.number(0, 100), options.open_segments = in.number(0, 100);
  options.route_stride = in.number(1, 8), options.seed = in.take<std::uint64_t>();
  options.index = in.chance(8) ? nullptr : &shape;
  prescore_score_options scoring = prescore_score_options_default();
  scoring.centred = static_cast<std::int32_t>(in.number(0, 1));
  scoring.cluster_score = static_cast<std::int32_t>(in.number(0, 2));
  scoring.leverage = static_cast<std::int32_t>(in.number(0, 2));
  scoring.kernel = static_cast<std::int32_t>(in.number(0, 1));
  scoring.value_weighted = static_cast<std::int32_t>(in.number(0, 1));
  scoring.clusters = in.number(0, 20), scoring.features = in.number(0, 40);
  scoring.iterations = in.number(0, 4), scoring.sketch_rows = in.number(0, 64);
  scoring.degree = in.number(0, 8), scoring.fit = in.number(0, 130);
  scoring.segment = in.number(1, 64), scoring.query_stride = in.number(1, 8);
  scoring.distance = in.number(0, 130), scoring.rotation_dims = in.number(0, 16);
  if (in.chance(8)) scoring.sigma = in.take<double>(), scoring.ridge = in.take<double>();
  if (in.chance(8)) scoring.rotation_base = in.take<double>();
  options.scoring = in.chance(4) ? nullptr : &scoring;
  prescore_hyper_options hyper = prescore_hyper_options_default();
  hyper.projections = in.number(0, 10), hyper.block = in.number(0, 40);
  hyper.samples = in.number(0, 40), hyper.leaf = 16 * in.between(0, 8);
  hyper.selected = in.number(0, 130), hyper.centred = static_cast<std::int32_t>(in.number(0, 1));
  options.hyper = in.chance(8) ? nullptr : &hyper;
  options.selection = static_cast<std::int32_t>(in.number(0, 3));
  options.sample_weights = static_cast<std::int32_t>(in.number(0, 1));
  if (in.chance(8)) options.least_score = in.take<float>(), options.share = in.take<float>();
  options.adaptive = in.chance(4) ? .5f : 0;
  std::vector<prescore_head_budget> heads;
  if (in.chance(2)) {
    const std::int64_t count = in.chance(16) ? in.number(0, 9) : std::max<std::int64_t>(0, h_q);
    for (std::int64_t i = 0; i < std::min<std::int64_t>(count, 64); ++i)
      heads.push_back({static_cast<std::int32_t>(in.number(0, 4)), in.number(0, 120)});
    options.heads = heads.data(), options.head_count = static_cast<std::int64_t>(heads.size());
  }
  if (in.chance(2)) options.certify_samples = in.number(0, 6), options.certify_seed = options.seed;
  if (in.chance(8)) options.min_recall = in.take<float>();
  if (in.chance(32)) options.struct_size = static_cast<std::size_t>(in.between(0, 300));

  std::vector<std::int32_t> positions;
  if (in.chance(3)) {
    std::int64_t at = in.between(0, 40);
    for (std::int64_t i = 0; i < 64; ++i) {
      at = static_cast<std::int32_t>(at);
      positions.push_back(static_cast<std::int32_t>(at));
      at = in.chance(32) ? in.number(-3, 90) : at + in.between(0, 2);
    }
    if (tq.shape[2] > 64) positions.clear();
  }
  prescore_report report;
  prescore_report_init(&report, sizeof report);
  prescore_head_certificate certificates[8];
  if (in.chance(2)) report.heads = certificates, report.head_count = in.between(0, 8);
  prescore_index* index = nullptr;
  if (in.chance(2)) check(prescore_index_create(&shape, &index));
  for (int round = 0; round < 2; ++round) {
    check(prescore_attention_indexed(&tq, &tk, &tv, positions.empty() ? nullptr : positions.data(),
                                     index, &out, &options, &report));
    if (index == nullptr) break;
    if (in.chance(2)) check(prescore_index_truncate(index, in.number(0, 120)));
    if (in.chance(2)) check(prescore_index_extend(index, &tk, &tv, 1));
    std::int64_t kept = 0;
    if (in.chance(2)) check(prescore_index_validate(index, &tk, &kept));
  }
  prescore_index_free(index);
  std::int64_t bytes = 0;
  check(prescore_workspace_bytes(&tq, &tk, &tv, &options, &bytes));
  if (tk.shape[0] >= 1 && tk.shape[0] <= 2 && tk.shape[1] >= 1 && tk.shape[1] <= 8 &&
      tk.shape[2] <= 1024) {  // the output must hold every score
    check(prescore_score_keys(&tk, in.number(1, 120), &options, lse.data()));
  }
  return 0;
}
