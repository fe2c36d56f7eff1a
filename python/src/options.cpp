#include "options.h"

#include <nanobind/stl/string.h>

#include <algorithm>
#include <string>

#include "common/check.h"
#include "common/names.h"
#include "text.h"

namespace prescore::python {
namespace {

[[noreturn]] void refuse(const std::string& what, nb::handle got, const std::string& want) {
  refuse_type(what, represent(got), want);
}

// --- one value
// ------------------------------------------------------------------------------------

std::int64_t to_count(nb::handle value, const std::string& name) {
  const nb::object number = nb::steal(PyNumber_Index(value.ptr()));
  if (!number.is_valid() || nb::isinstance<nb::bool_>(value)) {
    PyErr_Clear();
    refuse(name, value, "a whole number");
  }
  std::int64_t count = 0;
  if (!nb::try_cast(number, count)) fail("python", name, represent(value), "a number of 64 bits");
  return count;
}

void assign(std::int64_t& to, nb::handle value, const std::string& name) {
  to = to_count(value, name);
}
void assign(std::uint64_t& to, nb::handle value, const std::string& name) {
  const std::int64_t count = to_count(value, name);
  check(count >= 0, "python", name, count, "at least 0");
  to = static_cast<std::uint64_t>(count);
}
void assign(int& to, nb::handle value, const std::string& name) {
  const std::int64_t count = to_count(value, name);
  host::check_count("[python] " + name, count, 0, host::kMostThreads);
  to = static_cast<int>(count);
}
void assign(void*& to, nb::handle value, const std::string& name) {
  to = reinterpret_cast<void*>(static_cast<std::intptr_t>(to_count(value, name)));
}
void assign(double& to, nb::handle value, const std::string& name) {
  to = PyFloat_AsDouble(value.ptr());
  if (PyErr_Occurred() != nullptr) {
    PyErr_Clear();
    refuse(name, value, "a number");
  }
}
void assign(float& to, nb::handle value, const std::string& name) {
  double number = 0;
  assign(number, value, name);
  to = static_cast<float>(number);
}
void assign(bool& to, nb::handle value, const std::string& name) {
  if (!nb::isinstance<nb::bool_>(value)) refuse(name, value, "True or False");
  to = nb::cast<bool>(value);
}

template <typename Parse>
auto parsed(Parse parse, nb::handle value, const std::string& name) {
  if (!nb::isinstance<nb::str>(value)) refuse(name, value, "a name");
  std::string word = text(value);
  if (std::any_of(word.begin(), word.end(), [](unsigned char c) { return c < ' '; }))
    word = represent(value);  // an error is one line
  return parse("[python] " + name, word);
}
void assign(Method& to, nb::handle value, const std::string& name) {
  to = parsed(host::parse_method, value, name);
}
void assign(Routing& to, nb::handle value, const std::string& name) {
  to = parsed(host::parse_routing, value, name);
}
void assign(StandIns& to, nb::handle value, const std::string& name) {
  to = parsed(host::parse_standins, value, name);
}
void assign(Score& to, nb::handle value, const std::string& name) {
  to = parsed(host::parse_score, value, name);
}
void assign(Selection& to, nb::handle value, const std::string& name) {
  to = parsed(host::parse_selection, value, name);
}
void assign(ClusterScore& to, nb::handle value, const std::string& name) {
  to = parsed(host::parse_cluster_score, value, name);
}
void assign(Leverage& to, nb::handle value, const std::string& name) {
  to = parsed(host::parse_leverage, value, name);
}
void assign(KernelKMeans& to, nb::handle value, const std::string& name) {
  to = parsed(host::parse_kernel, value, name);
}
void assign(Compute& to, nb::handle value, const std::string& name) {
  to = parsed(host::parse_compute, value, name);
}

// None (as the call), a method, most keys of the call's method, or both as a pair.
void assign(HeadBudget& to, nb::handle value, const std::string& name) {
  to = {};
  if (value.is_none()) return;
  if (nb::isinstance<nb::str>(value)) return assign(to.method, value, name);
  if (!nb::isinstance<nb::tuple>(value)) return assign(to.keys, value, name);
  if (nb::len(value) != 2) refuse(name, value, "(method, keys)");
  assign(to.method, value[0], name), assign(to.keys, value[1], name);
}
void assign(std::vector<HeadBudget>& to, nb::handle value, const std::string& name) {
  if (!nb::isinstance<nb::list>(value) && !nb::isinstance<nb::tuple>(value))
    refuse(name, value, "a list with an entry a query head");
  to.clear();
  for (const nb::handle head : nb::cast<nb::sequence>(value)) {
    const std::string which = name + "[" + std::to_string(to.size()) + "]";
    assign(to.emplace_back(), head, which);
  }
}

// --- the names of each struct
// ---------------------------------------------------------------------

template <typename Visit>
void visit(HyperOptions& o, Visit&& f) {
  f("projections", o.projections), f("block", o.block), f("samples", o.samples);
  f("leaf", o.leaf), f("centred", o.centred), f("selected", o.selected);
}
template <typename Visit>
void visit(IndexOptions& o, Visit&& f) {
  f("segment", o.segment), f("cluster", o.cluster), f("group", o.group);
  f("iterations", o.iterations), f("sinks", o.sinks), f("packed", o.packed);
}
template <typename Visit>
void visit(Rotation& o, Visit&& f) {
  f("dims", o.dims), f("base", o.base), f("interleaved", o.interleaved);
  f("position_scale", o.position_scale);
}
template <typename Visit>
void visit(ScoreOptions& o, Visit&& f) {
  f("score", o.score), f("seed", o.seed), f("centred", o.centred), f("rotation", o.rotation);
  f("clusters", o.clusters), f("iterations", o.iterations), f("cluster_score", o.cluster_score);
  f("kernel", o.kernel), f("features", o.features), f("sigma", o.sigma);
  f("leverage", o.leverage), f("ridge", o.ridge), f("sketch_rows", o.sketch_rows);
  f("degree", o.degree), f("fit", o.fit), f("segment", o.segment), f("growth", o.growth);
  f("query_stride", o.query_stride), f("distance", o.distance);
  f("value_weighted", o.value_weighted);
}
template <typename Visit>
void visit(PlanOptions& o, Visit&& f) {
  f("method", o.method), f("budget", o.budget), f("dense_until", o.dense_until);
  f("sinks", o.sinks), f("window", o.window), f("tile", o.tile), f("routing", o.routing);
  f("heads_together", o.heads_together), f("standins", o.standins);
  f("standin_share", o.standin_share), f("open_groups", o.open_groups);
  f("open_segments", o.open_segments), f("route_stride", o.route_stride), f("score", o.score);
  f("selection", o.selection), f("least_score", o.least_score), f("share", o.share);
  f("sample_weights", o.sample_weights), f("adaptive", o.adaptive), f("seed", o.seed);
  f("heads", o.heads), f("hyper", o.hyper);
}
template <typename Visit>
void visit(Options& o, Visit&& f) {
  visit(o.plan, f);
  f("certify", o.certify.samples), f("min_recall", o.certify.min_recall);
  f("certify_seed", o.certify.seed);
  f("index", o.index), f("scoring", o.score), f("compute", o.compute), f("is_causal", o.causal);
  f("scale", o.scale), f("threads", o.threads), f("stream", o.cuda.stream);
}

// --- a dictionary over the defaults
// ---------------------------------------------------------------

template <typename T>
void fill(T& options, const nb::dict& arguments, const std::string& of);

template <typename T>
concept Struct = requires(T& options) {
  visit(options, [](const char*, auto&) {});
};
template <Struct T>
void assign(T& to, nb::handle value, const std::string& name) {
  if (!nb::isinstance<nb::dict>(value)) refuse(name, value, "a dict of options");
  fill(to, nb::cast<nb::dict>(value), name);
}

template <typename T>
std::string names() {
  T options;
  std::string all;
  visit(options,
        [&](const char* name, auto&) { all.append(all.empty() ? "" : ", ").append(name); });
  return all;
}

template <typename T>
void fill(T& options, const nb::dict& arguments, const std::string& of) {
  for (const auto& [key, value] : arguments) {
    bool known = false;
    if (nb::isinstance<nb::str>(key))
      visit(options, [&](const char* name, auto& member) {
        if (name != text(key)) return;
        known = true;
        if (!value.is_none()) assign(member, value, of.empty() ? name : of + "." + name);
      });
    if (!known) refuse(of.empty() ? "option" : "option of " + of, key, "one of " + names<T>());
  }
}

}  // namespace

Options to_options(const nb::dict& arguments) {
  Options options;
  fill(options, arguments, "");
  return options;
}

IndexOptions to_index_options(const nb::dict& arguments) {
  IndexOptions options;
  fill(options, arguments, "");
  return options;
}

ScoreOptions to_score_options(const nb::dict& arguments, int& threads) {
  ScoreOptions options;
  nb::dict rest;
  for (const auto& [key, value] : arguments)
    if (nb::isinstance<nb::str>(key) && text(key) == "threads")
      assign(threads, value, "threads");
    else
      rest[key] = value;
  fill(options, rest, "");
  return options;
}

void bind_options(nb::module_& m) {
  m.attr("OPTION_NAMES") = nb::dict();
  const auto note = [&m](const char* of, const std::string& all) {
    nb::cast<nb::dict>(m.attr("OPTION_NAMES"))[of] = nb::str(all.c_str()).attr("split")(", ");
  };
  note("attention", names<Options>());
  note("index", names<IndexOptions>());
  note("scoring", names<ScoreOptions>());
  note("scoring.rotation", names<Rotation>());
  note("hyper", names<HyperOptions>());
}

}  // namespace prescore::python
