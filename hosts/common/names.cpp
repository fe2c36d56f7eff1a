#include "common/names.h"

#include <charconv>
#include <span>

#include "plan/planners.h"

namespace prescore::host {
namespace {

template <typename T>
struct Name {
  T value;
  std::string_view name;
};

constexpr Name<Method> kMethods[] = {{Method::kAuto, "auto"},
                                     {Method::kDense, "dense"},
                                     {Method::kWindow, "window"},
                                     {Method::kTopK, "topk"},
                                     {Method::kRouted, "routed"},
                                     {Method::kHyper, "hyper"},
                                     {Method::kPrescoredHyper, "prescored_hyper"}};
constexpr Name<Routing> kRoutings[] = {{Routing::kTile, "tile"}, {Routing::kStrict, "strict"}};
constexpr Name<StandIns> kStandIns[] = {
    {StandIns::kNone, "none"}, {StandIns::kAuto, "auto"}, {StandIns::kNodes, "nodes"}};
constexpr Name<Score> kScores[] = {{Score::kKeyNorm, "norm"},
                                   {Score::kLeverage, "leverage"},
                                   {Score::kKMeans, "kmeans"},
                                   {Score::kKeyDiff, "keydiff"},
                                   {Score::kRandom, "random"},
                                   {Score::kKMedian, "kmedian"},
                                   {Score::kKernelKMeans, "kernel_kmeans"},
                                   {Score::kGaussianNorm, "gaussian_norm"},
                                   {Score::kUniversal, "universal"},
                                   {Score::kExpected, "expected"},
                                   {Score::kReceived, "received"},
                                   {Score::kValueNorm, "value_norm"},
                                   {Score::kOracle, "oracle"}};

constexpr Name<Selection> kSelections[] = {{Selection::kTopK, "top"},
                                           {Selection::kThreshold, "threshold"},
                                           {Selection::kShare, "share"},
                                           {Selection::kSample, "sample"}};
constexpr Name<ClusterScore> kClusterScores[] = {{ClusterScore::kDistance, "distance"},
                                                 {ClusterScore::kRelative, "relative"},
                                                 {ClusterScore::kNearness, "nearness"}};
constexpr Name<Leverage> kLeverages[] = {
    {Leverage::kRidge, "ridge"}, {Leverage::kExact, "exact"}, {Leverage::kSketched, "sketched"}};
constexpr Name<KernelKMeans> kKernels[] = {{KernelKMeans::kFeatures, "features"},
                                           {KernelKMeans::kDistance, "distance"}};
constexpr Name<Compute> kComputes[] = {
    {Compute::kAuto, "auto"}, {Compute::kF32, "f32"}, {Compute::kBF16, "bf16"}};

[[noreturn]] void refuse(std::string_view what, std::string_view got, const std::string& want) {
  throw Error(std::string(what) + ", got \"" + std::string(got) + "\", want " + want);
}

template <typename T, std::size_t n>
T parse(std::string_view what, std::string_view text, const Name<T> (&names)[n]) {
  std::string known;
  for (const Name<T>& entry : names) {
    if (entry.name == text) return entry.value;
    known.append(known.empty() ? "" : ", ").append(entry.name);
  }
  refuse(what, text, "one of " + known);
}

std::string range(std::int64_t least, std::int64_t most) {
  return "a whole number from " + std::to_string(least) + " to " + std::to_string(most);
}

}  // namespace

std::string_view name_of(Method method) {
  for (const auto& entry : kMethods)
    if (entry.value == method) return entry.name;
  return "unknown";
}

Method parse_method(std::string_view what, std::string_view text) {
  return parse(what, text, kMethods);
}
Routing parse_routing(std::string_view what, std::string_view text) {
  return parse(what, text, kRoutings);
}
StandIns parse_standins(std::string_view what, std::string_view text) {
  return parse(what, text, kStandIns);
}
Score parse_score(std::string_view what, std::string_view text) {
  return parse(what, text, kScores);
}
Selection parse_selection(std::string_view what, std::string_view text) {
  return parse(what, text, kSelections);
}
ClusterScore parse_cluster_score(std::string_view what, std::string_view text) {
  return parse(what, text, kClusterScores);
}
Leverage parse_leverage(std::string_view what, std::string_view text) {
  return parse(what, text, kLeverages);
}
KernelKMeans parse_kernel(std::string_view what, std::string_view text) {
  return parse(what, text, kKernels);
}
Compute parse_compute(std::string_view what, std::string_view text) {
  return parse(what, text, kComputes);
}

std::int64_t parse_count(std::string_view what, std::string_view text, std::int64_t least,
                         std::int64_t most) {
  std::int64_t value = 0;
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc{} || stop != end || value < least || value > most)
    refuse(what, text, range(least, most));
  return value;
}

void check_count(std::string_view what, std::int64_t value, std::int64_t least, std::int64_t most) {
  if (value < least || value > most) refuse(what, std::to_string(value), range(least, most));
}

void check_plan(const PlanOptions& plan) {
  check_count("budget", plan.budget, 1, kMostKeys);
  check_count("window", plan.window, 0, kMostKeys);
  check_count("sinks", plan.sinks, 0, kMostKeys);
  check_count("open groups", plan.open_groups, 0, kMostKeys);
  check_count("open segments", plan.open_segments, 0, kMostKeys);
  check_count("route stride", plan.route_stride, 1, kMostKeys);
  check_hyper_options(plan.hyper);
  if (plan.tile < 16 || plan.tile > 4096 || plan.tile % 16 != 0)
    refuse("tile", std::to_string(plan.tile), "a multiple of 16 from 16 to 4096");
}

}  // namespace prescore::host
