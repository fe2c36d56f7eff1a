// A build without CUDA.
#include "common/check.h"
#include "common/cuda.h"

namespace prescore {

std::vector<Gpu> gpus() { return {}; }

namespace cuda {

Report attention(const Tensor&, const Tensor&, const Tensor&, const State&, const Options&) {
  fail("attention", "device", "cuda, in a build without CUDA",
       "cpu, or a build configured with a CUDA compiler (-DPRESCORE_CUDA=ON)");
}
std::int64_t workspace_bytes(const Tensor& q, const Tensor& k, const Tensor& v,
                             const Options& options) {
  cuda::attention(q, k, v, {}, options);
  return 0;
}

}  // namespace cuda
}  // namespace prescore
