// Types shared by all stages: tensors, errors, options and counters.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

namespace prescore {

/// Version of the library, for example "0.1.0".
std::string_view version() noexcept;

/// A mistake in what the caller passed. The text is one sentence: "[stage] what, got X, want Y".
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

/// Element types of Q, K and V. Outputs may have any of them; lse is always fp32.
enum class DType : std::uint8_t { kF32, kF16, kBF16 };

/// Bytes of one element.
constexpr std::int64_t size_of(DType t) noexcept { return t == DType::kF32 ? 4 : 2; }

/// A read-only tensor of shape [b, h, n, d] with strides in elements. Nothing is owned.
/// Any order of axes in memory is allowed; only the last axis must be contiguous (stride 1)
/// wherever d > 1. Strides may be zero (broadcast) but not negative.
struct Tensor {
  const void* data = nullptr;
  DType dtype = DType::kF32;
  std::array<std::int64_t, 4> shape{};
  std::array<std::int64_t, 4> stride{};

  /// A dense [b, h, n, d] tensor.
  static Tensor contiguous(const void* data, DType dtype, std::int64_t b, std::int64_t h,
                           std::int64_t n, std::int64_t d) {
    return {data, dtype, {b, h, n, d}, {h * n * d, n * d, d, 1}};
  }
};

/// The same, writable.
struct MutTensor {
  void* data = nullptr;
  DType dtype = DType::kF32;
  std::array<std::int64_t, 4> shape{};
  std::array<std::int64_t, 4> stride{};

  static MutTensor contiguous(void* data, DType dtype, std::int64_t b, std::int64_t h,
                              std::int64_t n, std::int64_t d) {
    return {data, dtype, {b, h, n, d}, {h * n * d, n * d, d, 1}};
  }
};

/// Result of attention over some set of keys: `o` [b, h_q, n_q, d_v], `lse` [b, h_q, n_q] dense,
/// fp32, natural logarithm. Over an empty set o = 0 and lse = -inf. `lse` may be null where it is
/// not wanted.
struct State {
  MutTensor o;
  float* lse = nullptr;
};

/// Which keys each query may see: query i sees keys [0, end(i)).
struct Visibility {
  std::int64_t n_q = 0;
  std::int64_t n_kv = 0;
  bool causal = true;
  /// Causal: position of each query, non-decreasing; query i sees keys [0, position + 1). Empty:
  /// the queries are the last n_q positions (aligned bottom right), as in a KV cache.
  std::span<const std::int32_t> positions = {};
  /// Optional additive mask, fp16 bits, row i at mask + i * mask_stride, n_kv entries, -inf hides.
  /// For `dense` only; the same for all heads of a batch entry.
  const std::uint16_t* mask = nullptr;
  std::int64_t mask_stride = 0;
  std::int64_t mask_batch_stride = 0;

  std::int64_t end(std::int64_t i) const noexcept {
    if (!causal) return n_kv;
    const std::int64_t e =
        positions.empty() ? n_kv - n_q + i + 1 : positions[static_cast<std::size_t>(i)] + 1;
    return e < 0 ? 0 : e;
  }
  /// Where query i stands: the last key that it sees, or, not causal, its own number.
  std::int64_t position(std::int64_t i) const noexcept { return causal ? end(i) - 1 : i; }
};

/// Precision of the products. `kAuto` uses bf16 units (AMX, AVX512-BF16) for f16 and bf16 inputs
/// and f32 for f32 inputs; accumulation and softmax are always fp32.
enum class Compute : std::uint8_t { kAuto, kF32, kBF16 };

/// Where tensors lie and the work is done.
enum class Device : std::uint8_t { kCpu, kCuda };

/// How the keys that a query reads are chosen.
enum class Method : std::uint8_t {
  kAuto,    ///< dense below a measured crossover, routed above
  kDense,   ///< every visible key
  kWindow,  ///< sinks and the most recent keys (the baseline of every sparse method)
  kTopK,    ///< sinks, window and the keys with the best query-independent score (the paper)
  kRouted,  ///< sinks, window and the clusters with the most estimated attention mass
  kHyper,   ///< HyperAttention (2310.05869): exact leaves, LSH blocks and weighted samples beyond
  kPrescoredHyper,  ///< the same over the keys with the best scores (2505.11040)
};

/// Who chooses in `routed`.
enum class Routing : std::uint8_t {
  kTile,    ///< the queries of a tile choose together: for prompts
  kStrict,  ///< every query for itself: a choice depends on nothing later (decoding, scoring)
};

/// What becomes of the far keys that are not read: a node of the index that stands in for its keys
/// enters the softmax once, with its mean key, its mean value and the logarithm of its count.
enum class StandIns : std::uint8_t {
  kNone,   ///< dropped
  kAuto,   ///< a node stands in where its estimated share of all attention exceeds standin_share
  kNodes,  ///< every unread node stands in (device cuda: at most 512 a tile, the earliest)
};

/// Query-independent importance of a key (stage `score`).
enum class Score : std::uint8_t {
  kKeyNorm,
  kLeverage,  ///< exact, ridge or sketched (ScoreOptions::leverage)
  kKMeans,    ///< distance to the own centroid (ScoreOptions::cluster_score)
  kKeyDiff,   ///< unlike the mean direction (2504.15364)
  kRandom,
  kKMedian,       ///< the same as kKMeans by coordinate-wise medians and absolute distances
  kKernelKMeans,  ///< k-means under a Gaussian kernel
  kGaussianNorm,  ///< exp(-|k|^2 / 2 sigma^2)
  kUniversal,     ///< LevAttention's universal set (2410.05462): share in any query's |q.k|^p
  kExpected,      ///< expected attention: a Gaussian model of the queries seen so far
  kReceived,      ///< mean attention received from the queries seen so far
  kValueNorm,
  kOracle,  ///< attention received from all queries of the call, later ones too: a ceiling
};

/// Which of the scored keys top-k and prescored hyper read. The budget is the most in any case.
enum class Selection : std::uint8_t {
  kTopK,       ///< those with the best scores
  kThreshold,  ///< of them those with at least `least_score`
  kShare,      ///< the best until they hold `share` of the sum of all scores; negative ones count 0
  /// Drawn without replacement in proportion to the score (Gumbel top-k, 1903.06059). With
  /// `sample_weights` each drawn key stands for 1 / (its chance to be drawn) keys, in prescored
  /// hyper on top of what a sample of the rest stands for. Keys whose score is not above 0 are
  /// never drawn.
  kSample,
};

/// HyperAttention (2310.05869). Keys before a query's leaf are cut into power-of-two spans of
/// leaves (the recursion by halves); of each span a query reads the block of its own hash bucket
/// and a uniform sample of the rest, weighted by (rest / samples). Buckets are in Hamming order:
/// neighbours differ in one bit. A query's choice depends on nothing but itself and earlier keys,
/// so that prompts, chunks cut at multiples of the tile, and single tokens choose alike.
///
/// By default (leaf 0) the sizes come from PlanOptions::budget, and no query reads more than that:
/// the leaf is a multiple of the tile (which may shrink) that takes half of what sinks and window
/// leave; the rest of the budget, on average three quarters of it, is shared equally by the spans
/// before a query's leaf, each divided in the proportion of block to samples. The paper's sizes are
/// leaf 4096, block 256, samples 256: then the number of keys read grows with the text.
struct HyperOptions {
  std::int64_t projections = 7;  ///< bits of a hash code, 1 to 16
  std::int64_t block = 256;      ///< keys around the query's bucket that are read exactly
  std::int64_t samples = 256;    ///< keys that stand for the rest of a span; 0: the rest is dropped
  /// Keys of a leaf, read exactly: a multiple of the tile, or 0: from the budget. Then block and
  /// samples are not counts but a proportion.
  std::int64_t leaf = 0;
  /// Hash keys around the mean of their span. Softmax ignores a shift common to all keys, angles do
  /// not. The paper does not centre.
  bool centred = true;
  /// kPrescoredHyper: keys that survive of all those up to the end of a span; the others are
  /// removed. Before the scores' first fit all survive.
  std::int64_t selected = 2048;
};

/// Reproduces flaws of the code published with 2505.11040, for the ablation of
/// docs/experiments/lm.md. They break contract 1 (every key at most once, unread keys removed): for
/// experiments only, not in the C interface. The first three concern prescored hyper, the others
/// what is scored.
struct PublishedFlaws {
  /// Keys and values that are not selected become zero rows instead of being removed: they are
  /// hashed, fill blocks, are drawn as samples, and add exp(0) to the softmax.
  bool zeroed = false;
  /// Samples are drawn from the whole span with replacement, those in the block too.
  bool repeats = false;
  /// Zero rows pad a span to a multiple of the block, behind the last key in hash order.
  bool padding = false;
  /// Scores are fitted to the keys of all heads together.
  bool flattened = false;
  /// k-means and the k-means of its kernel forms are seeded by distances, not by their squares.
  bool distance_seeds = false;
};

/// What one query head reads (PlanOptions::heads).
struct HeadBudget {
  /// kDense, kWindow, kTopK, kRouted; kAuto: the method of the call.
  Method method = Method::kAuto;
  std::int64_t keys = 0;  ///< most keys that a query reads; 0: PlanOptions::budget
  friend bool operator==(const HeadBudget&, const HeadBudget&) = default;
};

/// What the planners need to know. All counts are keys.
struct PlanOptions {
  Method method = Method::kAuto;
  /// Most keys one query reads: sinks, window and far keys together. `hyper` with
  /// sizes of its own (HyperOptions::leaf) reads what they add up to, but everything where a query
  /// sees no more than the budget. Routed and top-k keep all their promises from sinks + window +
  /// tile + segment - 1 keys on (783 with the defaults); below that they cut the window, and keys
  /// before it are not read.
  std::int64_t budget = 1280;
  /// A tile whose last query sees at most this many keys reads them all; 0: as many as the budget.
  /// `auto` sets it to its crossover.
  std::int64_t dense_until = 0;
  /// First keys, always read.
  std::int64_t sinks = 16;
  /// Least number of most recent keys that are always read. The window of `routed` and `topk`
  /// begins at a segment boundary and is up to a segment longer.
  std::int64_t window = 128;
  /// Queries that choose together and are computed together, a multiple of 16. Tiles begin at
  /// absolute positions that are multiples of it, so that chunked prefill plans the same.
  std::int64_t tile = 128;
  Routing routing = Routing::kTile;
  /// Routed: all query heads of a key head choose together and read the same keys (docs/design.md,
  /// "Heads choose together"); false: each for itself.
  bool heads_together = true;
  StandIns standins = StandIns::kAuto;
  /// Share of a query's whole attention, averaged over its tile, from which a node stands in.
  float standin_share = 3e-3f;
  /// Keys whose groups (level 1) are opened into clusters; 0: four times the far keys. Device cuda:
  /// the best groups with at most 12,288 clusters (fewer on a GPU with little shared memory); a
  /// budget above their keys is not used up.
  std::int64_t open_groups = 0;
  /// Keys whose segments (level 2) are opened into groups; 0: all. Device cuda: all.
  std::int64_t open_segments = 0;
  /// Only every n-th query of a tile takes part in routing. Device cuda: 16 or 64 queries of a
  /// tile.
  std::int64_t route_stride = 2;
  Score score = Score::kLeverage;
  Selection selection = Selection::kTopK;
  float least_score = 0;        ///< Selection::kThreshold
  float share = 0.9f;           ///< Selection::kShare, 0 to 1
  bool sample_weights = false;  ///< Selection::kSample
  /// Top-k: part of the far keys of each key head for which all key heads of the batch entry
  /// compete by their shares of their own sums of scores (counted from the lowest where that is
  /// negative), 0 (none: equal budgets) to 1. The mean number of keys read stays within the budget,
  /// a single head may exceed it.
  float adaptive = 0;
  /// Budgets by head: empty, or one entry a query head of the call. Not with hyper. Routed heads of
  /// a key head whose budgets differ do not choose together: those with the smallest do, each of
  /// those with more chooses for itself. Tiles within dense_until are dense for every head.
  std::vector<HeadBudget> heads;
  HyperOptions hyper;
  PublishedFlaws flaws;
  std::uint64_t seed = 0;
};

/// What was read and what it cost, summed over queries, heads and batches.
struct Counters {
  std::int64_t queries = 0;   ///< (batch, head, query) triples
  std::int64_t visible = 0;   ///< keys that dense attention reads
  std::int64_t keys = 0;      ///< keys read
  std::int64_t standins = 0;  ///< stand-ins read
  std::int64_t products = 0;  ///< routing products (one node against one query)
  double index_s = 0;         ///< seconds building the index and the scores
  double plan_s = 0;          ///< seconds choosing, summed over workers
  double attend_s = 0;        ///< seconds attending, summed over workers
  double certify_s = 0;       ///< seconds of the certificate, summed over workers
  double total_s = 0;         ///< wall-clock seconds of the whole operation

  Counters& operator+=(const Counters& c) noexcept {
    queries += c.queries, visible += c.visible, keys += c.keys, standins += c.standins;
    products += c.products, index_s += c.index_s, plan_s += c.plan_s, attend_s += c.attend_s;
    certify_s += c.certify_s, total_s += c.total_s;
    return *this;
  }
};

}  // namespace prescore
