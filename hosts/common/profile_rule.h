// Which heads copy, and so need every key: from scores on random tokens given twice.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/profile.h"
#include "prescore/types.h"

namespace prescore::host {

/// What heads look at in a text of random tokens that comes again, [layers, heads], shares of
/// their attention from 0 to 1, mean over the second copy. A head that copies stands out: random
/// tokens give no other reason to look far back. (Induction heads: 2209.11895.)
struct HeadScores {
  std::int64_t layers = 0, heads = 0;
  std::vector<double> duplicate;  ///< to the same token in the first copy
  std::vector<double> induction;  ///< to the token that followed it there

  HeadScores() = default;
  HeadScores(std::int64_t layers, std::int64_t heads);
  /// Sum of both, for the mean over draws.
  HeadScores& operator+=(const HeadScores&);
  HeadScores& operator/=(double n);
};

/// Scores of one layer's heads, for one text: `first` tokens, then `period` random ones, then those
/// again or only the first of them, to the end. q [1, h, n, d] and k [1, h_kv, n, d] of all its
/// tokens; results [h].
void score_copying(const Tensor& q, const Tensor& k, float scale, std::int64_t first,
                   std::int64_t period, double* duplicate, double* induction);

/// Measured on three models (docs/experiments/heads.md).
struct RuleOptions {
  double duplicate = 0.25;  ///< heads with at least that much are dense
  double induction = 0.3;
  double most = 0.04;  ///< of all heads; the highest above their threshold first
  /// Prompts need dense heads in the first part of the layers only: states made behind them are
  /// read by few. Decoding needs them everywhere.
  double prompt_layers = 0.6;
  /// The heads of the first layer look at everything a little: they read many keys.
  bool first_layer = true;
};

struct CopyingHead {
  std::int64_t layer = 0, head = 0;
  double duplicate = 0, induction = 0;
};

/// The heads of the first `layers` layers (-1: of all) that the rule makes dense, clearest first.
std::vector<CopyingHead> copying_heads(const HeadScores&, const RuleOptions& = {},
                                       std::int64_t layers = -1);

/// A profile by the rule: copying heads dense, the first layer with many keys, all others as the
/// call says.
HeadProfile profile_by_rule(const ModelIdentity&, const HeadScores&, const RuleOptions& = {});

/// The rule in words, for HeadProfile::how.
std::string describe(const RuleOptions&);

}  // namespace prescore::host
