#include <algorithm>
#include <cmath>
#include <limits>
#include <memory>
#include <vector>

#include "prescore/attend.h"

namespace prescore {
namespace {

// Natural logarithm of the sum of exp(score) over what is read: `run` attends with the first column
// of K in V's place into an o of one column.
template <typename Run>
std::vector<float> log_sums(const AttendInputs& in, Run&& run) {
  const auto [b, h, n, d] = in.q.shape;
  std::vector<float> o(static_cast<std::size_t>(b * h * n)), lse(o.size());
  const MutTensor to{o.data(), DType::kF32, {b, h, n, 1}, {h * n, n, 1, 1}};
  AttendInputs narrow = in;
  narrow.v = in.k;
  narrow.v.shape[3] = 1;
  run(narrow, State{to, lse.data()});
  return lse;
}

}  // namespace

void captured_mass(const AttendInputs& in, const Plan& plan, float* mass, Executor& executor) {
  Plan keys = plan;
  for (TilePlan& reads : keys.reads) {
    reads.nodes.clear(), reads.log_weights.clear(), reads.packed.clear();
    reads.zero_rows = 0;
  }
  const auto part = log_sums(in, [&](const AttendInputs& narrow, const State& out) {
    attend(narrow, keys, out, executor);
  });
  PlanInputs all{in.q, in.k, in.visibility, in.scale};
  const std::unique_ptr<Planner> dense = make_dense_planner(all, {});
  const auto whole = log_sums(in, [&](const AttendInputs& narrow, const State& out) {
    attend(narrow, *dense, out, executor);
  });
  for (std::size_t i = 0; i < whole.size(); ++i)
    mass[i] = whole[i] == -std::numeric_limits<float>::infinity()
                  ? 1.0f
                  : std::min(1.0f, std::exp(part[i] - whole[i]));
}

}  // namespace prescore
