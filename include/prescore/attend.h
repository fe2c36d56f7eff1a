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
Counters attend(const AttendInputs&, const Plan&, bool shared_by_group, const State& out,
                Executor&);

/// All tiles of a planner.
Plan make_plan(const AttendInputs&, const Planner&, Executor&);

}  // namespace prescore
