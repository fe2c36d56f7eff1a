// HyperAttention and its prescored form on the GPU; plan/hyper.cpp says what they read.
//
// Keys are hashed and sorted span by span. Each tile first reads sinks and what follows its leaf's
// begin, by position (plan_leaves); then the queries of a run, which have the same spans, are
// sorted by bucket, and those of one bucket read what it chooses of all their spans (sort_lanes,
// plan_buckets).
#pragma once

#include "common/arena.cuh"
#include "plan/hyper_sizes.h"
#include "plan/lsh.h"
#include "plan/plan_cuda.cuh"

namespace prescore::cuda {

inline constexpr int kMostBits = 10, kMostSamples = 8192;

/// Queries with the same spans and bucket: what a tile of lanes has in common.
struct Bucket {
  std::int32_t leaf, step, place;
};

/// Sizes and scratch of a call. A run: positions whose queries have the same leaf and step.
struct Hyper {
  HyperSizes sizes;
  std::uint64_t seed = 0;
  int bits = 0, leaves = 0;  ///< of a code; spans of a head: one ends at each leaf [1, leaves]
  int selected = 0;          ///< keys that survive up to the end of a span; 0: all
  int first_run = 0, runs = 0, rows = 0;  ///< of one sequence; most lanes of a run
  int slots = 0, samples = 0;             ///< tiles of a run at most; of a span at most
  bool centred = false, negated = false;  ///< negated: attention prefers the opposite direction
  std::int64_t ordered = 0;               ///< keys of all spans of a head
  const float* scores = nullptr;          ///< [batch][h_kv][n_kv]
  float *direction = nullptr, *product = nullptr;  ///< [bits][d]; [batch][h_kv][bits][n_kv]
  std::int32_t *order = nullptr,
               *start = nullptr;   ///< [batch][h_kv][ordered]; [..][leaves][buckets + 1]
  std::uint16_t* place = nullptr;  ///< [batch][h_q][n_q]: buckets of queries
  // Of one list:
  Lane* lane = nullptr;      ///< [batch][runs][rows]
  TileInfo* tile = nullptr;  ///< [batch][runs][slots]
  Bucket* bucket = nullptr;  ///< of the tiles

  __host__ __device__ int buckets() const { return 1 << bits; }
  /// The first position of a run.
  __host__ __device__ std::int64_t begin(std::int64_t run) const {
    if (sizes.from_budget) return run * sizes.size;
    if (run == 0) return 0;
    return (run * sizes.leaf + sizes.window - 1 + sizes.size - 1) / sizes.size * sizes.size;
  }
  /// Where the keys of the span that ends at `leaf` lie in `order`: behind the shorter ones, each
  /// as long as its leaf's lowest bit.
  __device__ std::int64_t offset(std::int64_t leaf) const {
    std::int64_t before = 0;
    for (std::int64_t bit = 1; bit < leaf; bit *= 2) before += (leaf - 1 + bit) / (2 * bit) * bit;
    return before * (sizes.causal ? sizes.leaf : sizes.n_kv);
  }
};

/// Runs, tiles and the sizes of arrays. Throws Error where the GPU has no room for the options.
Hyper size_hyper(const Problem&, const PlanOptions&);
/// Gives the arrays their places.
void lay_out_hyper(const Problem&, Arena&, Hyper&);

/// Codes of all queries and keys, and the keys of every span in the order of their codes.
template <typename T>
void hash_hyper(const Problem&, const Hyper&, cudaStream_t);

/// Sinks and what follows the leaf.
void plan_leaves(const Problem&, const PlanView&, const Hyper&, cudaStream_t);

/// Lanes, tiles and buckets of one list.
void sort_lanes(const Problem&, const Hyper&, int list, cudaStream_t);

/// Blocks and samples of plan.tiles tiles of lanes, the first of which has this bucket.
void plan_buckets(const Problem&, const PlanView&, const Hyper&, const Bucket*, cudaStream_t);

}  // namespace prescore::cuda
