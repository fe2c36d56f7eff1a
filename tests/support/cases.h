// One case struct for all tests of attention: inputs, outputs, the oracle and the error budget.
#pragma once

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <vector>

#include "prescore/attention.h"
#include "reference/reference.h"
#include "support/storage.h"

namespace prescore::test {

struct Case {
  std::int64_t b = 1, h_q = 1, h_kv = 1, n_q = 1, n_kv = 1, d = 16, d_v = 16;
  DType q_type = DType::kF32, kv_type = DType::kF32, o_type = DType::kF32;
  Order order = Order::kDense;
  bool causal = true;
  Compute compute = Compute::kAuto;
  double peak = 1;   ///< deviation of the queries: large ones make peaked softmax
  double scale = 0;  ///< 0: 1 / sqrt(d)
  std::uint64_t seed = 1;
  double parts = 1;  ///< results that go on from each other: each rounds o and lse once more
};
std::ostream& operator<<(std::ostream&, const Case&);
std::string to_string(DType);
std::string to_string(Method);

/// Inputs filled with random numbers, and room for a result.
struct Data {
  explicit Data(const Case& c);
  Case shape;
  Storage q, k, v, o;
  Storage lse;  ///< [b, h_q, n_q, 1], so that it has sentinels too

  State state() { return {o.out(), static_cast<float*>(lse.out().data)}; }
  Visibility visibility() const;
  float scale() const;
  AttendInputs inputs() const;
  PlanInputs plan_inputs(int workers = 1) const;
  reference::Problem problem() const;
};

/// Whether the kernels may round Q, K, V and the weights to bf16 for this case.
bool uses_bf16(const Case&);

/// What each row reads: one of the reference's for_each_row.
using VisitRows = std::function<void(const reference::Problem&, const reference::VisitRow&)>;

/// Outputs within the error budget of FlashAttention-3's tests: row by row, at most twice the error
/// of a plain evaluation in the same precision, plus a floor of a few roundings; lse likewise.
void expect_near_oracle(Data&, const VisitRows& visit);
/// How many rows are outside; one line a row for the first three in `report`.
std::int64_t rows_outside_budget(Data&, const VisitRows& visit, std::string& report);
/// The same for dense attention, and for a plan.
void expect_near_dense(Data&);
void expect_near_plan(Data&, const Plan&, const KeyIndex* index = nullptr);
/// Nothing outside outputs was written.
void expect_sentinels(const Data&);

/// Plan and output of one method over the whole case, with its own index or scores.
struct Planned {
  Plan plan;
  std::shared_ptr<const Planner> planner;  // tiles may point into it
  std::int64_t tile = 0;
};
Planned plan_all(const Data&, const PlanOptions&, const KeyIndex* index,
                 const std::vector<float>* scores = nullptr);

/// Scores for the top-k planner that know no later keys: one level, any numbers.
std::vector<float> random_scores(const Case&, std::uint64_t seed);

/// Options small enough for test shapes.
PlanOptions small_plan(Method, std::int64_t budget);
IndexOptions small_index();

}  // namespace prescore::test
