// Stage `attend`: one gather-flash kernel that executes any plan.
#pragma once

#include "prescore/executor.h"
#include "prescore/plan.h"
#include "prescore/types.h"

namespace prescore {

/// Precision of the products. `kAuto` uses bf16 units (AMX, AVX512-BF16) for f16 and bf16 inputs and
/// f32 for f32 inputs; accumulation and softmax are always fp32.
enum class Compute : std::uint8_t { kAuto, kF32, kBF16 };

struct AttendInputs {
  Tensor q, k, v;
  Visibility visibility;
  float scale = 0;
  const KeyIndex* index = nullptr;  ///< for stand-ins
  Compute compute = Compute::kAuto;
};

/// Plans and attends tile by tile; no more plans exist at a time than there are workers.
/// Fills out.o and, unless null, out.lse.
Counters attend(const AttendInputs&, const Planner&, const State& out, Executor&);

/// Executes a plan made before (for looking at plans, and for tests).
Counters attend(const AttendInputs&, const Plan&, bool shared_by_group, const State& out,
                Executor&);

/// All tiles of a planner.
Plan make_plan(const AttendInputs&, const Planner&, Executor&);

}  // namespace prescore
