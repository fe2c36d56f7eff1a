// Every level of instructions that this machine has, against the oracle and against scalar.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "common/isa.h"
#include "support/cases.h"

namespace prescore::test {
namespace {

std::vector<std::string> levels() {
  std::vector<std::string> names;
  for (const Isa isa : available_isas()) names.emplace_back(name_of(isa));
  return names;
}

class IsaLevel : public testing::TestWithParam<std::string> {
 protected:
  void SetUp() override { set_isa_for_testing(GetParam().c_str()); }
  void TearDown() override { set_isa_for_testing(nullptr); }
};
INSTANTIATE_TEST_SUITE_P(Machine, IsaLevel, testing::ValuesIn(levels()), [](const auto& param) {
  std::string name = param.param;
  std::erase(name, '-');
  return name;
});

TEST_P(IsaLevel, DenseNearOracle) {
  for (const std::int64_t d : {1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 64, 80, 96, 128, 256, 320, 512}) {
    for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
      for (const std::int64_t n_q : {1, 35}) {
        Case c;
        c.h_q = 2, c.n_q = n_q, c.n_kv = 150, c.d = d, c.d_v = d + (d % 2 == 1 ? 3 : 0);
        c.kv_type = type, c.order = Order::kPadded;
        Data data(c);
        const auto planner = make_dense_planner(data.plan_inputs(), {});
        attend(data.inputs(), *planner, data.state(), *make_serial_executor());
        expect_near_dense(data);
      }
    }
  }
}

// In f32 a level may differ from scalar by roundings only, whatever the number of rows of a tile.
TEST_P(IsaLevel, EveryNumberOfLanesAndKeys) {
  for (std::int64_t n = 1; n <= 70; n += n < 20 ? 1 : 7) {
    Case c;
    c.n_q = n, c.n_kv = n + n / 2, c.d = 40, c.d_v = 24, c.compute = Compute::kF32;
    c.kv_type = DType::kF16;
    Data data(c);
    const auto planner = make_dense_planner(data.plan_inputs(), {});
    attend(data.inputs(), *planner, data.state(), *make_serial_executor());
    expect_near_dense(data);
  }
}

TEST_P(IsaLevel, RoutedNearOracle) {
  for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
    for (const Routing routing : {Routing::kTile, Routing::kStrict}) {
      Case c;
      c.h_q = 4, c.h_kv = 2, c.n_q = 70, c.n_kv = 700, c.d = 24, c.d_v = 40, c.kv_type = type;
      Data data(c);
      KeyIndex index(small_index());
      index.extend(data.k.view(), data.v.view(), *make_serial_executor());
      PlanOptions options = small_plan(Method::kRouted, 200);
      options.standins = StandIns::kNodes;
      options.routing = routing;
      const Planned planned = plan_all(data, options, &index);
      AttendInputs in = data.inputs();
      in.index = &index;
      attend(in, planned.plan, data.state(), *make_serial_executor());
      expect_near_plan(data, planned.plan, &index);
    }
  }
}

// Clusters differ between levels only where two centroids are equally near: the objective agrees.
TEST_P(IsaLevel, ClustersAsGoodAsScalar) {
  for (const DType type : {DType::kF32, DType::kF16}) {
    Case c;
    c.n_kv = 512, c.d = 33, c.kv_type = type;
    const Data data(c);
    const auto objective = [&] {
      KeyIndex index;
      index.extend(data.k.view(), data.v.view(), *make_serial_executor());
      const reference::Array keys = reference::load(data.k.view());
      std::vector<double> points;
      std::vector<std::int64_t> cluster;
      for (std::int64_t node = 0; node < index.nodes_per_segment(0); ++node) {
        for (const std::uint16_t j : index.members(0, 0, node)) {
          points.insert(points.end(), keys.row(0, 0, j), keys.row(0, 0, j) + c.d);
          cluster.push_back(node);
        }
      }
      return reference::kmeans_objective(points, c.d, cluster);
    };
    const double here = objective();
    set_isa_for_testing("scalar");
    const double scalar = objective();
    set_isa_for_testing(GetParam().c_str());
    EXPECT_NEAR(here, scalar, 0.01 * scalar);
  }
}

// A column of the keys times any factor: outputs are means of values, and weights do not vanish
// where the scores have a rounding error of hundreds.
TEST_P(IsaLevel, ExtremeNumbers) {
  for (const DType type : {DType::kF32, DType::kBF16}) {
    for (const double factor : {1e-30, 1e-10, 1e8, 1e9, 1e10, 1e11, 1e18}) {
      Case c;
      c.h_q = 4, c.h_kv = 2, c.n_q = 33, c.n_kv = 140, c.d = 32, c.d_v = 32, c.kv_type = type;
      Data data(c);
      for (std::int64_t h = 0; h < 2; ++h)
        for (std::int64_t j = 0; j < c.n_kv; ++j)
          data.k.set(0, h, j, 5, data.k.get(0, h, j, 5) * factor);
      const auto planner = make_dense_planner(data.plan_inputs(), {});
      attend(data.inputs(), *planner, data.state(), *make_serial_executor());
      for (std::int64_t h = 0; h < c.h_q; ++h) {
        for (std::int64_t i = 0; i < c.n_q; ++i) {
          for (std::int64_t x = 0; x < c.d_v; ++x)
            ASSERT_LE(std::abs(data.o.get(0, h, i, x)), 6.0) << factor << ' ' << i;
          ASSERT_TRUE(std::isfinite(data.lse.get(0, h, i, 0))) << factor << ' ' << i;
        }
      }
      if (factor < 1) expect_near_dense(data);
    }
  }
}

TEST(Isa, UnknownLevelIsAnError) {
  set_isa_for_testing("avx9000");
  try {
    static_cast<void>(isa_name(Compute::kAuto, DType::kF32));
    ADD_FAILURE() << "no error";
  } catch (const Error& e) {
    EXPECT_NE(std::string(e.what()).find("avx9000"), std::string::npos) << e.what();
    EXPECT_NE(std::string(e.what()).find("scalar"), std::string::npos) << e.what();
  }
  set_isa_for_testing(nullptr);
}

TEST(Isa, ScalarServesEverything) {
  set_isa_for_testing("scalar");
  for (const Compute compute : {Compute::kAuto, Compute::kF32, Compute::kBF16}) {
    for (const DType type : {DType::kF32, DType::kF16, DType::kBF16}) {
      EXPECT_EQ(isa_name(compute, type), "scalar");
    }
  }
  set_isa_for_testing(nullptr);
}

}  // namespace
}  // namespace prescore::test
