// Inputs that break kernels: peaks, ties, nothing to read, NaN and Inf, extreme numbers, masks.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "common/views.h"
#include "support/cases.h"

namespace prescore::test {
namespace {

constexpr double kNaN = std::numeric_limits<double>::quiet_NaN();
constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

void run_dense(Data& data) {
  const auto planner = make_dense_planner(data.plan_inputs(), {});
  attend(data.inputs(), *planner, data.state(), *make_serial_executor());
}

Case small(DType type) {
  Case c;
  c.h_q = 4, c.h_kv = 2, c.n_q = 33, c.n_kv = 140, c.d = 32, c.d_v = 32;
  c.kv_type = type;
  return c;
}

TEST(AttendEdge, PeakedSoftmax) {
  for (const DType type : kTypes) {
    for (const double peak : {10.0, 100.0, 1000.0}) {
      Case c = small(type);
      c.peak = peak;
      Data data(c);
      run_dense(data);
      expect_near_dense(data);
    }
  }
}

// The maximum rises with every key, so every block rescales what came before; and the reverse.
TEST(AttendEdge, RisingAndFallingScores) {
  for (const DType type : kTypes) {
    for (const int sign : {1, -1}) {
      Data data(small(type));
      for (std::int64_t h = 0; h < 4; ++h) {
        for (std::int64_t i = 0; i < data.shape.n_q; ++i) {
          data.q.fill_row(0, h, i, 0);
          data.q.set(0, h, i, 0, 8);
        }
      }
      for (std::int64_t h = 0; h < 2; ++h) {
        for (std::int64_t j = 0; j < data.shape.n_kv; ++j) {
          data.k.set(0, h, j, 0, static_cast<double>(sign * j));
        }
      }
      run_dense(data);
      expect_near_dense(data);
    }
  }
}

TEST(AttendEdge, TiesAverageTheValues) {
  for (const DType type : kTypes) {
    Data data(small(type));
    for (std::int64_t h = 0; h < 2; ++h) {
      for (std::int64_t j = 0; j < data.shape.n_kv; ++j) {
        data.k.fill_row(0, h, j, 0.5);
        data.v.fill_row(0, h, j, j % 2 == 0 ? 1 : -1);
      }
    }
    run_dense(data);
    expect_near_dense(data);
    for (std::int64_t i = 0; i < data.shape.n_q; ++i) {
      const auto n = static_cast<double>(data.visibility().end(i));
      const double want = std::fmod(n, 2) == 0 ? 0 : 1 / n;
      EXPECT_NEAR(data.o.get(0, 3, i, 31), want, type == DType::kF32 ? 1e-6 : 4e-3);
    }
  }
}

TEST(AttendEdge, RowsThatSeeNothing) {
  for (const DType type : kTypes) {
    for (const std::int64_t n_kv : {1, 5, 20}) {  // fewer keys than queries: the first see none
      Case c = small(type);
      c.n_kv = n_kv;
      Data data(c);
      run_dense(data);
      expect_near_dense(data);
      EXPECT_EQ(data.lse.get(0, 0, 0, 0), -kInf);
      EXPECT_EQ(data.lse.get(0, 0, 32 - n_kv, 0), -kInf);
      EXPECT_TRUE(std::isfinite(data.lse.get(0, 0, 33 - n_kv, 0)));
    }
  }
}

TEST(AttendEdge, PositionsOfQueries) {
  Data data(small(DType::kF16));
  std::vector<std::int32_t> positions;
  for (std::int32_t i = 0; i < 33; ++i) positions.push_back(i < 3 ? -1 : 4 * i + (i > 20 ? 5 : 0));
  PlanInputs in = data.plan_inputs();
  in.visibility.positions = positions;
  AttendInputs attend_in = data.inputs();
  attend_in.visibility.positions = positions;
  const auto planner = make_dense_planner(in, {});
  attend(attend_in, *planner, data.state(), *make_serial_executor());
  expect_near_oracle(data, [&](reference::Problem p, const reference::VisitRow& visit) {
    p.visibility.positions = positions;
    reference::for_each_row(p, visit);
  });
}

TEST(AttendEdge, AdditiveMask) {
  for (const DType type : kTypes) {
    for (const std::int64_t n_q : {1, 33}) {
      Case c = small(type);
      c.b = 2, c.n_q = n_q, c.causal = false;
      Data data(c);
      std::mt19937_64 random(5);
      std::uniform_int_distribution<int> draw(0, 3);
      const std::int64_t stride = c.n_kv + 3;
      std::vector<std::uint16_t> mask(static_cast<std::size_t>(2 * n_q * stride), 0x7e00);  // NaN
      for (std::int64_t row = 0; row < 2 * n_q; ++row) {
        for (std::int64_t j = 0; j < c.n_kv; ++j) {
          const int x = row == n_q / 2 ? 0 : draw(random);  // one row hides everything
          mask[static_cast<std::size_t>(row * stride + j)] =
              f32_to_f16(x == 0 ? -INFINITY : static_cast<float>(x) - 2);
        }
      }
      Visibility visibility = data.visibility();
      visibility.mask = mask.data();
      visibility.mask_stride = stride;
      visibility.mask_batch_stride = n_q * stride;
      PlanInputs in = data.plan_inputs();
      in.visibility = visibility;
      AttendInputs attend_in = data.inputs();
      attend_in.visibility = visibility;
      const auto planner = make_dense_planner(in, {});
      attend(attend_in, *planner, data.state(), *make_serial_executor());
      expect_near_oracle(data, [&](reference::Problem p, const reference::VisitRow& visit) {
        p.visibility = visibility;
        reference::for_each_row(p, visit);
      });
    }
  }
}

// A bad number may spoil what reads it, never another head or batch entry, and never hangs.
TEST(AttendEdge, NaNAndInfStayInTheirHead) {
  for (const DType type : kTypes) {
    for (const double bad : {kNaN, kInf, -kInf}) {
      for (const char where : {'q', 'k', 'v'}) {
        Case c = small(type);
        c.b = 2, c.q_type = type;
        Data clean(c), dirty(c);
        if (where == 'q') dirty.q.set(0, 1, 7, 3, bad);
        if (where == 'k') dirty.k.set(0, 0, 7, 3, bad);
        if (where == 'v') dirty.v.fill_row(0, 0, 7, bad);
        run_dense(clean);
        run_dense(dirty);
        SCOPED_TRACE(testing::Message() << where << ' ' << bad << ' ' << c);
        for (std::int64_t b = 0; b < 2; ++b) {
          for (std::int64_t h = 0; h < 4; ++h) {
            const bool hit = b == 0 && (where == 'q' ? h == 1 : h < 2);
            for (std::int64_t i = 0; i < c.n_q; ++i) {
              if (hit && (where != 'q' || i == 7)) continue;
              EXPECT_TRUE(clean.o.same_row(dirty.o, b, h, i)) << b << ' ' << h << ' ' << i;
              EXPECT_TRUE(clean.lse.same_row(dirty.lse, b, h, i)) << b << ' ' << h << ' ' << i;
            }
          }
        }
        if (std::isnan(bad)) {  // and the one who reads it is told
          EXPECT_TRUE(std::isnan(dirty.o.get(0, 1, 7, 3)));
        }
        expect_sentinels(dirty);
      }
    }
  }
}

// A key later than a query may be anything, as in a cache whose end is not written yet.
TEST(AttendEdge, UnseenKeysMayBeNaN) {
  for (const DType type : kTypes) {
    for (const std::int64_t n_q : {1, 33}) {
      Case c = small(type);
      c.n_q = n_q;
      Data clean(c), dirty(c);
      std::vector<std::int32_t> positions;
      for (std::int64_t i = 0; i < n_q; ++i) positions.push_back(static_cast<std::int32_t>(40 + i));
      for (std::int64_t h = 0; h < 2; ++h) {
        for (std::int64_t j = 40 + n_q; j < c.n_kv; ++j) {
          dirty.k.fill_row(0, h, j, kNaN);
          dirty.v.fill_row(0, h, j, kNaN);
        }
      }
      for (Data* data : {&clean, &dirty}) {
        PlanInputs in = data->plan_inputs();
        AttendInputs attend_in = data->inputs();
        in.visibility.positions = attend_in.visibility.positions = positions;
        const auto planner = make_dense_planner(in, {});
        attend(attend_in, *planner, data->state(), *make_serial_executor());
      }
      EXPECT_TRUE(clean.o.same_bits(dirty.o)) << c;
      EXPECT_TRUE(clean.lse.same_bits(dirty.lse)) << c;
    }
  }
}

TEST(AttendEdge, KeysThatNobodyMaySeeAreNeverRead) {
  Case c = small(DType::kF16);
  Data data(c);
  AttendInputs in = data.inputs();
  in.visibility.n_kv = 100;  // the cache is longer than what counts
  PlanInputs plan_in = data.plan_inputs();
  plan_in.visibility.n_kv = 100;
  for (std::int64_t h = 0; h < 2; ++h) {
    for (std::int64_t j = 100; j < c.n_kv; ++j) data.v.fill_row(0, h, j, kNaN);
  }
  const auto planner = make_dense_planner(plan_in, {});
  attend(in, *planner, data.state(), *make_serial_executor());
  expect_near_oracle(data, [](reference::Problem p, const reference::VisitRow& visit) {
    p.visibility.n_kv = 100;
    reference::for_each_row(p, visit);
  });
}

TEST(AttendEdge, ExtremeScales) {
  for (const double scale : {-0.3, 1e-6, 30.0}) {
    for (const std::int64_t n_q : {1, 33}) {
      Case c = small(DType::kF32);
      c.n_q = n_q, c.scale = scale;
      Data data(c);
      run_dense(data);
      expect_near_dense(data);
    }
  }
}

TEST(AttendEdge, BroadcastKeysHaveStrideZero) {
  Case c = small(DType::kF16);
  Data data(c), wide(c);
  for (std::int64_t h = 0; h < 2; ++h) {
    for (std::int64_t j = 0; j < c.n_kv; ++j) {
      for (std::int64_t x = 0; x < c.d; ++x) wide.k.set(0, h, j, x, data.k.get(0, 0, j, x));
    }
  }
  AttendInputs in = data.inputs();
  in.k.stride[1] = 0;
  PlanInputs plan_in = data.plan_inputs();
  plan_in.k = in.k;
  const auto planner = make_dense_planner(plan_in, {});
  attend(in, *planner, data.state(), *make_serial_executor());
  run_dense(wide);
  EXPECT_TRUE(data.o.same_bits(wide.o));
}

}  // namespace
}  // namespace prescore::test
