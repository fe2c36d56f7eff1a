// The planted-subspace model of 2505.11040: a few heavy keys along their own directions, the rest
// noise; and what is measured on it.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <set>
#include <vector>

#include "prescore/attention.h"

namespace prescore::experiments {

/// Keys of one head: `copies` heavy keys along each of `directions` orthogonal axes, at distance
/// `strength` from the origin, among noise of norm `noise` and a mean common to all keys.
struct PlantedModel {
  std::int64_t n = 4096, d = 64, directions = 8, copies = 1;
  double strength = 8, noise = 1, mean = 0;
  nlohmann::json to_json() const;
};

/// One draw. Noise is spread over all dimensions, heavy keys sit at random places, and each of 256
/// queries points at a random heavy direction.
struct Planted {
  static constexpr std::int64_t kQueries = 256;
  std::vector<float> q, k, v;
  std::set<std::int64_t> heavy;
  std::int64_t d;

  Planted(const PlantedModel&, std::uint64_t seed);
  Tensor tensor(const std::vector<float>& rows) const;
};

/// Share of the heavy keys among as many best-scored keys. Scores that learn from queries see those
/// of the draw.
double recovery(const Planted&, const ScoreOptions&, Executor&);

/// Share of the heavy keys whose cluster, by k-means, holds no noise.
double isolated(const Planted&, const ScoreOptions&, Executor&);

struct AttentionError {
  double error = 0;     ///< of the output, relative to that of dense attention
  double keys = 0;      ///< keys read by a query
  double standins = 0;  ///< and stand-ins
};
/// Not causal, so that nothing is read for its place but by the window.
AttentionError attention_error(const Planted&, Options, Executor&);

}  // namespace prescore::experiments
