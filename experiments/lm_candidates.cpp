#include "lm_candidates.h"

#include <fmt/format.h>

#include <algorithm>
#include <iterator>
#include <string_view>

namespace prescore::experiments {
namespace {

const std::vector<Candidate>& default_candidates() {
  static const std::vector<Candidate> all = {
      {"window", "window"},
      {"top-k random", "topk --key-score random"},
      {"top-k norm", "topk --key-score norm"},
      {"top-k Gaussian norm", "topk --key-score gaussian_norm"},
      {"top-k value norm", "topk --key-score value_norm"},
      {"top-k key difference", "topk --key-score keydiff"},
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
      {"half window, received",
       "topk --key-score received --score-segment 64 --score-distance 64 --score-growth 1 "
       "--query-stride 2 --half-window"},
      {"top-k oracle", "topk --key-score oracle"},
      {"HyperAttention", "hyper"},
      {"prescored Hyper, leverage", "prescored_hyper --key-score leverage"},
      {"prescored Hyper, k-means", "prescored_hyper --key-score kmeans"},
      {"routed", "routed"},
      {"routed, exact to 4,096", "routed --dense-until 4096"},
      {"HyperAttention, exact to 4,096", "hyper --dense-until 4096"},
      {"prescored Hyper, leverage, exact to 4,096",
       "prescored_hyper --key-score leverage --dense-until 4096"},
      {"prescored Hyper, k-means, exact to 4,096",
       "prescored_hyper --key-score kmeans --dense-until 4096"},
  };
  return all;
}

// Takes a word out of the flags.
bool take(Candidate& c, const std::string& word) {
  const std::size_t at = c.flags.find(word);
  if (at == std::string::npos) return false;
  c.flags.erase(at, word.size());
  return true;
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

const std::vector<Candidate>& lm_ablation() {
  static const std::vector<Candidate> all = {
      {"window", "window"},
      {"no flaw, leverage", "prescored_hyper --key-score leverage"},
      {"zeroed keys", "prescored_hyper --key-score leverage --flaw-zeroed"},
      {"samples repeat keys", "prescored_hyper --key-score leverage --flaw-repeats"},
      {"padding", "prescored_hyper --key-score leverage --flaw-padding"},
      {"zeroed keys, samples repeat",
       "prescored_hyper --key-score leverage --flaw-zeroed --flaw-repeats"},
      {"no flaw, k-means", "prescored_hyper --key-score kmeans"},
      {"k-means of all heads", "prescored_hyper --key-score kmeans --flaw-flattened"},
      {"k-means seeded by distance", "prescored_hyper --key-score kmeans --flaw-distance-seeds"},
      {"near the published code",
       "prescored_hyper --key-score norm --sinks 0 --window 1 --no-hyper-centred --flaw-zeroed "
       "--flaw-repeats"},
  };
  return all;
}

Candidate sized(Candidate c, std::int64_t budget) {
  if (take(c, "--half-window")) c.flags += fmt::format(" --window {}", budget / 2);
  if (take(c, "--three-quarter-window")) c.flags += fmt::format(" --window {}", budget * 3 / 4);
  if (take(c, "--quarter-window")) c.flags += fmt::format(" --window {}", budget / 4);
  return c;
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
