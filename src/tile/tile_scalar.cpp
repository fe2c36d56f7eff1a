// The same kernels without vectors: the fallback everywhere, and what the others are tested
// against.
#define HWY_COMPILE_ONLY_SCALAR
#include "tile/tile_f32-inl.h"
#include "tile/tile_tables.h"

namespace prescore::tile {

constinit const Kernels kScalarKernels = HWY_NAMESPACE::kKernels;
constinit const RowKernels kScalarRowKernels = HWY_NAMESPACE::kRowKernels;

}  // namespace prescore::tile
