// One routed call taken apart, and keys that have clusters.
#pragma once

#include <random>

#include "cuda/device.cuh"

namespace prescore::test {

// One routed call, looked at from inside.
struct Routed : LaidOut {
  // `room`: for so many clusters; 0: as the call has it.
  Routed(Data& data, Options o, int room = 0) : LaidOut(data, o) {
    if (room > 0) call.classes[0].route.clusters = room;
    if (c.kv_type == DType::kF16)
      stages<cuda::f16>();
    else
      stages<cuda::bf16>();
    fetch_plans();
    device.o.copy_back(), device.lse.copy_back();
    const cuda::IndexView& x = call.index;
    const std::int64_t all = std::int64_t{x.segments} * c.h_kv;
    count = fetch(x.count, all * x.nodes), begin = fetch(x.begin, all * x.nodes);
    child = fetch(x.child, all * (x.groups + 1)), member = fetch(x.member, all * cuda::kSegment);
    node_k = fetch(static_cast<const std::uint16_t*>(x.node_k), all * x.nodes * c.d);
    node_v = fetch(static_cast<const std::uint16_t*>(x.node_v), all * x.nodes * c.d_v);
  }
  template <typename T>
  void stages() {
    cuda::build_index<T>(call.problem, call.index, nullptr);
    cuda::plan_routed<T>(call.problem, call.plan, call.index, route(), nullptr);
    cuda::attend<T>(call.problem, call.plan, call.index, nullptr);
  }
  // Nodes are numbered within the sequence, as in a list.
  std::int64_t at(std::int64_t h, std::int64_t b, std::int64_t node) const {
    return (h * call.index.segments + b * (c.n_kv / cuda::kSegment)) * call.index.nodes + node;
  }
  std::vector<std::int64_t> members(std::int64_t h, std::int64_t b, std::int64_t node) const {
    const auto i = static_cast<std::size_t>(at(h, b, node));
    const std::int64_t segment = node / call.index.nodes,
                       base = at(h, b, 0) / call.index.nodes + segment;
    std::vector<std::int64_t> keys;
    for (int j = 0; j < count[i]; ++j)
      keys.push_back(segment * cuda::kSegment +
                     member[static_cast<std::size_t>(base * cuda::kSegment + begin[i] + j)]);
    return keys;
  }
  std::vector<double> mean(const std::vector<std::uint16_t>& from, std::int64_t d,
                           std::int64_t i) const {
    std::vector<double> v;
    for (std::int64_t x = 0; x < d; ++x)
      v.push_back(reference::load(from.data(), c.kv_type, i * d + x));
    return v;
  }

  std::vector<std::uint16_t> count, begin, child, member, node_k, node_v;
};

inline Case clustered_case(std::int64_t n_q, std::int64_t n_kv, std::int64_t d) {
  return gpu_case(2, 4, 2, n_q, n_kv, d, d);
}

// Keys around 48 centres a head, with a constant part as real keys have.
inline void cluster_keys(Data& data, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  const auto& s = data.k.shape();
  std::vector<double> centre(static_cast<std::size_t>(48 * s[3]));
  for (std::int64_t b = 0; b < s[0]; ++b)
    for (std::int64_t h = 0; h < s[1]; ++h) {
      for (double& x : centre) x = 3 * normal(random);
      for (std::int64_t i = 0; i < s[2]; ++i) {
        const auto c = static_cast<std::int64_t>(random() % 48);
        for (std::int64_t x = 0; x < s[3]; ++x)
          data.k.set(b, h, i, x,
                     20.0 * (x == 1) + centre[static_cast<std::size_t>(c * s[3] + x)] +
                         0.2 * normal(random));
      }
    }
}

inline Options routed(std::int64_t budget) { return method(Method::kRouted, budget); }

}  // namespace prescore::test
