// What a method reads of captured attention.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "experiment.h"

namespace prescore::experiments {

/// Q, K and V of one layer, owned.
struct Captured {
  std::vector<std::byte> q, k, v;
  Tensor tq, tk, tv;
  float scale = 1;
  Captured(const Tensor& q, const Tensor& k, const Tensor& v, float scale);
};

/// What each sampled query reads: [head][query] ascending keys.
using Reads = std::vector<std::vector<std::vector<std::int64_t>>>;

/// Strict choices of the queries at these positions, as a token makes them that is generated there.
Reads reads_of(const Captured&, const Options&, std::span<const std::int32_t> positions, Executor&);

/// How much the choices of pairs of methods have in common (Jaccard), a mean over the queries for
/// which either chooses anything. Sinks and the window of top-k, which nearly all methods read, are
/// left out.
class Overlaps {
 public:
  explicit Overlaps(std::size_t methods);
  /// What each method reads for a query that sees keys [0, end).
  void add(const std::vector<const std::vector<std::int64_t>*>& reads, std::int64_t end);
  /// [method][method]; null where neither ever chose a far key.
  nlohmann::json means() const;

 private:
  void add_pair(std::size_t m, std::size_t o);
  std::vector<std::vector<std::int64_t>> far_;
  std::vector<std::vector<double>> sum_, count_;  // [m][o], o < m
};

}  // namespace prescore::experiments
