// How much of the attention a call has read, measured on sampled queries.
#pragma once

#include <cstdint>
#include <vector>

namespace prescore {

/// What to measure. Sampled queries are attended exactly too, in the shadow of their tile.
/// Device cuda: at most 32 samples, CudaOptions::count, no packed sequences.
struct CertifyOptions {
  /// Pairs of neighbouring queries of each batch entry; 0: no certificate.
  std::int64_t samples = 0;
  /// Heads of whose attention less than this share was read are computed again densely; 0: none.
  float min_recall = 0;
  std::uint64_t seed = 0;  ///< of the draw
};

/// Of one query head, over all batch entries. Shares are of the attention of a query, in [0, 1].
struct HeadCertificate {
  std::int64_t queries = 0;  ///< sampled ones
  double mass = 1;           ///< mean share of the keys that were read; stand-ins do not count
  double mass_error = 0;     ///< its standard error, from the spread between sampled tiles
  double output_error = 0;   ///< largest |o - o exact| / |o exact| of the sample
  bool redone = false;       ///< below min_recall: computed again densely, after this was measured
};

}  // namespace prescore
