// One call on the GPU, before anything is enqueued: what was asked, and where its arrays lie.
#pragma once

#include <vector>

#include "attend/certificate_cuda.cuh"
#include "common/arena.cuh"
#include "plan/hyper_cuda.cuh"
#include "prescore/attention.h"

namespace prescore::cuda {

/// Lists that are planned by one method with one budget: [first, first + lists).
struct ListClass {
  Method method = Method::kDense;
  LayoutRule rule{};
  Route route{};
  int first = 0, lists = 0, capacity = 0;
  bool alone = false;  // routed: every head for itself
};
/// Lists whose plans exist at a time, and how many heads they have.
struct Wave {
  int first = 0, lists = 0, units = 0;
};

struct Call {
  Problem problem{};  // without outputs
  Choice choice;
  DType dtype = DType::kF16;
  std::int64_t sinks = 0;  // of the index, where some heads are routed
  std::vector<ListClass> classes;
  std::vector<Wave> waves;
  std::vector<ListInfo> lists;        // as on the device
  std::vector<std::int32_t> head_of;  // by unit
  IndexView index{};
  PlanView plan{};   // of the largest run of tiles; the first wave
  Hyper hyper;       // where the method is one of its two
  PlanView lanes{};  // its buckets, of one wave
  std::vector<ListInfo> bucket_lists;
  Certificate certificate;
  float* own_lse = nullptr;
  SegmentInfo* segment = nullptr;
  TileInfo* tile = nullptr;
  int tiles = 0;                          // all of them
  ScoreOptions score;                     // of own_scores
  bool sampled = false;                   // drawn in proportion to them
  const float* scores = nullptr;          // the caller's
  float* own_scores = nullptr;            // or ours
  unsigned long long* counter = nullptr;  // queries, visible keys, keys, stand-ins

  const float* key_scores() const { return scores != nullptr ? scores : own_scores; }
};

/// Checks everything but the outputs. Throws Error.
Call prepare(const Tensor& q, const Tensor& k, const Tensor& v, const Options&);

/// Fills in the arrays. An arena that only counts sizes the workspace by the same code.
void lay_out(const Options&, Arena&, Call&);

/// Pointer, head size and strides of a tensor that kernels touch 16 bytes at a time.
void check_rows(const Tensor&, const char* what);
View view(const Tensor&);

}  // namespace prescore::cuda
