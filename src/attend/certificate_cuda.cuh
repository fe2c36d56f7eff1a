// The certificate on the GPU: sampled queries attend to all keys beside the call, a key range a
// tile, and to the keys that their plans list.
#pragma once

#include <cstdint>
#include <vector>

#include "common/arena.cuh"
#include "common/device.cuh"
#include "prescore/attention.h"

namespace prescore::cuda {

struct Certificate {
  static constexpr int kMostRows = 64;  ///< sampled queries of a batch entry
  int rows = 0, splits = 0;             ///< 0: no certificate
  std::int32_t query[kMostRows] = {};   ///< ascending; each odd one follows the one before
  float min_recall = 0;
  // Copies of the queries, [batch][h_q][splits][rows], what each sees, and results over a range.
  void *q = nullptr, *o = nullptr;
  float* lse = nullptr;
  std::int32_t* end = nullptr;  ///< [splits][rows]
  TileInfo* tile = nullptr;     ///< [batch][splits]
  Reads* reads = nullptr;       ///< [h_kv][batch][splits]
  ListTable table{};
  // Results, [batch][h_q][rows]: the whole attention, shares read, errors.
  float *exact = nullptr, *whole = nullptr, *mass = nullptr, *error = nullptr;
  std::uint8_t* redone = nullptr;  ///< [h_q]: heads that are read densely after all

  bool wanted() const { return rows > 0; }
};

/// Draws queries. Throws Error where they cannot be had on a GPU.
Certificate draw_certificate(const Problem&, const Options&);
void lay_out_certificate(const Problem&, Arena&, Certificate&);

/// The whole attention of the sampled queries.
template <typename T>
void attend_samples(const Problem&, const Certificate&, cudaStream_t);

/// After the plans of a wave, whose tiles begin with the first_tile-th: what they read; heads below
/// min_recall are marked.
template <typename T>
void measure_reads(const Problem&, const PlanView&, const IndexView&, const Certificate&,
                   int first_tile, cudaStream_t);

/// After the outputs are there: their errors.
template <typename T>
void measure_errors(const Problem&, const Certificate&, cudaStream_t);

/// Waits for the stream and sums up.
std::vector<HeadCertificate> fetch_certificate(const Problem&, const Certificate&, cudaStream_t);

}  // namespace prescore::cuda
