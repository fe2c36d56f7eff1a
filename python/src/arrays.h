// Arrays of any framework as views: DLPack or the buffer protocol, never a copy.
#pragma once

#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>

#include <string>
#include <vector>

#include "prescore/types.h"

namespace prescore::python {

namespace nb = nanobind;

/// Somebody's array, kept alive, with elements of float32, float16 or bfloat16.
class View {
 public:
  /// `name` stands in errors. Throws TypeError where `array` is no array, cannot be written though
  /// `writable`, or has another dtype.
  View(nb::handle array, std::string name, bool writable);

  /// [b, h, n, d]. Throws Error where the rank is another or elements of the last axis lie apart.
  Tensor tensor() const;
  MutTensor mut_tensor() const;
  /// Dense float32 with `rank` axes, for lse and scores. `size` elements. Throws Error.
  float* dense_f32(std::size_t rank, std::int64_t size) const;

  bool on_cuda() const { return array_.device_type() == nb::device::cuda::value; }
  int device_id() const { return array_.device_id(); }
  nb::tuple shape() const;
  const std::string& name() const { return name_; }

 private:
  std::string name_;
  nb::ndarray<nb::ro> array_;
  DType dtype_ = DType::kF32;
};

/// Throws Error unless all lie on one device; true where that is a GPU.
bool all_on_cuda(std::initializer_list<const View*> views);

/// A NumPy array that owns `values`.
template <typename T>
nb::object to_numpy(std::vector<T>&& values, std::initializer_list<std::size_t> shape) {
  auto* owned = new std::vector<T>(std::move(values));
  nb::capsule owner(owned, [](void* p) noexcept { delete static_cast<std::vector<T>*>(p); });
  return nb::cast(nb::ndarray<nb::numpy, T>(owned->data(), shape, owner));
}
template <typename T>
nb::object to_numpy(std::vector<T>&& values) {
  const std::size_t n = values.size();
  return to_numpy(std::move(values), {n});
}

void bind_arrays(nb::module_& m);

}  // namespace prescore::python
