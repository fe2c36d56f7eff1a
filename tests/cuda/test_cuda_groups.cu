// What routing thinks of groups on the GPU, beside float64.
#include <cmath>
#include <numeric>

#include "cuda/routed.cuh"

namespace prescore::test {
namespace {

class CudaGroups : public EachKernel {};
PRESCORE_WITH_EACH_KERNEL(CudaGroups);

// What the routing queries of a tile and list think of its far groups, in float64.
struct Opinion {
  std::vector<double> total;  // of each query: log2 of its attention to all keys; NaN: infinite
  std::vector<double> rank;   // of each group: log2 of the mean share of one of its keys
  std::vector<int> keys;
};
Opinion opinion_of(const Routed& r, const Data& data, int t, int list) {
  const cuda::Problem& p = r.call.problem;
  const cuda::IndexView& x = r.call.index;
  const cuda::TileInfo& tile = r.tiles[static_cast<std::size_t>(t)];
  const int room = r.route().columns, heads = std::min(r.share(), room);
  const int step = (p.tile * heads + room - 1) / room;
  const std::int64_t b = tile.batch, head = list * r.share(), kv = head / (p.h_q / p.h_kv);
  const auto end = [&](int row) -> std::int64_t {
    return p.causal ? tile.first_end + row : tile.n_kv;
  };
  const Layout layout = make_layout(p.causal, end(0), end(tile.rows - 1), r.route().rule,
                                    cuda::kSegment, tile.segments * cuda::kSegment);
  Opinion o;
  if (layout.all()) return o;
  std::vector<std::vector<double>> mean;
  for (std::int64_t j = 0; j < layout.local / cuda::kSegment * x.groups; ++j) {
    const std::int64_t i = r.at(kv, b, j / x.groups * x.nodes + x.clusters + j % x.groups);
    mean.push_back(r.mean(r.node_k, r.c.d, i));
    o.keys.push_back(r.count[static_cast<std::size_t>(i)]);
  }
  o.rank.assign(mean.size(), 0);
  for (int i = 0; i < std::min(room, heads * ((tile.rows + step - 1) / step)); ++i) {
    const std::int64_t at = tile.q + tile.rows - 1 - i / heads * step;
    std::vector<double> q;
    for (std::int64_t e = 0; e < r.c.d; ++e)
      q.push_back(data.q.get(b, head + i % heads, at, e) * p.scale);
    std::vector<double> of_group, all;  // logarithms
    for (std::size_t j = 0; j < mean.size(); ++j) {
      of_group.push_back(std::inner_product(q.begin(), q.end(), mean[j].begin(), 0.0));
      if (o.keys[j] > 0) all.push_back(of_group.back() + std::log2(o.keys[j]));
    }
    const auto add = [&](std::int64_t key, double weight) {
      double sum = std::log2(weight);
      for (std::int64_t e = 0; e < r.c.d; ++e)
        sum += q[static_cast<std::size_t>(e)] * data.k.get(b, kv, key, e);
      all.push_back(sum);
    };
    for (std::int64_t j = 0; j < layout.sinks; ++j) add(j, 1);
    for (std::int64_t j = layout.window; j < std::min(end(0), layout.end); j += 8) add(j, 8);
    if (std::isnan(all[0])) {  // has no say
      o.total.push_back(INFINITY);
      continue;
    }
    const double top = *std::max_element(all.begin(), all.end());
    double sum = 0;
    for (const double a : all) sum += std::exp2(a - top);
    o.total.push_back(top + std::log2(sum));
    for (std::size_t j = 0; j < mean.size(); ++j)
      o.rank[j] += std::exp2(of_group[j] - o.total.back());
  }
  for (double& share : o.rank) share = std::log2(share / static_cast<double>(o.total.size()));
  return o;
}

// Totals and ranks of every tile are those of float64.
void expect_opinions(const Routed& r, const Data& data) {
  const cuda::Route& route = r.route();
  const int tiles = r.call.plan.tiles, lists = r.call.plan.lists;
  const auto pairs = std::int64_t{tiles} * lists;
  const auto code = fetch(route.code, pairs * route.groups);
  const auto total = fetch(route.total, pairs * route.columns);
  for (int t = 0; t < tiles; ++t)
    for (int list = 0; list < lists && r.tiles[static_cast<std::size_t>(t)].rows > 0; ++list) {
      SCOPED_TRACE(testing::Message() << "tile " << t << ", list " << list);
      const Opinion want = opinion_of(r, data, t, list);
      ASSERT_FALSE(want.rank.empty());
      const auto at = static_cast<std::size_t>(list * tiles + t);
      for (std::size_t i = 0; i < want.total.size(); ++i) {
        const double got = total[at * static_cast<std::size_t>(route.columns) + i];
        if (std::isinf(want.total[i]))
          ASSERT_EQ(got, want.total[i]) << i;
        else
          ASSERT_NEAR(got, want.total[i], 0.01) << i;
      }
      for (std::size_t j = 0; j < want.rank.size(); ++j) {
        const std::uint32_t got = code[at * static_cast<std::size_t>(route.groups) + j];
        ASSERT_EQ(got & 0xffff, static_cast<std::uint32_t>(want.keys[j])) << j;
        if (want.keys[j] > 0)
          ASSERT_NEAR(got >> 16, std::clamp((want.rank[j] + 96) * 512, 1.0, 65535.0), 8) << j;
      }
    }
}

// One to sixteen groups a segment, heads apart or together, few rows and many, scores upside down.
TEST_P(CudaGroups, AreRankedByTheirShares) {
  struct Shape {
    std::int64_t n_q, n_kv, d, group = 32;
    bool together = true, causal = true;
    double scale = 0;
    DType type = DType::kBF16;
    std::int64_t batch = 2, heads = 4;
  };
  constexpr bool kApart = false, kFull = false;
  for (const Shape& s : {Shape{300, 20000, 64, 32, kApart},
                         {300, 5000, 64},
                         {1100, 5000, 128, 32, kApart},
                         {300, 20000, 128, 40, kApart},
                         {300, 20000, 128, 32, true, true, 0, DType::kF16},
                         {300, 5000, 128, 40, kApart, true, -0.05},
                         {300, 5000, 128, 32, true, true, -0.05},
                         {1100, 9000, 80, 128, kApart, true, 0, DType::kF16},
                         {200, 20000, 128, 512, kApart, kFull},
                         {5, 9000, 96, 64},
                         {1, 9000, 128, 32, kApart, true, 0, DType::kBF16, 9},
                         {200, 5000, 64, 32, true, true, 0, DType::kBF16, 1, 14},
                         {200, 5000, 128, 32, true, true, 0, DType::kBF16, 1, 14},
                         {40, 3000, 256, 32, kApart}}) {
    SCOPED_TRACE(testing::Message()
                 << s.batch << " x " << s.heads << " heads, " << s.n_q << " of " << s.n_kv << ", d "
                 << s.d << ", groups of " << s.group << ", together " << s.together << ", causal "
                 << s.causal << ", scale " << s.scale << to_string(s.type));
    Case shape = gpu_case(s.batch, s.heads, 2, s.n_q, s.n_kv, s.d, s.d);
    shape.q_type = shape.kv_type = shape.o_type = s.type;
    shape.causal = s.causal;
    if (s.scale != 0) shape.scale = s.scale;
    Data data(shape);
    cluster_keys(data, 5);
    Options o = routed(1000);
    o.index.group = s.group;
    o.plan.heads_together = s.together;
    const Routed r(data, o);
    EXPECT_EQ(r.call.problem.scale < 0, s.scale < 0);
    expect_opinions(r, data);
  }
}

// The mean of a group without keys is 0, which may be above all scores. A query with NaN has no
// say.
TEST_P(CudaGroups, NeitherEmptyOnesNorNanHaveASay) {
  for (const std::int64_t d : {64, 128})
    for (const bool together : {false, true}) {
      SCOPED_TRACE(testing::Message() << "d " << d << ", together " << together);
      Data data(gpu_case(1, 4, 2, 200, 5000, d, d));
      for (std::int64_t h = 0; h < 2; ++h)
        for (std::int64_t i = 0; i < 5000; ++i) {
          if (i / 512 == 3) data.k.fill_row(0, h, i, 0.5);  // one cluster
          data.k.set(0, h, i, 0, 20);
        }
      for (std::int64_t h = 0; h < 4; ++h)
        for (std::int64_t i = 0; i < 200; ++i) data.q.set(0, h, i, 0, -40 * std::sqrt(d / 64.0));
      data.q.set(0, 1, 199, 5, NAN);
      Options o = routed(1000);
      o.plan.heads_together = together;
      const Routed r(data, o);
      expect_opinions(r, data);
    }
}

}  // namespace
}  // namespace prescore::test
