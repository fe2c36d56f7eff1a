// A build without CUDA.
#include "bench.h"
#include "common/check.h"

namespace prescore::cli {

std::unique_ptr<Bench> make_cuda_bench(const BenchData&) {
  fail("bench", "device", "cuda, in a build without CUDA",
       "cpu, or a build configured with a CUDA compiler (-DPRESCORE_CUDA=ON)");
}

}  // namespace prescore::cli
