// Which of the scored keys are read: the selection rules of top-k and prescored hyper.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/planners.h"

namespace prescore {

/// A key that may be read, best first in a list.
struct Choosable {
  std::int32_t key = 0;
  float score = 0;  ///< as given; Selection::kSample: its logarithm
  double rank = 0;  ///< what it is ordered by
};

/// The best keys of [begin, end) of one head in order, at most `most` (and, for kSample, one more
/// that says how high the bar was). By threshold or share fewer. A NaN comes last.
std::vector<Choosable> choose_keys(std::span<const float> scores, std::int64_t begin,
                                   std::int64_t end, std::int64_t most, const PlanOptions&,
                                   std::int64_t bh);

/// Whether drawn keys stand for those that were not drawn.
inline bool weighs_draws(const PlanOptions& o) {
  return o.selection == Selection::kSample && o.sample_weights;
}
/// Log-weight of a drawn key: minus the log of its chance to rank above `bar`, the rank of the best
/// key that was not drawn (-inf: all were).
float draw_log_weight(const Choosable&, double bar);
/// Log-weights of the first n of a kSample list.
void sample_log_weights(std::span<const Choosable> best, std::int64_t n, std::vector<float>& out);

}  // namespace prescore
