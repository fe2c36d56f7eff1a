// The same kernels without vectors: the fallback everywhere, and what the others are tested
// against.
#define HWY_COMPILE_ONLY_SCALAR
#include "tile/tile_f32-inl.h"
#include "tile/tile_tables.h"

namespace prescore::tile {

const Kernels& scalar_kernels() {
  static const Kernels k = HWY_NAMESPACE::make_kernels(Isa::kScalar);
  return k;
}
const RowKernels& scalar_row_kernels() {
  static const RowKernels k = HWY_NAMESPACE::make_row_kernels(Isa::kScalar);
  return k;
}

}  // namespace prescore::tile
