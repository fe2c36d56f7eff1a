// Tables defined in files of their own, because they need compiler flags of their own.
#pragma once

#include "tile/tile.h"

namespace prescore::tile {

const Kernels& scalar_kernels();
const RowKernels& scalar_row_kernels();
const Kernels* avx512_bf16_kernels();  // null where the machine has none
const Kernels* amx_bf16_kernels();

}  // namespace prescore::tile
