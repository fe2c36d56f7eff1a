// Leverage and k-means of heads with few keys (Vision Transformers): one block a (batch, key head),
// whose keys stay in the cache. Non-finite keys take no part and score +inf.
#include "score/fitted_cuda.cuh"

#include <algorithm>

#include "common/mma.cuh"
#include "common/random.h"

namespace prescore::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;

/// The keys of one head.
template <typename T>
struct Keys {
  const T* data;
  std::int64_t stride;
  int n, d;

  __device__ Keys(const Problem& p)
      : data(row<T>(p.k, blockIdx.y, blockIdx.x, 0)), stride(p.k.n), n(p.n_kv), d(p.d) {}
  __device__ float at(int i, int c) const { return static_cast<float>(data[i * stride + c]); }
  /// body(column, two neighbouring numbers) over a key.
  template <typename Body>
  __device__ void each_pair(int i, const Body& body) const {
    const auto* pair = reinterpret_cast<const std::uint32_t*>(data + i * stride);
    for (int c = 0; c < d; c += 2) body(c, unpack<T>(pair[c / 2]));
  }
  __device__ bool finite(int i) const {
    float sum = 0;
    each_pair(i, [&](int, float2 x) { sum += 0.0f * x.x + 0.0f * x.y; });
    return sum == 0;
  }
};

// The sum of a number a thread, in a fixed order; in every thread.
template <typename X>
__device__ X block_sum(X x, X* scratch) {
  for (int step = 16; step > 0; step /= 2) x += __shfl_xor_sync(~0u, x, step);
  __syncthreads();
  if (threadIdx.x % 32 == 0) scratch[threadIdx.x / 32] = x;
  __syncthreads();
  X sum = 0;
  for (int w = 0; w < kWarps; ++w) sum += scratch[w];
  return sum;
}

// --- k-means -------------------------------------------------------------------------------------

struct KMeansShared {
  static constexpr int scratch = 0;                      // [threads] doubles
  static constexpr int least = scratch + kThreads * 8;   // [keys] squared distances to seeds
  static constexpr int label = least + kMostFitted * 4;  // [keys], kNoCluster: not finite
  static constexpr int total = label + kMostFitted;      // [clusters] distances of members
  static constexpr int chosen = total + kMostCentres * 4;
  static constexpr int centre = chosen + 16;  // [clusters][d]
  static int bytes(int clusters, int d) { return centre + clusters * d * 4; }
};
constexpr std::uint8_t kNoCluster = 255;

template <typename T>
class KMeansOf {
  using S = KMeansShared;

 public:
  __device__ KMeansOf(const Problem& p, int clusters, unsigned char* shared)
      : keys_(p), clusters_(clusters), thread_(static_cast<int>(threadIdx.x)),
        scratch_(reinterpret_cast<double*>(shared + S::scratch)),
        least_(reinterpret_cast<float*>(shared + S::least)), label_(shared + S::label),
        total_(reinterpret_cast<float*>(shared + S::total)),
        chosen_(reinterpret_cast<int*>(shared + S::chosen)),
        centre_(reinterpret_cast<float*>(shared + S::centre)) {}

  __device__ void run(std::uint64_t seed, int iterations, ClusterScore kind, float* out) {
    for (int i = thread_; i < keys_.n; i += kThreads)
      least_[i] = keys_.finite(i) ? 3.402823466e38f : 0.0f;
    __syncthreads();
    for (int i = thread_; i < keys_.n; i += kThreads) label_[i] = least_[i] > 0 ? 0 : kNoCluster;
    for (int c = 0; c < clusters_; ++c) seed_centre(c, unit(mix(seed + static_cast<unsigned>(c))));
    for (int it = 0; it <= iterations; ++it) assign(), update();
    assign();
    write(kind, out);
  }

 private:
  __device__ float distance2(int i, int c) const {
    float sum = 0;
    const float* centre = centre_ + c * keys_.d;
    keys_.each_pair(i, [&](int at, float2 x) {
      const float a = x.x - centre[at], b = x.y - centre[at + 1];
      sum += a * a + b * b;
    });
    return sum;
  }

  // Centre c <- a key drawn in proportion to its squared distance to the centres before.
  __device__ void seed_centre(int c, double u) {
    const int each = (keys_.n + kThreads - 1) / kThreads, first = min(thread_ * each, keys_.n),
              last = min(first + each, keys_.n);
    double mine = 0;
    for (int i = first; i < last; ++i) mine += static_cast<double>(least_[i]);
    scratch_[thread_] = mine;
    __syncthreads();
    if (thread_ == 0) *chosen_ = choose(u, each);
    __syncthreads();
    const int seed = *chosen_;
    for (int at = thread_; at < keys_.d; at += kThreads)
      centre_[c * keys_.d + at] = keys_.at(seed, at);
    __syncthreads();
    for (int i = thread_; i < keys_.n; i += kThreads)
      if (least_[i] > 0) least_[i] = fminf(least_[i], distance2(i, c));
    __syncthreads();
  }
  __device__ int choose(double u, int each) const {
    double total = 0;
    for (int t = 0; t < kThreads; ++t) total += scratch_[t];
    if (!(total > 0) || !isfinite(total)) return min(keys_.n - 1, static_cast<int>(u * keys_.n));
    double left = u * total;
    int t = 0, last = 0;
    while (t + 1 < kThreads && left >= scratch_[t]) left -= scratch_[t++];
    for (int i = t * each; i < min((t + 1) * each, keys_.n); ++i) {
      const double w = static_cast<double>(least_[i]);
      if (w > 0) last = i;
      if (w > 0 && left < w) return i;
      left -= w;
    }
    return last;  // rounding ate the last share
  }

  // label_ and least_ <- the nearest centre, ties to the first, and its squared distance.
  __device__ void assign() {
    for (int i = thread_; i < keys_.n; i += kThreads) {
      if (label_[i] == kNoCluster) continue;
      float best = INFINITY;
      for (int c = 0; c < clusters_; ++c)
        if (const float x = distance2(i, c); x < best)
          best = x, label_[i] = static_cast<std::uint8_t>(c);
      least_[i] = best;
    }
    __syncthreads();
  }
  // Each centre to the mean of its keys, a thread a coordinate; an empty one keeps its place.
  __device__ void update() {
    for (int j = thread_; j < clusters_ * keys_.d; j += kThreads) {
      const int c = j / keys_.d, at = j % keys_.d;
      float sum = 0, count = 0;
      for (int i = 0; i < keys_.n; ++i)
        if (label_[i] == c) sum += keys_.at(i, at), ++count;
      if (count > 0) centre_[j] = sum / count;
    }
    __syncthreads();
  }

  __device__ void write(ClusterScore kind, float* out) {
    if (kind == ClusterScore::kRelative) {
      for (int c = thread_; c < clusters_; c += kThreads) {
        float sum = 0;
        for (int i = 0; i < keys_.n; ++i)
          if (label_[i] == c) sum += sqrtf(least_[i]);
        total_[c] = sum;
      }
      __syncthreads();
    }
    for (int i = thread_; i < keys_.n; i += kThreads) {
      float x = sqrtf(least_[i]);
      if (label_[i] == kNoCluster)
        x = INFINITY;
      else if (kind == ClusterScore::kNearness)
        x = -x;
      else if (kind == ClusterScore::kRelative)
        x = total_[label_[i]] > 0 ? x / total_[label_[i]] : 0;
      out[i] = x;
    }
  }

  Keys<T> keys_;
  int clusters_, thread_;
  double* scratch_;
  float* least_;
  std::uint8_t* label_;
  float* total_;
  int* chosen_;
  float* centre_;
};

template <typename T>
__global__ __launch_bounds__(kThreads) void kmeans_kernel(const Problem p, int clusters,
                                                          std::uint64_t seed, int iterations,
                                                          ClusterScore kind, float* out) {
  extern __shared__ __align__(16) unsigned char shared[];
  const std::uint64_t head = blockIdx.y * static_cast<unsigned>(p.h_kv) + blockIdx.x;
  KMeansOf<T>(p, clusters, shared)
      .run(mix(seed) + head, iterations, kind, out + static_cast<std::int64_t>(head) * p.n_kv);
}

// --- leverage ------------------------------------------------------------------------------------

// Shared memory: m [d][d], first K^T K with the ridge, then its Cholesky factor, then the inverse
// of that; both lower triangles.
template <typename T>
__global__ __launch_bounds__(kThreads) void leverage_kernel(const Problem p, float ridge,
                                                            float* out) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float scratch[kWarps];
  const Keys<T> keys(p);
  const int thread = static_cast<int>(threadIdx.x), d = keys.d, n = keys.n;
  float* m = reinterpret_cast<float*>(shared);
  std::uint8_t* finite = shared + d * d * 4;
  out += (std::int64_t{blockIdx.y} * p.h_kv + blockIdx.x) * n;
  for (int i = thread; i < n; i += kThreads) finite[i] = keys.finite(i) ? 1 : 0;
  __syncthreads();
  float trace = 0;
  for (int j = thread; j < d * d; j += kThreads) {
    const int a = j / d, b = j % d;
    if (b > a) continue;
    float sum = 0;
    for (int i = 0; i < n; ++i)
      if (finite[i] != 0) sum += keys.at(i, a) * keys.at(i, b);
    m[j] = sum;
    if (a == b) trace += sum;
  }
  trace = block_sum(trace, scratch);
  for (int a = thread; a < d; a += kThreads)
    m[a * d + a] += fmaxf(ridge * trace / static_cast<float>(d), 1e-30f);
  __syncthreads();
  for (int k = 0; k < d; ++k) {  // Cholesky, column by column
    const float pivot = sqrtf(fmaxf(m[k * d + k], 1e-30f));
    __syncthreads();
    for (int a = k + thread; a < d; a += kThreads)
      m[a * d + k] = a == k ? pivot : m[a * d + k] / pivot;
    __syncthreads();
    for (int j = thread; j < (d - k - 1) * (d - k - 1); j += kThreads) {
      const int a = k + 1 + j / (d - k - 1), b = k + 1 + j % (d - k - 1);
      if (b <= a) m[a * d + b] -= m[a * d + k] * m[b * d + k];
    }
    __syncthreads();
  }
  // The inverse of the factor, columns from the last to the first: column c needs the inverse
  // behind it and its own column of the factor. Results wait in the upper triangle until all have
  // read that.
  for (int c = d - 1; c >= 0; --c) {
    const float own = 1 / m[c * d + c];
    for (int a = c + 1 + thread; a < d; a += kThreads) {
      float sum = 0;
      for (int b = c + 1; b <= a; ++b) sum += m[a * d + b] * m[b * d + c];
      m[c * d + a] = -own * sum;
    }
    __syncthreads();
    for (int a = c + 1 + thread; a < d; a += kThreads) m[a * d + c] = m[c * d + a];
    if (thread == 0) m[c * d + c] = own;
    __syncthreads();
  }
  for (int i = thread; i < n; i += kThreads) {  // |L^-1 k|^2
    float score = 0;
    for (int a = 0; a < d; ++a) {
      float x = 0;
      for (int b = 0; b <= a; ++b) x += m[a * d + b] * keys.at(i, b);
      score += x * x;
    }
    out[i] = finite[i] != 0 ? score : INFINITY;
  }
}

}  // namespace

template <typename T>
void score_fitted(const Problem& p, const ScoreOptions& o, float* out, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(p.h_kv), static_cast<unsigned>(p.batches()));
  if (o.score == Score::kLeverage) {
    const int bytes = p.d * p.d * 4 + p.n_kv;
    allow_shared(leverage_kernel<T>, bytes, "score");
    leverage_kernel<T><<<grid, kThreads, static_cast<std::size_t>(bytes), stream>>>(
        p, static_cast<float>(o.ridge), out);
    return check_launch("score", "leverage_kernel");
  }
  const int clusters =
      static_cast<int>(std::min<std::int64_t>(o.clusters > 0 ? o.clusters : p.d + 1, p.n_kv));
  const int bytes = KMeansShared::bytes(clusters, p.d);
  allow_shared(kmeans_kernel<T>, bytes, "score");
  kmeans_kernel<T><<<grid, kThreads, static_cast<std::size_t>(bytes), stream>>>(
      p, clusters, o.seed, static_cast<int>(o.iterations), o.cluster_score, out);
  check_launch("score", "kmeans_kernel");
}
template void score_fitted<bf16>(const Problem&, const ScoreOptions&, float*, cudaStream_t);
template void score_fitted<f16>(const Problem&, const ScoreOptions&, float*, cudaStream_t);

}  // namespace prescore::cuda
