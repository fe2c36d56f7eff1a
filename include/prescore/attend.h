// Stage `attend`: one gather-flash kernel that executes any plan.
#pragma once

#include "prescore/executor.h"
#include "prescore/plan.h"
#include "prescore/types.h"

namespace prescore {

struct AttendInputs {
  Tensor q, k, v;
  Visibility visibility;
  float scale = 0;
  const KeyIndex* index = nullptr;  ///< for stand-ins
  Compute compute = Compute::kAuto;
};

/// Plans and attends tile by tile; no more plans exist at a time than there are workers.
/// Fills out.o and, unless null, out.lse. A planner of several parts needs an o in f32 and an lse:
/// each part goes on from what the parts before it left there.
Counters attend(const AttendInputs&, const Planner&, const State& out, Executor&);

/// Executes a plan made before (for looking at plans, and for tests).
Counters attend(const AttendInputs&, const Plan&, const State& out, Executor&);

/// mass [b, h_q, n_q] <- the share of each query's attention that falls on the keys of a plan, 1
/// where a query sees nothing: exp(lse over them - lse over all), at the price of dense attention.
/// Weights and stand-ins of the plan do not count. V is not looked at.
void captured_mass(const AttendInputs&, const Plan&, float* mass, Executor&);

/// All tiles of a planner.
Plan make_plan(const AttendInputs&, const Planner&, Executor&);

}  // namespace prescore
