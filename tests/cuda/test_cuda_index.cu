// The index on the GPU, looked at from inside.
#include <cmath>
#include <set>

#include "cuda/routed.cuh"

namespace prescore::test {
namespace {

class CudaIndex : public EachKernel {};
PRESCORE_WITH_EACH_KERNEL(CudaIndex);

TEST_P(CudaIndex, NodesPartitionTheirSegmentAndKeepItsMeans) {
  for (const std::int64_t d : {64, 80, 128, 256}) {
    Data data(clustered_case(40, 1700, d));
    cluster_keys(data, 3);
    const Routed r(data, routed(700));
    const cuda::IndexView& x = r.call.index;
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t h = 0; h < 2; ++h)
        for (std::int64_t s = 0; s < 3; ++s) {
          std::set<std::int64_t> seen;
          for (int c = 0; c < x.clusters; ++c)
            for (const auto key : r.members(h, b, s * x.nodes + c))
              EXPECT_TRUE(seen.insert(key).second) << "twice: " << key;
          EXPECT_EQ(static_cast<std::int64_t>(seen.size()), 512 - (s == 0 ? 16 : 0));
          if (s == 0) {
            EXPECT_EQ(seen.count(15), 0u);
          }
          // A group holds what its clusters hold.
          const auto* child = r.child.data() + (r.at(h, b, s * x.nodes) / x.nodes) * (x.groups + 1);
          for (int g = 0; g < x.groups; ++g) {
            std::vector<std::int64_t> of;
            for (int c = child[g]; c < child[g + 1]; ++c)
              for (const auto key : r.members(h, b, s * x.nodes + c)) of.push_back(key);
            EXPECT_EQ(of, r.members(h, b, s * x.nodes + x.clusters + g));
          }
          for (int node = 0; node < x.nodes; ++node) {
            const auto keys = r.members(h, b, s * x.nodes + node);
            if (keys.empty()) continue;
            const std::int64_t i = r.at(h, b, s * x.nodes + node);
            const auto k = r.mean(r.node_k, d, i), v = r.mean(r.node_v, d, i);
            for (std::int64_t e = 0; e < d; ++e) {
              double sum_k = 0, sum_v = 0;
              for (const auto key : keys)
                sum_k += data.k.get(b, h, key, e), sum_v += data.v.get(b, h, key, e);
              const double n = static_cast<double>(keys.size());
              ASSERT_NEAR(k[static_cast<std::size_t>(e)], sum_k / n,
                          0.004 * (1 + std::abs(sum_k / n)));
              ASSERT_NEAR(v[static_cast<std::size_t>(e)], sum_v / n,
                          0.004 * (1 + std::abs(sum_v / n)));
            }
          }
        }
  }
}

// As good a clustering as the CPU's, on data with and without clusters.
TEST_P(CudaIndex, ObjectiveIsThatOfTheCpu) {
  for (const bool clustered : {false, true}) {
    Data data(clustered_case(40, 1536, 64));
    if (clustered) cluster_keys(data, 5);
    const Routed r(data, routed(700));
    KeyIndex cpu;
    cpu.extend(data.k.view(), data.v.view(), *make_serial_executor());
    double gpu_sum = 0, cpu_sum = 0;
    for (std::int64_t b = 0; b < 2; ++b)
      for (std::int64_t h = 0; h < 2; ++h)
        for (std::int64_t s = 0; s < 3; ++s) {
          std::vector<double> points;
          std::vector<std::int64_t> gpu, own;
          for (int c = 0; c < r.call.index.clusters; ++c) {
            for (const auto key : r.members(h, b, s * r.call.index.nodes + c)) {
              gpu.push_back(c);
              for (std::int64_t e = 0; e < 64; ++e) points.push_back(data.k.get(b, h, key, e));
            }
          }
          gpu_sum += reference::kmeans_objective(points, 64, gpu);
          points.clear();
          for (std::int64_t c = 0; c < cpu.nodes_per_segment(0); ++c)
            for (const auto offset : cpu.members(b, h, s * cpu.nodes_per_segment() + c)) {
              own.push_back(c);
              for (std::int64_t e = 0; e < 64; ++e)
                points.push_back(data.k.get(b, h, s * 512 + offset, e));
            }
          cpu_sum += reference::kmeans_objective(points, 64, own);
        }
    EXPECT_LT(gpu_sum, 1.03 * cpu_sum) << clustered;
  }
}

// The index of heads of 128 in half of the shared memory is the same index.
TEST(CudaSmallMemory, TheIndexIsTheSame) {
  PRESCORE_NEEDS_GPU();
  Data data(clustered_case(40, 1700, 128));
  cluster_keys(data, 3);
  const Routed large(data, routed(700));
  const UseKernels generic("GENERIC");
  const Routed small(data, routed(700));
  EXPECT_EQ(large.member, small.member);
  EXPECT_EQ(large.count, small.count);
  EXPECT_EQ(large.child, small.child);
  EXPECT_EQ(large.node_k, small.node_k);
  EXPECT_EQ(large.node_v, small.node_v);
}

}  // namespace
}  // namespace prescore::test
