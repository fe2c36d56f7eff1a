// The calls: attention, plan, score, merge.
#include "prescore/attention.h"

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/shared_ptr.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/string_view.h>
#include <nanobind/stl/unique_ptr.h>
#include <nanobind/stl/vector.h>

#include <memory>
#include <optional>

#include "arrays.h"
#include "call.h"
#include "common/check.h"
#include "common/names.h"
#include "index.h"
#include "options.h"
#include "plan.h"

namespace prescore::python {
namespace {

using Positions = std::optional<std::vector<std::int32_t>>;

nb::dict to_dict(const Report& report) {
  const Counters& c = report.counters;
  nb::dict d;
  d["method"] = host::name_of(report.choice.method);
  d["reason"] = report.choice.reason;
  d["isa"] = report.isa;
  d["queries"] = c.queries, d["visible"] = c.visible, d["keys"] = c.keys;
  d["standins"] = c.standins, d["products"] = c.products;
  d["index_s"] = c.index_s, d["plan_s"] = c.plan_s;
  d["attend_s"] = c.attend_s, d["certify_s"] = c.certify_s, d["total_s"] = c.total_s;
  if (report.heads.empty()) return d;
  nb::list heads;
  for (const HeadCertificate& h : report.heads) {
    nb::dict head;
    head["queries"] = h.queries, head["mass"] = h.mass, head["mass_error"] = h.mass_error;
    head["output_error"] = h.output_error, head["redone"] = h.redone;
    heads.append(head);
  }
  d["heads"] = heads;
  return d;
}

// Views and options of one call, read with the GIL.
struct Call {
  Call(const View& vq, const View& vk, const View& vv, const nb::dict& arguments,
       SharedIndexPtr shared, const Positions& positions)
      : q(vq.tensor()), k(vk.tensor()), v(vv.tensor()), options(to_options(arguments)),
        index(std::move(shared)) {
    if (all_on_cuda({&vq, &vk, &vv})) options.device = Device::kCuda;
    check(!positions || options.causal, "python", "positions with is_causal", 0, "True");
    visibility.n_q = q.shape[2], visibility.n_kv = k.shape[2];
    visibility.causal = options.causal;
    if (positions) visibility.positions = *positions;
  }

  bool on_gpu() const { return options.device == Device::kCuda; }

  // body(executor, kept) without the GIL, alone with the index.
  template <typename Body>
  auto run(Body&& body) {
    return run_without_gil(options.threads, [&](Executor& executor) {
      std::unique_lock<std::mutex> lock;
      if (index) lock = std::unique_lock(index->mutex);
      return body(executor, Kept(index ? &index->index : nullptr));
    });
  }

  Tensor q, k, v;
  Options options;
  Visibility visibility;
  SharedIndexPtr index;
};

nb::dict attend(const View& q, const View& k, const View& v, const View& out, const View* lse,
                const nb::dict& arguments, SharedIndexPtr index, const Positions& positions,
                bool count) {
  Call call(q, k, v, arguments, std::move(index), positions);
  all_on_cuda({&q, &out, lse});
  State state{out.mut_tensor(), nullptr};
  const auto& o = state.o.shape;
  if (lse != nullptr) state.lse = lse->dense_f32(3, o[0] * o[1] * o[2]);
  if (call.on_gpu()) {
    if (call.index || positions)
      fail("python", "an index or positions with CUDA tensors", "one", "the call without them");
    call.options.cuda.count = count;
    const nb::gil_scoped_release released;
    const Report report = attention(call.q, call.k, call.v, state, call.options);
    const nb::gil_scoped_acquire gil;
    return to_dict(report);
  }
  return to_dict(call.run([&](Executor& executor, Kept kept) {
    return attention(call.q, call.k, call.v, call.visibility, kept, state, call.options, executor);
  }));
}

std::unique_ptr<OwnedPlan> plan(const View& q, const View& k, const View& v,
                                const nb::dict& arguments, SharedIndexPtr index,
                                const Positions& positions) {
  Call call(q, k, v, arguments, index, positions);
  if (call.on_gpu()) fail("python", "device of a plan", "cuda", "the CPU");
  return call.run([&](Executor& executor, Kept kept) {
    Prepared prepared =
        prepare(call.q, call.k, call.v, call.visibility, kept, call.options, executor);
    Plan plan = make_plan(prepared.in, *prepared.planner, executor);
    return std::make_unique<OwnedPlan>(std::move(prepared), std::move(plan), call.index);
  });
}

void score(const View& k, std::int64_t n, const nb::dict& arguments, const View& out,
           std::uintptr_t stream) {
  int threads = 0;
  const ScoreOptions options = to_score_options(arguments, threads);
  const Tensor keys = k.tensor();
  const bool on_gpu = all_on_cuda({&k, &out});
  check(n >= 1 && n <= keys.shape[2], "python", "keys to score", n, "1 to those of k");
  float* to = out.dense_f32(3, keys.shape[0] * keys.shape[1] * n);
  if (on_gpu) {
    const nb::gil_scoped_release released;
    return score_keys_cuda(keys, n, options, to, reinterpret_cast<void*>(stream));
  }
  run_without_gil(threads, [&](Executor& executor) { score_keys(keys, n, options, to, executor); });
}

State to_state(const View& o, const View& lse) {
  State state{o.mut_tensor(), nullptr};
  const auto& shape = state.o.shape;
  state.lse = lse.dense_f32(3, shape[0] * shape[1] * shape[2]);
  return state;
}

void merge_into(const View& o, const View& lse, const View& other_o, const View& other_lse,
                std::uintptr_t stream) {
  const bool on_gpu = all_on_cuda({&o, &lse, &other_o, &other_lse});
  const State into = to_state(o, lse), other = to_state(other_o, other_lse);
  const nb::gil_scoped_release released;
  if (on_gpu)
    merge_cuda(into, other, reinterpret_cast<void*>(stream));
  else
    merge(into, other);
}

std::int64_t workspace(const View& q, const View& k, const View& v, const nb::dict& arguments) {
  Call call(q, k, v, arguments, nullptr, std::nullopt);
  const int threads = call.options.threads > 0
                          ? call.options.threads
                          : static_cast<int>(std::thread::hardware_concurrency());
  return workspace_bytes(call.q, call.k, call.v, call.options, threads);
}

nb::list list_gpus() {
  nb::list list;
  for (const Gpu& gpu : gpus()) {
    nb::dict d;
    d["name"] = gpu.name, d["memory"] = gpu.memory;
    d["compute_capability"] = nb::make_tuple(gpu.major, gpu.minor);
    d["multiprocessors"] = gpu.multiprocessors;
    list.append(d);
  }
  return list;
}

std::string_view isa(const std::string& dtype) {
  for (const auto& [name, type] :
       {std::pair{"float32", DType::kF32}, {"float16", DType::kF16}, {"bfloat16", DType::kBF16}})
    if (dtype == name) return isa_name(Compute::kAuto, type);
  fail("python", "dtype", dtype, "float32, float16 or bfloat16");
}

}  // namespace
}  // namespace prescore::python

NB_MODULE(_core, m) {
  using namespace prescore::python;
  m.doc() = "The bindings behind prescore: see prescore/__init__.py.";
  m.attr("__version__") = nb::str(std::string(prescore::version()).c_str());
  nb::exception<prescore::Error>(m, "Error", PyExc_ValueError);
  bind_arrays(m);
  bind_options(m);
  bind_index(m);
  bind_plan(m);
  m.def("attention", &attend, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("out"),
        nb::arg("lse").none(), nb::arg("options"), nb::arg("index").none(),
        nb::arg("positions").none(), nb::arg("count"));
  m.def("plan", &plan, nb::arg("q"), nb::arg("k"), nb::arg("v"), nb::arg("options"),
        nb::arg("index").none(), nb::arg("positions").none());
  m.def("score", &score);
  m.def("merge", &merge_into);
  m.def("workspace_bytes", &workspace);
  m.def("gpus", &list_gpus);
  m.def("isa", &isa);
}
