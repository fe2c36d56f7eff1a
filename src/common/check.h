// Throwing one-sentence errors: "[stage] what, got X, want Y".
#pragma once

#include <string>
#include <string_view>

#include "prescore/types.h"

namespace prescore {

struct IndexOptions;

[[noreturn]] inline void fail(std::string_view stage, std::string_view what, std::string_view got,
                              std::string_view want) {
  std::string text;
  text.append("[").append(stage).append("] ").append(what).append(", got ").append(got);
  text.append(", want ").append(want);
  throw Error(text);
}

inline void check(bool ok, std::string_view stage, std::string_view what, std::int64_t got,
                  std::string_view want) {
  if (!ok) fail(stage, what, std::to_string(got), want);
}

/// Shape, strides, dtype and pointer of a tensor; `what` names it. Throws Error.
void check_tensor(const Tensor& t, std::string_view stage, std::string_view what);
inline void check_tensor(const MutTensor& t, std::string_view stage, std::string_view what) {
  check_tensor(Tensor{t.data, t.dtype, t.shape, t.stride}, stage, what);
}

/// Throws Error where elements of an output share memory.
void check_apart(const MutTensor& t, std::string_view stage, std::string_view what);

/// Throws Error where an index cannot be made so, on any device.
void check_index_options(const IndexOptions&);

/// "[1, 2, 3, 4]"
std::string to_string(const std::array<std::int64_t, 4>& shape);

}  // namespace prescore
