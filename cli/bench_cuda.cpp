#include "bench.h"
#include "common/launch.cuh"

namespace prescore::cli {
namespace {

void check_cuda(cudaError_t e, const char* what) { cuda::check_cuda(e, "bench", what); }

class DeviceRows {
 public:
  explicit DeviceRows(std::size_t bytes) {
    check_cuda(cudaMalloc(&data_, bytes), "memory for the tensors");
  }
  explicit DeviceRows(const std::vector<std::uint16_t>& from) : DeviceRows(2 * from.size()) {
    check_cuda(cudaMemcpy(data_, from.data(), 2 * from.size(), cudaMemcpyHostToDevice), "copying");
  }
  ~DeviceRows() { cudaFree(data_); }
  DeviceRows(const DeviceRows&) = delete;
  DeviceRows& operator=(const DeviceRows&) = delete;
  void* data() const { return data_; }

 private:
  void* data_ = nullptr;
};

class Event {
 public:
  Event() { check_cuda(cudaEventCreate(&event_), "an event"); }
  ~Event() { cudaEventDestroy(event_); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  void record() { check_cuda(cudaEventRecord(event_), "an event"); }
  double seconds_since(const Event& begin) const {
    check_cuda(cudaEventSynchronize(event_), "the call");
    float ms = 0;
    check_cuda(cudaEventElapsedTime(&ms, begin.event_, event_), "a time");
    return 1e-3 * double{ms};
  }

 private:
  cudaEvent_t event_{};
};

class CudaBench final : public Bench {
 public:
  explicit CudaBench(const BenchData& data)
      : s_(data.shape), q_(data.q), k_(data.k), v_(data.v), o_(2 * data.q.size()) {}

  Timed run(Options options, int repeats) override {
    options.device = Device::kCuda;
    const auto [q, k, v, out] = make_tensors(s_, q_.data(), k_.data(), v_.data(), o_.data());
    Timed timed;
    std::vector<double> times;
    for (int i = 0; i < repeats + 2; ++i) {  // the first two warm up
      Event begin, end;
      begin.record();
      attention(q, k, v, out, options);
      end.record();
      const double s = end.seconds_since(begin);
      if (i > 1) times.push_back(s);
    }
    timed.median_s = median(times);
    options.cuda.count = true;
    timed.report = attention(q, k, v, out, options);
    return timed;
  }

 private:
  BenchShape s_;
  DeviceRows q_, k_, v_, o_;
};

}  // namespace

std::unique_ptr<Bench> make_cuda_bench(const BenchData& data) {
  if (gpus().empty())
    fail("bench", "device", "cuda, where no GPU is found", "cpu, or a GPU and its driver");
  return std::make_unique<CudaBench>(data);
}

}  // namespace prescore::cli
