// Float64 oracle of every stage. Written to be obviously right, never to be fast.
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <numeric>
#include <set>
#include <span>
#include <vector>

#include "prescore/index.h"
#include "prescore/plan.h"
#include "prescore/score.h"
#include "prescore/types.h"

namespace prescore::reference {

/// A dense float64 tensor [b, h, n, d] that owns its data.
struct Array {
  std::array<std::int64_t, 4> shape{};
  std::vector<double> data;

  Array() = default;
  explicit Array(std::array<std::int64_t, 4> s)
      : shape(s), data(static_cast<std::size_t>(s[0] * s[1] * s[2] * s[3])) {}

  double* row(std::int64_t b, std::int64_t h, std::int64_t i) {
    return data.data() + ((b * shape[1] + h) * shape[2] + i) * shape[3];
  }
  const double* row(std::int64_t b, std::int64_t h, std::int64_t i) const {
    return data.data() + ((b * shape[1] + h) * shape[2] + i) * shape[3];
  }
};

inline double dot(const double* x, const double* y, std::int64_t d) {
  return std::inner_product(x, x + d, y, 0.0);
}

/// One element of a tensor, widened.
double load(const void* data, DType dtype, std::int64_t element);
/// A whole tensor of any strides, widened.
Array load(const Tensor&);

// --- attend and merge ---------------------------------------------------------------------------

/// One thing that enters a query's softmax: a key or a stand-in.
struct Entry {
  const double* key = nullptr;
  const double* value = nullptr;
  double log_weight = 0;
};

/// Attention of one query over `entries`; writes o [d_v], returns the log-sum-exp.
double attend_row(const double* q, std::span<const Entry> entries, std::int64_t d, std::int64_t d_v,
                  double scale, double* o);

/// Output and lse [b, h_q, n_q] of every query.
struct Result {
  Array o;
  std::vector<double> lse;
};

struct Problem {
  Array q, k, v;
  Visibility visibility;
  double scale = 1;
};

/// Called for each query (b, h, i) with what enters its softmax.
using VisitRow =
    std::function<void(std::int64_t b, std::int64_t h, std::int64_t i, std::span<const Entry>)>;

/// Every query over all the keys it may see, with the additive mask if there is one.
void for_each_row(const Problem&, const VisitRow&);
Result dense(const Problem&);

/// What one query reads under a plan: keys (by id) with their log-weights, and nodes.
struct Reads {
  std::vector<std::int64_t> keys;
  std::vector<double> log_weights;
  std::vector<std::int64_t> nodes;
};
Reads reads_of(const TilePlan&, std::int64_t end);

/// Every query over what the plan gives it. `index` is needed where the plan has nodes.
void for_each_row(const Problem&, const Plan&, const KeyIndex* index, const VisitRow&);
Result attend(const Problem&, const Plan&, const KeyIndex* index);

/// Combination of two results over disjoint keys.
Result merge(const Result&, const Result&);

// --- score --------------------------------------------------------------------------------------

/// Scores of one head's keys, given as n rows of d; statistics from the first `fit`. kRandom has no
/// oracle.
std::vector<double> key_norms(std::span<const double> keys, std::int64_t d);
std::vector<double> ridge_leverage(std::span<const double> keys, std::int64_t d, double ridge,
                                   std::int64_t fit);
std::vector<double> key_difference(std::span<const double> keys, std::int64_t d, std::int64_t fit);
/// Distance of each key to the mean of its own cluster.
std::vector<double> distance_to_own_mean(std::span<const double> keys, std::int64_t d,
                                         std::span<const std::int64_t> cluster);
/// Distances divided by their sum over the keys of the cluster; 0 where that is 0.
std::vector<double> relative(std::span<const double> distance,
                             std::span<const std::int64_t> cluster);
/// Of each key the nearest centre and the distance to it.
struct Lloyd {
  std::vector<std::int64_t> cluster;
  std::vector<double> distance;
};
/// Lloyd's iteration from keys `seeds`: so many rounds of assigning keys and moving centres, to the
/// mean, or, where distances are sums of absolute differences, to the coordinate-wise lower median.
/// An empty cluster keeps its centre.
Lloyd lloyd(std::span<const double> keys, std::int64_t d, std::span<const std::int64_t> seeds,
            std::int64_t rounds);
Lloyd lloyd_median(std::span<const double> keys, std::int64_t d,
                   std::span<const std::int64_t> seeds, std::int64_t rounds);
/// Sum of absolute differences of each key to the coordinate-wise lower median of its own cluster.
std::vector<double> distance_to_own_median(std::span<const double> keys, std::int64_t d,
                                           std::span<const std::int64_t> cluster);
/// Distance of each key to the mean of its own cluster in the space of the kernel
/// exp(-|x - y|^2 / 2 sigma^2).
std::vector<double> kernel_distance(std::span<const double> keys, std::int64_t d,
                                    std::span<const std::int64_t> cluster, double sigma);
/// Random Fourier features sqrt(2 / m) cos(w.k + b) of each key, for m rows w of d and as many b.
std::vector<double> fourier_features(std::span<const double> keys, std::int64_t d,
                                     std::span<const double> w, std::span<const double> b);
/// exp(-|k|^2 / 2 sigma^2); for sigma 0 that of the mean square of the first `fit` norms.
std::vector<double> gaussian_norm(std::span<const double> keys, std::int64_t d, double sigma,
                                  std::int64_t fit);
/// The bound of LevAttention's universal set, a_i^(p/2) (sum_j w_j)^(p/2 - 1) for the form a_i of
/// M = sum_j w_j^(1 - 2/p) k_j k_j^T, after so many iterations of the weights from 1: each becomes
/// w_i^(1 - 2/p) a_i.
std::vector<double> universal_bound(std::span<const double> keys, std::int64_t d, std::int64_t p,
                                    std::int64_t iterations, std::int64_t fit);
/// The largest |q.k_i|^p / sum_j |q.k_j|^p that gradient ascent finds over queries q.
double largest_polynomial_share(std::span<const double> keys, std::int64_t d, std::int64_t i,
                                std::int64_t p);
/// The keys less the mean of the first `fit`.
std::vector<double> centred(std::span<const double> keys, std::int64_t d, std::int64_t fit);

/// Gaussian model of the queries (rows of d, one vector a query head): the mean over the heads of
/// exp(s k.mu + s^2 k.Sigma.k / 2) as a share of its sum over the first `fit` keys.
std::vector<double> expected_attention(std::span<const double> keys, std::int64_t d,
                                       std::span<const std::vector<double>> queries, double scale,
                                       std::int64_t fit);
/// Mean attention that each key of (b, h_kv) receives from the rows that see it, of queries at
/// positions below `until` that are multiples of `stride`; a row with NaN or infinity in it does
/// not count. Zero where no row sees a key.
std::vector<double> received_attention(const Problem&, std::int64_t b, std::int64_t h_kv,
                                       std::int64_t until, std::int64_t stride,
                                       std::int64_t distance = 0);

// --- index --------------------------------------------------------------------------------------

/// Sum of squared distances of points to the mean of their cluster.
double kmeans_objective(std::span<const double> points, std::int64_t d,
                        std::span<const std::int64_t> cluster);

/// Agreement of two partitions: 1 when they are equal up to names, about 0 by chance.
double adjusted_rand(std::span<const std::int64_t> a, std::span<const std::int64_t> b);

// --- plan ---------------------------------------------------------------------------------------

/// Sinks and the most recent keys of a query that sees [0, end), `budget` of them at most.
std::set<std::int64_t> window_keys(std::int64_t end, std::int64_t sinks, std::int64_t budget);

/// The `count` keys of [begin, end) with the highest score; ties go to the lower id.
std::set<std::int64_t> top_keys(std::span<const float> scores, std::int64_t begin, std::int64_t end,
                                std::int64_t count);

/// Estimated shares of attention; `read` are the keys that are read anyway.
struct NodeShares {
  std::vector<double> key;   ///< of one key of the node among everything, averaged over the queries
  std::vector<double> node;  ///< of all its keys
};
NodeShares node_shares(std::span<const double* const> queries, const KeyIndex& index,
                       std::int64_t b, std::int64_t h_kv, std::span<const std::int64_t> nodes,
                       std::span<const Entry> read, double scale);

/// The nodes with the largest shares, best first while their keys fit `far_keys`; ties go to the
/// lower id.
std::set<std::int64_t> routed_nodes(std::span<const double> shares, const KeyIndex& index,
                                    std::int64_t b, std::int64_t h_kv,
                                    std::span<const std::int64_t> nodes, std::int64_t far_keys);

}  // namespace prescore::reference
