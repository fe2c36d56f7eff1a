// Samples queries of a call, and compares what their tiles read with all keys.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "attend/tile_runner.h"
#include "prescore/certificate.h"

namespace prescore {

void check_certify_options(const CertifyOptions&);

/// Queries of a call of n, ascending: one from each of `samples` equal parts, and the one after it.
std::vector<std::int32_t> draw_queries(std::int64_t n, const CertifyOptions&);

/// What was found of one query and head.
struct SampledQuery {
  double mass = 1, error = 0;
  bool measured = false;
};
/// One a query head, from what was found of each [batch][head][query]. `single`: a call of one
/// query, which is both of its pair.
std::vector<HeadCertificate> summarise(std::int64_t b, std::int64_t h, std::int64_t queries,
                                       bool single,
                                       const std::function<SampledQuery(std::size_t)>& found);

/// "; 2 heads below min_recall computed densely", or nothing.
std::string redone_reason(const std::vector<HeadCertificate>&);

class Certificate {
 public:
  Certificate(const AttendInputs&, const State& out, const CertifyOptions&);

  /// Whether some sampled query is in the tile.
  bool wants(const Tile&) const;
  /// After a tile has been computed. Any thread; `runner` is that of the tile.
  void measure(const Tile&, const TilePlan&, TileRunner& runner);

  /// After a tile has been computed: what all its heads have read.
  void note(const Tile&, const Counters& of_tile);

  /// One a query head.
  std::vector<HeadCertificate> heads() const;
  /// Keys and stand-ins that a head has read.
  std::int64_t keys(std::size_t head) const { return keys_[head]; }
  std::int64_t standins(std::size_t head) const { return standins_[head]; }

 private:
  /// The sampled queries within [first, last), as indices into query_.
  std::pair<std::size_t, std::size_t> inside(const Tile&) const;

  const AttendInputs& in_;
  const State& out_;
  std::vector<std::int32_t> query_;  // ascending; each odd one follows the one before
  std::vector<std::atomic<std::int64_t>> keys_, standins_;  // by head
  std::vector<SampledQuery> sample_;                        // [batch][head][query]
};

/// attend(), and where `certificate` is not null its queries on the way.
Counters attend(const AttendInputs&, const Planner&, const State& out, Executor&,
                Certificate* certificate);
/// All queries of some heads again, densely.
Counters attend_densely(const AttendInputs&, std::span<const std::int32_t> heads, const State& out,
                        Executor&);

}  // namespace prescore
