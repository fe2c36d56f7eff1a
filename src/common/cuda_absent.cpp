// A build without CUDA.
#include "common/check.h"
#include "common/cuda.h"

namespace prescore {

std::vector<Gpu> gpus() { return {}; }

namespace cuda {
namespace {

[[noreturn]] void refuse(const char* stage) {
  fail(stage, "device", "cuda, in a build without CUDA",
       "cpu, or a build configured with a CUDA compiler (-DPRESCORE_CUDA=ON)");
}

}  // namespace

Report attention(const Tensor&, const Tensor&, const Tensor&, const State&, const Options&) {
  refuse("attention");
}
void merge(const State&, const State&, void*) { refuse("merge"); }
void score_keys(const Tensor&, std::int64_t, const ScoreOptions&, float*, void*) {
  refuse("score");
}
std::int64_t workspace_bytes(const Tensor&, const Tensor&, const Tensor&, const Options&) {
  refuse("attention");
}

}  // namespace cuda
}  // namespace prescore
