// Python's texts as C++ has them.
#pragma once

#include <nanobind/nanobind.h>

#include <string>

namespace prescore::python {

namespace nb = nanobind;

/// str(object), or "?" where that cannot be written in UTF-8.
inline std::string text(nb::handle object) {
  const nb::object string = nb::steal(PyObject_Str(object.ptr()));
  const char* utf8 = string.is_valid() ? PyUnicode_AsUTF8AndSize(string.ptr(), nullptr) : nullptr;
  if (utf8 != nullptr) return utf8;
  PyErr_Clear();
  return "?";
}

/// repr(object) on one line, cut.
inline std::string represent(nb::handle object) {
  const nb::object string = nb::steal(PyObject_Repr(object.ptr()));
  if (!string.is_valid()) PyErr_Clear();
  const std::string all = string.is_valid() ? text(string) : "?";
  std::string line;
  for (const char c : all)
    if (c != '\n')
      line += c;
    else if (!line.ends_with(' '))
      line += ' ';
  return line.size() > 80 ? line.substr(0, 80) + "..." : line;
}

[[noreturn]] inline void refuse_type(const std::string& what, const std::string& got,
                                     const std::string& want) {
  throw nb::type_error(("[python] " + what + ", got " + got + ", want " + want).c_str());
}

}  // namespace prescore::python
