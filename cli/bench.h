// One attention call, timed again and again, on the CPU or on a GPU.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "prescore/attention.h"

namespace prescore::cli {

struct BenchShape {
  std::int64_t h_q = 14, h_kv = 2, n = 0, d = 64;
  DType dtype = DType::kBF16;
};

/// Rows [1, heads, n, d]. Keys lie around 256 centres a head and queries near keys, so that there
/// is something to choose.
struct BenchData {
  BenchShape shape;
  std::vector<std::uint16_t> q, k, v;
};
BenchData make_bench_data(const BenchShape&, Executor&);

/// The tensors of one call over memory of that shape, on the host or a device.
struct BenchTensors {
  Tensor q, k, v;
  State out;
};
BenchTensors make_tensors(const BenchShape&, const void* q, const void* k, const void* v, void* o);

struct Timed {
  double median_s = 0;  ///< index, plan and attend
  Report report;        ///< of one more run
};

class Bench {
 public:
  virtual ~Bench() = default;
  virtual Timed run(Options options, int repeats) = 0;
};
std::unique_ptr<Bench> make_cpu_bench(const BenchData&, Executor&);
/// On the current GPU, between events. Throws Error where the build has no CUDA or the GPU no
/// memory.
std::unique_ptr<Bench> make_cuda_bench(const BenchData&);

/// The middle of at least one time.
double median(std::vector<double> times);

}  // namespace prescore::cli
