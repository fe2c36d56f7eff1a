// The scorers: each learns something from the keys of one head and then scores any keys.
#pragma once

#include <cstdint>
#include <memory>

#include "prescore/score.h"
#include "score/head_keys.h"

namespace prescore {

/// What a score has learnt from the fitted keys of one head.
class FittedScore {
 public:
  virtual ~FittedScore() = default;
  /// out[i] for each key. A key's score does not depend on the others that are scored with it. What
  /// becomes of keys that are not finite is the caller's to say.
  virtual void apply(const HeadKeys& keys, float* out, Executor&) const = 0;
};

using Fitted = std::unique_ptr<FittedScore>;

Fitted fit_norm(const HeadKeys&, const ScoreOptions&, Executor&);
Fitted fit_gaussian_norm(const HeadKeys&, const ScoreOptions&, Executor&);
Fitted fit_difference(const HeadKeys&, const ScoreOptions&, Executor&);
Fitted fit_leverage(const HeadKeys&, const ScoreOptions&, std::uint64_t stream, Executor&);
Fitted fit_universal(const HeadKeys&, const ScoreOptions&, Executor&);
/// `stream` makes the draws of each head its own.
Fitted fit_kmeans(const HeadKeys&, const ScoreOptions&, std::uint64_t stream, Executor&);
Fitted fit_kmedian(const HeadKeys&, const ScoreOptions&, std::uint64_t stream, Executor&);
Fitted fit_kernel_kmeans(const HeadKeys&, const ScoreOptions&, std::uint64_t stream, Executor&);

/// The score of options.score, which must be one of keys alone and not kRandom.
Fitted fit_score(const HeadKeys&, const ScoreOptions&, std::uint64_t stream, Executor&);

/// Throws Error on options out of range.
void check_score_options(const ScoreOptions&);
/// The same for keys of head size d.
void check_rotation(const Rotation&, std::int64_t d);
/// What HeadKeys must undo for this score.
Rotation rotation_of(const ScoreOptions&);

/// Scores keys [begin, end) of head h of k into out[begin, end). A key that is not finite gets
/// +inf: it is read first, so that it shows in the output as it would in dense attention. `fitted`
/// is null for kRandom.
void apply_score(const FittedScore* fitted, const Tensor& k, std::int64_t b, std::int64_t h,
                 std::int64_t begin, std::int64_t end, const ScoreOptions&, float* out, Executor&);

/// Upper bound of what KeyScores holds over a cache of that shape, in bytes.
std::int64_t score_bytes(const ScoreOptions&, const Tensor& q, const Tensor& k, const Visibility&);

}  // namespace prescore
