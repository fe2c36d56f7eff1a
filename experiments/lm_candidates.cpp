#include "lm_candidates.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>

namespace prescore::experiments {
namespace {

const std::vector<Candidate>& default_candidates() {
  static const std::vector<Candidate> all = with_simple_methods({
      {"top-k k-means", "topk --key-score kmeans"},
      {"top-k k-means relative", "topk --key-score kmeans --cluster-score relative"},
      {"top-k k-means nearness", "topk --key-score kmeans --cluster-score nearness"},
      {"top-k k-means, pre-RoPE", "topk --key-score kmeans --pre-rope"},
      {"top-k k-medians", "topk --key-score kmedian"},
      {"top-k kernel k-means", "topk --key-score kernel_kmeans"},
      {"top-k kernel distance", "topk --key-score kernel_kmeans --kernel distance"},
      {"top-k leverage", "topk --key-score leverage"},
      {"top-k leverage, exact", "topk --key-score leverage --leverage exact"},
      {"top-k leverage, sketched", "topk --key-score leverage --leverage sketched"},
      {"top-k leverage, pre-RoPE", "topk --key-score leverage --pre-rope"},
      {"top-k universal set", "topk --key-score universal"},
      {"top-k expected", "topk --key-score expected"},
      {"top-k received", "topk --key-score received"},
      half_window_received(),
      {"half window, key difference", "topk --key-score keydiff --score-segment 64 --half-window"},
      {"half window, key difference, pre-RoPE",
       "topk --key-score keydiff --pre-rope --score-segment 64 --half-window"},
      {"half window, oracle", "topk --key-score oracle --score-segment 64 --half-window"},
      {"top-k oracle", "topk --key-score oracle"},
      {"HyperAttention", "hyper"},
      {"prescored Hyper, leverage", "prescored_hyper --key-score leverage"},
      {"prescored Hyper, k-means", "prescored_hyper --key-score kmeans"},
      {"prescored Hyper, received", "prescored_hyper --key-score received"},
      {"routed", "routed"},
      {"routed, exact to 4,096", "routed --dense-until 4096"},
      {"HyperAttention, exact to 4,096", "hyper --dense-until 4096"},
      {"prescored Hyper, leverage, exact to 4,096",
       "prescored_hyper --key-score leverage --dense-until 4096"},
      {"prescored Hyper, k-means, exact to 4,096",
       "prescored_hyper --key-score kmeans --dense-until 4096"},
  });
  return all;
}

}  // namespace

std::vector<Candidate> lm_candidates(bool quick) {
  if (!quick) return default_candidates();
  constexpr std::string_view kQuick[] = {
      "window", "top-k leverage", "top-k received", "HyperAttention", "prescored Hyper, leverage",
      "routed"};
  std::vector<Candidate> some;
  for (const Candidate& c : default_candidates())
    if (std::ranges::find(kQuick, c.name) != std::end(kQuick)) some.push_back(c);
  return some;
}

bool in_picture(std::string_view name) {
  constexpr std::string_view kDrawn[] = {"dense",
                                         "window",
                                         "top-k leverage",
                                         "top-k k-means",
                                         "top-k key difference",
                                         "top-k received",
                                         "top-k oracle",
                                         "half window, received",
                                         "HyperAttention",
                                         "prescored Hyper, leverage",
                                         "routed"};
  return std::ranges::find(kDrawn, name) != std::end(kDrawn);
}

const std::vector<Candidate>& lm_ablation() {
  static const std::vector<Candidate> all = [] {
    // Sizes of the published code, and its form: no sinks, no window, keys hashed as they are.
    const auto of = [](const std::string& method, int samples = 256) {
      return fmt::format(
          "{} --hyper-leaf 1024 --hyper-block 256 --hyper-samples {} --hyper-selected 2048", method,
          samples);
    };
    const std::string form = " --sinks 0 --window 1 --no-hyper-centred";
    const std::string leverage = of("prescored_hyper --key-score leverage");
    const std::string kmeans = of("prescored_hyper --key-score kmeans");
    const std::string norm = of("prescored_hyper --key-score norm");
    return std::vector<Candidate>{
        {"window", "window"},
        {"routed", "routed"},
        {"received", of("prescored_hyper --key-score received")},
        {"leverage", leverage},
        {"k-means", kmeans},
        {"norm", norm},
        {"no samples", of("prescored_hyper --key-score leverage", 0)},
        {"window 512, samples 128",
         of("prescored_hyper --key-score leverage", 128) + " --window 512"},
        {"not centred", leverage + " --no-hyper-centred"},
        {"not pre-scored", of("hyper")},
        {"no sinks, no window", leverage + " --sinks 0 --window 1"},
        {"paper's form", leverage + form},
        {"paper's form, k-means", kmeans + form},
        {"paper's form, norm", norm + form},
        {"paper's form, not pre-scored", of("hyper") + form},
        {"zeroed keys", leverage + " --flaw-zeroed"},
        {"samples repeat keys", leverage + " --flaw-repeats"},
        {"padding", leverage + " --flaw-padding"},
        {"zeroed keys, samples repeat", leverage + " --flaw-zeroed --flaw-repeats"},
        {"k-means of all heads", kmeans + " --flaw-flattened"},
        {"k-means seeded by distance", kmeans + " --flaw-distance-seeds"},
        {"near the published code", norm + form + " --flaw-zeroed --flaw-repeats"},
        {"exact to 4,096", leverage + " --dense-until 4096"},
    };
  }();
  return all;
}

Options ablated(Candidate c, std::int64_t budget, const cli::Model* model) {
  PublishedFlaws flaws;
  const std::pair<const char*, bool*> words[] = {{"--flaw-zeroed", &flaws.zeroed},
                                                 {"--flaw-repeats", &flaws.repeats},
                                                 {"--flaw-padding", &flaws.padding},
                                                 {"--flaw-flattened", &flaws.flattened},
                                                 {"--flaw-distance-seeds", &flaws.distance_seeds}};
  for (const auto& [word, on] : words) *on = take(c, word);
  Options o = options_of(c, budget, model);
  o.plan.flaws = flaws;
  return o;
}

}  // namespace prescore::experiments
