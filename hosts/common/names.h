// Settings as people write them: on the command line and in PRESCORE_* variables.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "prescore/score.h"

namespace prescore::host {

/// "auto", "dense", "window", "topk", "routed"
std::string_view name_of(Method);

/// The value called `text`. Throws Error naming `what` and all that it may be.
Method parse_method(std::string_view what, std::string_view text);
Routing parse_routing(std::string_view what, std::string_view text);    // tile, strict
StandIns parse_standins(std::string_view what, std::string_view text);  // none, auto, nodes
Score parse_score(std::string_view what, std::string_view text);
Selection parse_selection(std::string_view what, std::string_view text);
ClusterScore parse_cluster_score(std::string_view what, std::string_view text);
Leverage parse_leverage(std::string_view what, std::string_view text);
KernelKMeans parse_kernel(std::string_view what, std::string_view text);
Compute parse_compute(std::string_view what, std::string_view text);  // auto, f32, bf16

/// A whole number in [least, most]. Throws Error naming `what` and the range.
std::int64_t parse_count(std::string_view what, std::string_view text, std::int64_t least,
                         std::int64_t most);
/// The same check for a number that is one already.
void check_count(std::string_view what, std::int64_t value, std::int64_t least, std::int64_t most);

/// Most keys, tokens or threads that any setting may name.
constexpr std::int64_t kMostKeys = std::int64_t{1} << 31;
constexpr std::int64_t kMostThreads = 1024;

/// Throws Error where two plan options contradict each other (a tile that is no multiple of 16,
/// ...).
void check_plan(const PlanOptions&);

}  // namespace prescore::host
