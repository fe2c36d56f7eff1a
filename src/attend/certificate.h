// Samples queries of a call, and compares what their tiles read with all keys.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "attend/tile_runner.h"
#include "prescore/certificate.h"

namespace prescore {

void check_certify_options(const CertifyOptions&);

class Certificate {
 public:
  /// Draws queries: one from each of `samples` equal parts of the queries, and the one after it.
  Certificate(const AttendInputs&, const State& out, const CertifyOptions&);

  /// Whether some sampled query is in the tile.
  bool wants(const Tile&) const;
  /// After a tile has been computed. Any thread; `runner` is that of the tile.
  void measure(const Tile&, const TilePlan&, TileRunner& runner);

  /// One a query head.
  std::vector<HeadCertificate> heads() const;

 private:
  struct Sample {
    double mass = 1, error = 0;
    bool measured = false;
  };
  /// The sampled queries within [first, last), as indices into query_.
  std::pair<std::size_t, std::size_t> inside(const Tile&) const;

  const AttendInputs& in_;
  const State& out_;
  std::vector<std::int32_t> query_;  // ascending; each odd one follows the one before
  std::vector<Sample> sample_;       // [batch][head][query]
};

/// attend(), and where `certificate` is not null its queries on the way.
Counters attend(const AttendInputs&, const Planner&, const State& out, Executor&,
                Certificate* certificate);
/// All queries of some heads again, densely.
Counters attend_densely(const AttendInputs&, std::span<const std::int32_t> heads, const State& out,
                        Executor&);

}  // namespace prescore
