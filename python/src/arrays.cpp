#include "arrays.h"

#include <nanobind/stl/string.h>

#include "common/check.h"
#include "text.h"

namespace prescore::python {
namespace {

std::string dtype_name(nb::handle array) {
  if (!nb::hasattr(array, "dtype")) return "another";
  return text(nb::object(array.attr("dtype")));
}

// NumPy does not export the bfloat16 of ml_dtypes: its bits are viewed as uint16.
bool is_numpy_bf16(nb::handle array) {
  return nb::hasattr(array, "__array_interface__") && dtype_name(array) == "bfloat16";
}

nb::ndarray<nb::ro> import(nb::handle array, const std::string& name, bool writable) {
  const std::string type = text(nb::type_name(array.type()));
  if (nb::hasattr(array, "requires_grad") && nb::cast<bool>(array.attr("requires_grad")) &&
      nb::cast<bool>(nb::module_::import_("torch").attr("is_grad_enabled")()))
    refuse_type(name, "a tensor that requires grad",
                "one that does not (x.detach(), torch.no_grad() or prescore.torch)");
  nb::ndarray<nb::ro> view;
  nb::ndarray<> writable_view;
  if (!writable && nb::try_cast(array, view)) return view;
  if (writable && nb::try_cast(array, writable_view)) return nb::ndarray<nb::ro>(writable_view);
  refuse_type(name, type,
              writable ? "an array that can be written in place"
                       : "an array with DLPack or the buffer protocol (NumPy, PyTorch, JAX, CuPy)");
}

}  // namespace

View::View(nb::handle array, std::string name, bool writable) : name_(std::move(name)) {
  const bool bf16_bits = is_numpy_bf16(array);
  const nb::object source = bf16_bits ? array.attr("view")("uint16") : nb::borrow(array);
  array_ = import(source, name_, writable);
  const nb::dlpack::dtype t = array_.dtype();
  const auto is = [&](nb::dlpack::dtype_code code, int bits) {
    return t.code == static_cast<std::uint8_t>(code) && t.bits == bits && t.lanes == 1;
  };
  if (is(nb::dlpack::dtype_code::Float, 32))
    dtype_ = DType::kF32;
  else if (is(nb::dlpack::dtype_code::Float, 16))
    dtype_ = DType::kF16;
  else if (bf16_bits || is(nb::dlpack::dtype_code::Bfloat, 16))
    dtype_ = DType::kBF16;
  else
    refuse_type(name_ + " dtype", dtype_name(array), "float32, float16 or bfloat16");
  const int device = array_.device_type();
  if (device != nb::device::cpu::value && device != nb::device::cuda::value)
    refuse_type(name_ + " device", "DLPack device " + std::to_string(device),
                "the CPU or a CUDA GPU");
}

Tensor View::tensor() const {
  check(array_.ndim() == 4, "python", "axes of " + name_, static_cast<std::int64_t>(array_.ndim()),
        "4: [b, h, n, d]");
  Tensor t{array_.data(), dtype_, {}, {}};
  for (std::size_t i = 0; i < 4; ++i) {
    t.shape[i] = static_cast<std::int64_t>(array_.shape(i));
    // NumPy gives axes of one element whatever stride it likes.
    t.stride[i] = t.shape[i] > 1 ? array_.stride(i) : 0;
  }
  if (t.shape[3] <= 1) t.stride[3] = 1;
  check_tensor(t, "python", name_);
  return t;
}

MutTensor View::mut_tensor() const {
  const Tensor t = tensor();
  return {const_cast<void*>(t.data), t.dtype, t.shape, t.stride};  // the import asked for writable
}

float* View::dense_f32(std::size_t rank, std::int64_t size) const {
  if (dtype_ != DType::kF32) refuse_type(name_ + " dtype", "16 bits", "float32");
  check(array_.ndim() == rank, "python", "axes of " + name_,
        static_cast<std::int64_t>(array_.ndim()), std::to_string(rank));
  check(static_cast<std::int64_t>(array_.size()) == size, "python", "elements of " + name_,
        static_cast<std::int64_t>(array_.size()), std::to_string(size));
  std::int64_t dense = 1;
  for (std::size_t i = rank; i-- > 0; dense *= static_cast<std::int64_t>(array_.shape(i)))
    if (array_.shape(i) > 1 && array_.stride(i) != dense)
      fail("python", name_, "an array with gaps", "a contiguous one");
  return static_cast<float*>(const_cast<void*>(static_cast<const void*>(array_.data())));
}

nb::tuple View::shape() const {
  nb::list sizes;
  for (std::size_t i = 0; i < array_.ndim(); ++i) sizes.append(array_.shape(i));
  return nb::tuple(sizes);
}

bool all_on_cuda(std::initializer_list<const View*> views) {
  const View& first = **views.begin();
  const auto place = [](const View& v) {
    return v.on_cuda() ? "cuda:" + std::to_string(v.device_id()) : std::string("cpu");
  };
  for (const View* v : views)
    if (v != nullptr && place(*v) != place(first))
      fail("python", "device of " + v->name(), place(*v),
           "that of " + first.name() + ": " + place(first));
  return first.on_cuda();
}

void bind_arrays(nb::module_& m) {
  nb::class_<View>(m, "View")
      .def(nb::init<nb::handle, std::string, bool>(), nb::arg("array").none(), nb::arg("name"),
           nb::arg("writable") = false)
      .def_prop_ro("shape", &View::shape)
      .def_prop_ro("on_cuda", &View::on_cuda);
}

}  // namespace prescore::python
