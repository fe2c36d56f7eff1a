// Tables defined in files of their own, because they need compiler flags of their own. Tables are
// constants: code that made one would be of its level, and run on machines that lack the level.
#pragma once

#include "tile/tile.h"

namespace prescore::tile {

extern const Kernels kScalarKernels;
extern const RowKernels kScalarRowKernels;
extern const Kernels kAvx512Bf16Kernels;  // PRESCORE_HAVE_BF16
extern const Kernels kAmxBf16Kernels;     // PRESCORE_HAVE_AMX

}  // namespace prescore::tile
