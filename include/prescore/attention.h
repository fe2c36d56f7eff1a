// The one call: attention with any method.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "prescore/attend.h"
#include "prescore/certificate.h"
#include "prescore/index.h"
#include "prescore/merge.h"
#include "prescore/plan.h"
#include "prescore/score.h"

namespace prescore {

/// For Device::kCuda. Work is enqueued on the stream and never waits for it: a call can be part of
/// a CUDA graph, and Report::counters stay zero unless `count` is set.
struct CudaOptions {
  void* stream = nullptr;  ///< cudaStream_t; null: the default stream
  /// Memory of workspace_bytes() on the device, aligned to 256 bytes, free again when the stream
  /// has passed the call; null: allocated and freed in stream order.
  void* workspace = nullptr;
  std::int64_t workspace_bytes = 0;
  /// Sequences of unlike lengths packed into one row axis (batch 1): sequence i has the queries
  /// [cu_seqlens_q[i], cu_seqlens_q[i + 1]) and the keys [cu_seqlens_k[i], cu_seqlens_k[i + 1]).
  /// Device pointers to `sequences` + 1 offsets that ascend from 0; null: the batch is regular.
  const std::int32_t* cu_seqlens_q = nullptr;
  const std::int32_t* cu_seqlens_k = nullptr;
  std::int64_t sequences = 0;
  /// Top-k and prescored hyper: scores of the keys, [b, h_kv, n_kv] f32 on the device, the larger
  /// the better, NaN last; null: plan.score, see attention(). A choice is strict if no score knows
  /// later keys.
  const float* scores = nullptr;
  bool count = false;  ///< wait for the result, count what was read, time the stages
};

struct Options {
  PlanOptions plan;
  IndexOptions index;
  ScoreOptions score;
  Compute compute = Compute::kAuto;
  bool causal = true;
  float scale = 0;  ///< factor on q.k; 0: 1 / sqrt(d)
  int threads = 0;  ///< 0: all; ignored where an executor is given
  CertifyOptions certify;
  Device device = Device::kCpu;
  CudaOptions cuda;
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
  /// By query head, where options.certify asks for samples.
  std::vector<HeadCertificate> heads;
};

/// A GPU that this build can use.
struct Gpu {
  std::string name;
  int major = 0, minor = 0;  ///< compute capability
  std::int64_t memory = 0;   ///< bytes
  int multiprocessors = 0;
};
/// Those of this machine; empty in a build without CUDA, or without a driver.
std::vector<Gpu> gpus();

/// softmax(scale q k^T) v over the keys that options.plan chooses.
/// q [b, h_q, n_q, d], k [b, h_kv, n_kv, d], v [b, h_kv, n_kv, d_v], out.o [b, h_q, n_q, d_v]; h_q
/// a multiple of h_kv; d and d_v from 1 to 512; dtypes of k and v equal. With options.causal query
/// i sees keys [0, n_kv - n_q + i]. Throws Error on anything else.
/// Device::kCuda: tensors, lse included, on the GPU; q, k, v and o all f16 or all bf16; d and d_v
/// multiples of 8 up to 256; rows aligned to 16 bytes; all methods, hyper without packed sequences
/// and with at most 10 projections and 8,192 samples a span; scores: norms, random, your own, and,
/// not causal, leverage (d up to 128) or k-means (64 clusters at most) of up to 4,096 keys.
Report attention(const Tensor& q, const Tensor& k, const Tensor& v, const State& out,
                 const Options& options = {});
Report attention(const Tensor& q, const Tensor& k, const Tensor& v, const State& out,
                 const Options& options, Executor& executor);

/// The same with visibility given by the caller and an index and scores that live from call to call
/// (extended here where options.plan needs them).
Report attention(const Tensor& q, const Tensor& k, const Tensor& v, const Visibility&, Kept kept,
                 const State& out, const Options& options, Executor& executor);

/// A call before it attends: the method is chosen, the index and the scores are up to date. Holds
/// those that the caller did not keep; the views and kept parts of the caller must outlive it.
struct Prepared {
  AttendInputs in;
  Choice choice;
  double index_s = 0;  ///< seconds that the index or the scores took
  std::unique_ptr<KeyIndex> index;
  std::unique_ptr<KeyScores> scores;
  std::unique_ptr<Planner> planner;
};

/// What attention() does first; make_plan(call.in, *call.planner, executor) then shows what it
/// would read. Throws Error as attention() does. Device::kCpu only.
Prepared prepare(const Tensor& q, const Tensor& k, const Tensor& v, const Visibility&, Kept kept,
                 const Options& options, Executor& executor);

/// Upper bound of the memory a call holds beyond inputs and outputs, index included, in bytes.
std::int64_t workspace_bytes(const Tensor& q, const Tensor& k, const Tensor& v, const Options&,
                             int threads);

/// "amx-bf16", "avx512-bf16", "avx512", "avx2", "neon" or "scalar": the kernel that would serve
/// `compute` with keys of `dtype` on this machine (PRESCORE_ISA= forces a lower one).
std::string_view isa_name(Compute compute, DType dtype);

}  // namespace prescore
