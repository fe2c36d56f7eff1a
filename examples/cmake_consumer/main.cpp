// Attention over 8,192 keys, once over all of them and once over the 1,024 that matter most, and
// how far the two are apart.
#include <cmath>
#include <cstdio>
#include <random>
#include <vector>

#include <prescore/attention.h>

int main() {
  constexpr int kHeads = 4, kKeyHeads = 2, kQueries = 256, kKeys = 8192, kDim = 64;
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  const auto fill = [&](int heads, int n) {
    std::vector<float> x(static_cast<std::size_t>(heads) * n * kDim);
    for (float& e : x) e = normal(random);
    return x;
  };
  // Keys in groups of eight that are alike, and queries that look for some of them.
  std::vector<float> q = fill(kHeads, kQueries), k = fill(kKeyHeads, kKeys);
  const std::vector<float> v = fill(kKeyHeads, kKeys);
  for (std::size_t row = 0; row < k.size() / kDim; ++row) {
    for (std::size_t c = 0; c < kDim && row % 8 != 0; ++c) {
      k[row * kDim + c] = k[row / 8 * 8 * kDim + c] + 0.3f * k[row * kDim + c];
    }
  }
  for (std::size_t i = 0; i < q.size(); ++i) q[i] = 1.5f * k[i % k.size()] + q[i];

  using namespace prescore;
  const Tensor tq = Tensor::contiguous(q.data(), DType::kF32, 1, kHeads, kQueries, kDim);
  const Tensor tk = Tensor::contiguous(k.data(), DType::kF32, 1, kKeyHeads, kKeys, kDim);
  const Tensor tv = Tensor::contiguous(v.data(), DType::kF32, 1, kKeyHeads, kKeys, kDim);
  std::vector<float> dense(q.size()), sparse(q.size());
  const auto to = [&](std::vector<float>& o) {
    return State{MutTensor::contiguous(o.data(), DType::kF32, 1, kHeads, kQueries, kDim), nullptr};
  };
  try {
    Options options;
    options.plan.method = Method::kDense;
    const Report all = attention(tq, tk, tv, to(dense), options);
    options.plan.method = Method::kRouted;
    options.plan.budget = 1024;
    const Report some = attention(tq, tk, tv, to(sparse), options);

    double error = 0, norm = 0;
    for (std::size_t i = 0; i < dense.size(); ++i) {
      error += std::pow(double{dense[i]} - double{sparse[i]}, 2);
      norm += std::pow(double{dense[i]}, 2);
    }
    const auto keys = [](const Report& r) {
      return static_cast<double>(r.counters.keys) / static_cast<double>(r.counters.queries);
    };
    std::printf("prescore %.*s on %s\n", static_cast<int>(version().size()), version().data(),
                all.isa.c_str());
    std::printf("dense:  %6.0f keys a query, %.4f s\n", keys(all), all.counters.total_s);
    std::printf("routed: %6.0f keys a query, %.4f s, relative difference %.3f\n", keys(some),
                some.counters.total_s, std::sqrt(error / norm));
    return std::isfinite(error) && keys(some) <= 1024 ? 0 : 1;
  } catch (const Error& e) {
    std::fprintf(stderr, "%s\n", e.what());
    return 2;
  }
}
