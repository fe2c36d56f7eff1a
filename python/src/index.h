// KeyIndex for Python: shared with the plans made with it, one thread at a time.
#pragma once

#include <nanobind/nanobind.h>

#include <memory>
#include <mutex>

#include "prescore/index.h"

namespace prescore::python {

namespace nb = nanobind;

struct SharedIndex {
  explicit SharedIndex(const IndexOptions& options) : index(options) {}
  KeyIndex index;
  std::mutex mutex;  ///< taken without the GIL only: its owner may want the GIL

  /// For readers that hold the GIL.
  std::unique_lock<std::mutex> lock() {
    const nb::gil_scoped_release released;
    return std::unique_lock(mutex);
  }
};
using SharedIndexPtr = std::shared_ptr<SharedIndex>;

/// Absolute positions of the keys of a node, ascending. Throws Error where there is no such node.
std::vector<std::int32_t> node_members(const KeyIndex& index, std::int64_t batch, std::int64_t head,
                                       std::int64_t node);

void bind_index(nb::module_& m);

}  // namespace prescore::python
