// What the tests of scorers share.
#pragma once

#include <string>
#include <vector>

#include "support/cases.h"

namespace prescore::test {

/// Every score of keys alone, with every option that changes how it is computed.
inline std::vector<ScoreOptions> all_scores() {
  std::vector<ScoreOptions> all;
  const auto add = [&](Score score, auto&& change) {
    ScoreOptions o;
    o.score = score;
    change(o);
    all.push_back(o);
  };
  const auto plain = [](ScoreOptions&) {};
  const auto centred = [](ScoreOptions& o) { o.centred = true; };
  for (const Score s : {Score::kKeyNorm, Score::kGaussianNorm, Score::kUniversal})
    add(s, plain), add(s, centred);
  for (const Score s : {Score::kKeyDiff, Score::kRandom}) add(s, plain);
  for (const Leverage kind : {Leverage::kRidge, Leverage::kExact, Leverage::kSketched})
    for (const bool c : {false, true})
      add(Score::kLeverage, [&](ScoreOptions& o) { o.leverage = kind, o.centred = c; });
  add(Score::kLeverage, [](ScoreOptions& o) { o.ridge = 0; });
  for (const Score s : {Score::kKMeans, Score::kKMedian, Score::kKernelKMeans})
    for (const ClusterScore kind :
         {ClusterScore::kDistance, ClusterScore::kRelative, ClusterScore::kNearness})
      for (const KernelKMeans kernel : {KernelKMeans::kFeatures, KernelKMeans::kDistance})
        if (s == Score::kKernelKMeans || kernel == KernelKMeans::kFeatures)
          add(s, [&](ScoreOptions& o) {
            o.cluster_score = kind, o.kernel = kernel, o.iterations = 4;
          });
  return all;
}

inline std::string name(const ScoreOptions& o) {
  return "score " + std::to_string(static_cast<int>(o.score)) + ", leverage " +
         std::to_string(static_cast<int>(o.leverage)) + ", clusters scored " +
         std::to_string(static_cast<int>(o.cluster_score)) + ", centred " +
         std::to_string(o.centred);
}

inline std::vector<float> score(const Storage& k, std::int64_t n, const ScoreOptions& options,
                                Executor& executor) {
  std::vector<float> out(static_cast<std::size_t>(k.shape()[0] * k.shape()[1] * n), -99.0f);
  score_keys(k.view(), n, options, out.data(), executor);
  return out;
}
inline std::vector<float> score(const Storage& k, std::int64_t n, const ScoreOptions& options) {
  return score(k, n, options, *make_serial_executor());
}

inline std::vector<double> head(const Storage& k, std::int64_t b, std::int64_t h, std::int64_t n) {
  const reference::Array all = reference::load(k.view());
  return {all.row(b, h, 0), all.row(b, h, 0) + n * k.shape()[3]};
}

}  // namespace prescore::test
