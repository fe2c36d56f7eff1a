// Scores that look at one key at a time, drawing in proportion, and which score a call may have.
#include "score/score_cuda.cuh"

#include <string>

#include "common/call_cuda.cuh"
#include "common/cuda.h"
#include "common/mma.cuh"
#include "common/random.h"
#include "score/fitted_cuda.cuh"
#include "score/random_score.h"

namespace prescore::cuda {
namespace {

constexpr int kThreads = 256;

unsigned blocks_of(std::int64_t n) { return static_cast<unsigned>((n + kThreads - 1) / kThreads); }

// A warp has a row.
template <typename T>
__global__ void norm_kernel(const View x, int h, int n, int width, std::int64_t rows, float* out) {
  const std::int64_t i = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (i >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const T* from = row<T>(x, i / n / h, i / n % h, i % n);
  float sum = 0;
  for (int c = 2 * lane; c < width; c += 64) {
    const float2 v = unpack<T>(*reinterpret_cast<const std::uint32_t*>(from + c));
    sum += v.x * v.x + v.y * v.y;
  }
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  if (lane == 0) out[i] = isfinite(sum) ? sqrtf(sum) : INFINITY;
}

__global__ void random_kernel(std::uint64_t seed, int n, std::int64_t rows, float* out) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < rows) out[i] = random_score(seed, i / n, i % n);
}

// As plan/selection.cpp. What has no share is NaN: last.
__global__ void perturb_kernel(std::uint64_t stream, int n, std::int64_t rows, float* x) {
  const std::int64_t i = std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i >= rows) return;
  const std::uint64_t own = mix(stream + static_cast<std::uint64_t>(i / n));
  const double u = unit(mix(own + static_cast<std::uint64_t>(i % n))) + 0x1p-54;
  x[i] = x[i] > 0 ? static_cast<float>(fmin(log(static_cast<double>(x[i])), 1e30) - log(-log(u)))
                  : NAN;
}

bool is_fitted(Score s) { return s == Score::kLeverage || s == Score::kKMeans; }

}  // namespace

void check_score(const ScoreOptions& o, bool causal, bool packed, std::int64_t n, std::int64_t d) {
  const bool single =
      o.score == Score::kKeyNorm || o.score == Score::kValueNorm || o.score == Score::kRandom;
  if (!single && !is_fitted(o.score))
    fail("score", "score with device cuda", std::to_string(static_cast<int>(o.score)),
         "norms, random, leverage, k-means, or scores of your own (CudaOptions::scores)");
  if (o.centred || o.rotation.dims > 0 || o.fit > 0 || o.flattened || o.distance_seeds)
    fail("score", "centred, rotation, fit or a published flaw with device cuda", "one", "none");
  if (causal) check(o.segment == kSegment, "score", "segment with device cuda", o.segment, "512");
  if (single) return;
  if (causal || packed)
    fail("score", "leverage or k-means with device cuda", "a causal call or packed sequences",
         "one that is not: a fit would know later keys");
  check(n <= kMostFitted, "score", "keys with device cuda", n,
        "at most " + std::to_string(kMostFitted) + " for leverage and k-means");
  if (o.score == Score::kLeverage) {
    check(d <= kMostColumns, "score", "head size for leverage with device cuda", d,
          "at most " + std::to_string(kMostColumns));
    if (o.leverage != Leverage::kRidge)
      fail("score", "leverage with device cuda", "exact or sketched", "with a ridge");
    return;
  }
  const std::int64_t clusters = o.clusters > 0 ? o.clusters : d + 1;
  check(std::min(clusters, n) <= kMostCentres, "score", "clusters with device cuda", clusters,
        "at most " + std::to_string(kMostCentres));
}

template <typename T>
void score_keys(const Problem& p, const ScoreOptions& o, float* out, cudaStream_t stream) {
  const std::int64_t rows = std::int64_t{p.batches()} * p.h_kv * p.n_kv;
  if (rows == 0) return;
  if (is_fitted(o.score)) return score_fitted<T>(p, o, out, stream);
  if (o.score == Score::kRandom) {
    random_kernel<<<blocks_of(rows), kThreads, 0, stream>>>(o.seed, p.n_kv, rows, out);
    return check_launch("score", "random_kernel");
  }
  const bool values = o.score == Score::kValueNorm;
  norm_kernel<T><<<blocks_of(32 * rows), kThreads, 0, stream>>>(values ? p.v : p.k, p.h_kv, p.n_kv,
                                                                values ? p.d_v : p.d, rows, out);
  check_launch("score", "norm_kernel");
}
template void score_keys<bf16>(const Problem&, const ScoreOptions&, float*, cudaStream_t);
template void score_keys<f16>(const Problem&, const ScoreOptions&, float*, cudaStream_t);

void score_keys(const Tensor& k, std::int64_t n, const ScoreOptions& o, float* out, void* on) {
  check(k.dtype != DType::kF32, "score", "dtype of k with device cuda", static_cast<int>(k.dtype),
        "f16 or bf16");
  check(o.score != Score::kValueNorm, "score", "score of keys alone", static_cast<int>(o.score),
        "one that needs no values");
  check_rows(k, "k");
  check_score(o, /*causal=*/false, /*packed=*/false, n, k.shape[3]);
  Problem p{};
  p.k = view(k), p.sequences = static_cast<int>(k.shape[0]), p.h_kv = static_cast<int>(k.shape[1]);
  p.n_kv = static_cast<int>(n), p.d = static_cast<int>(k.shape[3]);
  const DeviceScope device(k.data, "score", "k");
  device.check_here(out, "the scores");
  const auto stream = static_cast<cudaStream_t>(on);
  if (k.dtype == DType::kF16)
    score_keys<f16>(p, o, out, stream);
  else
    score_keys<bf16>(p, o, out, stream);
}

void perturb_scores(const Problem& p, std::uint64_t seed, float* scores, cudaStream_t stream) {
  const std::int64_t rows = std::int64_t{p.batches()} * p.h_kv * p.n_kv;
  if (rows == 0) return;
  perturb_kernel<<<blocks_of(rows), kThreads, 0, stream>>>(mix(seed ^ 0x67756d62656cu), p.n_kv,
                                                           rows, scores);
  check_launch("score", "perturb_kernel");
}

}  // namespace prescore::cuda
