#include "index.h"

#include <nanobind/stl/shared_ptr.h>

#include <algorithm>
#include <vector>

#include "arrays.h"
#include "call.h"
#include "common/check.h"
#include "options.h"

namespace prescore::python {
namespace {

std::int64_t nodes(const KeyIndex& index) {
  return index.size() / index.options().segment * index.nodes_per_segment();
}

void check_head(const KeyIndex& index, std::int64_t batch, std::int64_t head) {
  check(index.size() > 0, "python", "keys in the index", index.size(), "a complete segment");
  const auto shape = index.node_keys().shape;
  const auto below = [](std::int64_t n) { return "0 to " + std::to_string(n - 1); };
  check(batch >= 0 && batch < shape[0], "python", "batch", batch, below(shape[0]));
  check(head >= 0 && head < shape[1], "python", "head", head, below(shape[1]));
}

void check_node(const KeyIndex& index, std::int64_t batch, std::int64_t head, std::int64_t node) {
  check_head(index, batch, head);
  check(node >= 0 && node < nodes(index), "python", "node", node,
        "0 to " + std::to_string(nodes(index) - 1));
}

void extend(SharedIndex& self, const View& k, const View& v, int threads) {
  if (all_on_cuda({&k, &v}))
    fail("python", "device of k", "cuda", "the CPU: a KeyIndex holds keys of the CPU");
  const Tensor tk = k.tensor(), tv = v.tensor();
  run_without_gil(threads, [&](Executor& executor) {
    const std::scoped_lock lock(self.mutex);
    self.index.extend(tk, tv, executor);
  });
}

void truncate(SharedIndex& self, std::int64_t n) {
  const auto lock = self.lock();
  check(n >= 0, "python", "keys to keep", n, "at least 0");
  self.index.truncate(n);
}

std::int64_t validate(SharedIndex& self, const View& k) {
  const Tensor keys = k.tensor();
  if (k.on_cuda()) fail("python", "device of k", "cuda", "the CPU");
  const nb::gil_scoped_release released;
  const std::scoped_lock lock(self.mutex);
  return self.index.validate(keys);
}

nb::object counts(SharedIndex& self, std::int64_t batch, std::int64_t head) {
  const auto lock = self.lock();
  check_head(self.index, batch, head);
  const auto all = self.index.counts(batch, head);
  return to_numpy(std::vector<std::int32_t>(all.begin(), all.end()));
}

nb::object members(SharedIndex& self, std::int64_t batch, std::int64_t head, std::int64_t node) {
  const auto lock = self.lock();
  return to_numpy(node_members(self.index, batch, head, node));
}

// Node ids [first, last).
nb::tuple children(SharedIndex& self, std::int64_t batch, std::int64_t head, std::int64_t node) {
  const auto lock = self.lock();
  check_node(self.index, batch, head, node);
  const auto [first, last] = self.index.children(batch, head, node);
  const std::int64_t segment =
      node / self.index.nodes_per_segment() * self.index.nodes_per_segment();
  return nb::make_tuple(segment + first, segment + last);
}

std::int64_t level(SharedIndex& self, std::int64_t node) {
  const auto lock = self.lock();
  check(node >= 0, "python", "node", node, "at least 0");
  const std::int64_t local = node % self.index.nodes_per_segment();
  return local < self.index.first_node(1) ? 0 : local < self.index.first_node(2) ? 1 : 2;
}

template <typename T>
auto read(T (KeyIndex::*member)() const noexcept) {
  return [member](SharedIndex& self) {
    const auto lock = self.lock();
    return (self.index.*member)();
  };
}

}  // namespace

std::vector<std::int32_t> node_members(const KeyIndex& index, std::int64_t batch, std::int64_t head,
                                       std::int64_t node) {
  check_node(index, batch, head, node);
  const std::int64_t segment = node / index.nodes_per_segment() * index.options().segment;
  std::vector<std::int32_t> keys;
  for (const std::uint16_t offset : index.members(batch, head, node))
    keys.push_back(static_cast<std::int32_t>(segment + offset));
  std::sort(keys.begin(), keys.end());
  return keys;
}

void bind_index(nb::module_& m) {
  nb::class_<SharedIndex>(m, "KeyIndex")
      .def("__init__",
           [](nb::pointer_and_handle<SharedIndex> self, const nb::dict& options) {
             new (self.p) SharedIndex(to_index_options(options));
           })
      .def("extend", &extend)
      .def("truncate", &truncate)
      .def("validate", &validate)
      .def("counts", &counts)
      .def("members", &members)
      .def("children", &children)
      .def("level", &level)
      .def("size", read(&KeyIndex::size))
      .def("bytes", read(&KeyIndex::bytes))
      .def("nodes_per_segment", read<std::int64_t>(&KeyIndex::nodes_per_segment));
}

}  // namespace prescore::python
