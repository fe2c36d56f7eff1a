// The one call: attention with any method.
#pragma once

#include <string>

#include "prescore/attend.h"
#include "prescore/index.h"
#include "prescore/merge.h"
#include "prescore/plan.h"
#include "prescore/score.h"

namespace prescore {

struct Options {
  PlanOptions plan;
  IndexOptions index;
  ScoreOptions score;
  Compute compute = Compute::kAuto;
  bool causal = true;
  float scale = 0;  ///< factor on q.k; 0: 1 / sqrt(d)
  int threads = 0;  ///< 0: all; ignored where an executor is given
};

/// What lives from call to call beside a KV cache. Both may be null; `scores` must have been made
/// with score_options().
struct Kept {
  KeyIndex* index = nullptr;
  KeyScores* scores = nullptr;
  Kept() = default;
  Kept(KeyIndex* i, KeyScores* s = nullptr) : index(i), scores(s) {}
};

/// Score options with the score and seed of the plan, which is what attention uses.
ScoreOptions score_options(const Options&);

/// What happened in a call.
struct Report {
  Choice choice;  ///< the method taken and, for `auto`, why
  Counters counters;
  std::string isa;  ///< kernel used, for example "amx-bf16"
};

/// softmax(scale q k^T) v over the keys that options.plan chooses.
/// q [b, h_q, n_q, d], k [b, h_kv, n_kv, d], v [b, h_kv, n_kv, d_v], out.o [b, h_q, n_q, d_v]; h_q
/// a multiple of h_kv; d and d_v from 1 to 512; dtypes of k and v equal. With options.causal query
/// i sees keys [0, n_kv - n_q + i]. Throws Error on anything else.
Report attention(const Tensor& q, const Tensor& k, const Tensor& v, const State& out,
                 const Options& options = {});
Report attention(const Tensor& q, const Tensor& k, const Tensor& v, const State& out,
                 const Options& options, Executor& executor);

/// The same with visibility given by the caller and an index and scores that live from call to call
/// (extended here where options.plan needs them).
Report attention(const Tensor& q, const Tensor& k, const Tensor& v, const Visibility&, Kept kept,
                 const State& out, const Options& options, Executor& executor);

/// Upper bound of the memory a call holds beyond inputs and outputs, index included, in bytes.
std::int64_t workspace_bytes(const Tensor& q, const Tensor& k, const Tensor& v, const Options&,
                             int threads);

/// "amx-bf16", "avx512-bf16", "avx512", "avx2", "neon" or "scalar": the kernel that would serve
/// `compute` with keys of `dtype` on this machine (PRESCORE_ISA= forces a lower one).
std::string_view isa_name(Compute compute, DType dtype);

}  // namespace prescore
