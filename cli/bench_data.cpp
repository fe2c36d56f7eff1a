#include <algorithm>

#include "bench.h"
#include "common/random.h"
#include "common/views.h"

namespace prescore::cli {
namespace {

// About normal: four uniform numbers of 16 bits.
float noise(std::uint64_t stream, std::uint64_t i) {
  const std::uint64_t x = mix(stream + i);
  const auto sum = (x & 0xffff) + (x >> 16 & 0xffff) + (x >> 32 & 0xffff) + (x >> 48);
  return (static_cast<float>(sum) / 65536.0f - 2.0f) * 1.7320508f;
}

constexpr std::uint64_t kCentres = 256;

class Generator {
 public:
  Generator(const BenchShape& s) : s_(s) {}
  float key(std::int64_t h, std::int64_t i, std::int64_t c) const {
    const auto row = static_cast<std::uint64_t>(h * s_.n + i);
    const std::uint64_t centre = static_cast<std::uint64_t>(h) * kCentres + mix(row) % kCentres;
    return noise(1ull << 40, centre * 1024 + static_cast<std::uint64_t>(c)) +
           0.5f * noise(2ull << 40, row * 1024 + static_cast<std::uint64_t>(c));
  }
  // Near the key an eighth of the text before.
  float query(std::int64_t h, std::int64_t i, std::int64_t c) const {
    const auto row = static_cast<std::uint64_t>(h * s_.n + i);
    return key(h / (s_.h_q / s_.h_kv), (i + s_.n - s_.n / 8) % s_.n, c) +
           noise(3ull << 40, row * 1024 + static_cast<std::uint64_t>(c));
  }
  float value(std::int64_t h, std::int64_t i, std::int64_t c) const {
    return noise(4ull << 40, static_cast<std::uint64_t>((h * s_.n + i) * 1024 + c));
  }

 private:
  BenchShape s_;
};

template <typename At>
std::vector<std::uint16_t> rows(const BenchShape& s, std::int64_t heads, Executor& executor,
                                const At& at) {
  std::vector<std::uint16_t> out(static_cast<std::size_t>(heads * s.n * s.d));
  constexpr std::int64_t kPiece = 512;
  const std::int64_t pieces = (s.n + kPiece - 1) / kPiece;
  executor.run(heads * pieces, [&](std::int64_t task, int) {
    const std::int64_t h = task / pieces, first = task % pieces * kPiece;
    for (std::int64_t i = first; i < std::min(s.n, first + kPiece); ++i)
      for (std::int64_t c = 0; c < s.d; ++c)
        store_element(out.data(), s.dtype, (h * s.n + i) * s.d + c, at(h, i, c));
  });
  return out;
}

class CpuBench final : public Bench {
 public:
  CpuBench(const BenchData& data, Executor& executor)
      : data_(data), executor_(executor), out_(data.q.size()) {}

  Timed run(Options options, int repeats) override {
    const auto [q, k, v, out] =
        make_tensors(data_.shape, data_.q.data(), data_.k.data(), data_.v.data(), out_.data());
    Timed timed;
    std::vector<double> times;
    for (int i = 0; i < repeats + 1; ++i) {  // the first warms up
      timed.report = attention(q, k, v, out, options, executor_);
      if (i > 0) times.push_back(timed.report.counters.total_s);
    }
    timed.median_s = median(times);
    return timed;
  }

 private:
  const BenchData& data_;
  Executor& executor_;
  std::vector<std::uint16_t> out_;
};

}  // namespace

double median(std::vector<double> times) {
  const auto middle = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 2);
  std::nth_element(times.begin(), middle, times.end());
  return *middle;
}

BenchTensors make_tensors(const BenchShape& s, const void* q, const void* k, const void* v,
                          void* o) {
  return {Tensor::contiguous(q, s.dtype, 1, s.h_q, s.n, s.d),
          Tensor::contiguous(k, s.dtype, 1, s.h_kv, s.n, s.d),
          Tensor::contiguous(v, s.dtype, 1, s.h_kv, s.n, s.d),
          {MutTensor::contiguous(o, s.dtype, 1, s.h_q, s.n, s.d), nullptr}};
}

BenchData make_bench_data(const BenchShape& s, Executor& executor) {
  const Generator g(s);
  const auto at = [&](auto member) {
    return [&g, member](std::int64_t h, std::int64_t i, std::int64_t c) {
      return (g.*member)(h, i, c);
    };
  };
  return {s, rows(s, s.h_q, executor, at(&Generator::query)),
          rows(s, s.h_kv, executor, at(&Generator::key)),
          rows(s, s.h_kv, executor, at(&Generator::value))};
}

std::unique_ptr<Bench> make_cpu_bench(const BenchData& data, Executor& executor) {
  return std::make_unique<CpuBench>(data, executor);
}

}  // namespace prescore::cli
