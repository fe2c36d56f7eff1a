// Memory layout of what a loadable ggml backend hands to its host. ggml keeps these structs
// private, so they are written down here from their description (ggml/src/ggml-backend-impl.h),
// only as far as this plug-in fills them. Pointers to functions of one backend, of its device and
// of its registration, in this order; unused ones stay null, which ggml allows where it says
// "(optional)".
//
//   API version   first seen in   these three structs
//   2             ggml 0.25       as below
//   3             ggml 0.27       the same (the change is in the buffer type, which is not ours)
//
// ggml does not raise the number for every change, so check_host.h compares with the running host.
#pragma once

#include <cstddef>

#include "ggml-backend.h"

namespace prescore::host::layout {

/// ggml_backend_reg
struct Reg {
  int api_version;
  const char* (*get_name)(ggml_backend_reg_t);
  std::size_t (*get_device_count)(ggml_backend_reg_t);
  ggml_backend_dev_t (*get_device)(ggml_backend_reg_t, std::size_t index);
  void* (*get_proc_address)(ggml_backend_reg_t, const char* name);
  void* context;
};

/// ggml_backend_device
struct Device {
  const char* (*get_name)(ggml_backend_dev_t);
  const char* (*get_description)(ggml_backend_dev_t);
  void (*get_memory)(ggml_backend_dev_t, std::size_t* free, std::size_t* total);
  enum ggml_backend_dev_type (*get_type)(ggml_backend_dev_t);
  void (*get_props)(ggml_backend_dev_t, ggml_backend_dev_props*);
  ggml_backend_t (*init_backend)(ggml_backend_dev_t, const char* params);
  ggml_backend_buffer_type_t (*get_buffer_type)(ggml_backend_dev_t);
  ggml_backend_buffer_type_t (*get_host_buffer_type)(ggml_backend_dev_t);
  ggml_backend_buffer_t (*buffer_from_host_ptr)(ggml_backend_dev_t, void* ptr, std::size_t size,
                                                std::size_t max_tensor_size);
  bool (*supports_op)(ggml_backend_dev_t, const ggml_tensor*);
  bool (*supports_buft)(ggml_backend_dev_t, ggml_backend_buffer_type_t);
  void* offload_op;
  void* event_functions[3];  // new, free, synchronize
  ggml_backend_reg_t reg;
  void* context;
};

/// ggml_backend
struct Backend {
  ggml_guid_t guid;
  const char* (*get_name)(ggml_backend_t);
  void (*free)(ggml_backend_t);
  void* async_functions[5];  // set, get, set 2d, get 2d, copy
  void* synchronize;
  void* graph_plan_functions[4];  // create, free, update, compute
  ggml_status (*graph_compute)(ggml_backend_t, ggml_cgraph*);
  void* event_functions[2];  // record, wait
  void* graph_optimize;
  ggml_backend_dev_t device;
  void* context;
};

}  // namespace prescore::host::layout
