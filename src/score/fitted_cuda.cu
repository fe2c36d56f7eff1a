// Leverage and k-means of heads with few keys (Vision Transformers): one block a (batch, key head),
// whose keys stay in shared memory, or in the cache where they are too many. Non-finite keys take
// no part and score +inf.
#include "score/fitted_cuda.cuh"

#include <algorithm>

#include "common/mma.cuh"
#include "common/random.h"

namespace prescore::cuda {
namespace {

constexpr int kThreads = 256, kWarps = kThreads / 32;
constexpr int kMostShared = 96 * 1024;  // with keys: two blocks a multiprocessor, and sm_86 has it

/// The keys of one head.
template <typename T>
struct Keys {
  const T* data;
  std::int64_t stride;
  int n, d;

  __device__ Keys(const Problem& p)
      : data(row<T>(p.k, blockIdx.y, blockIdx.x, 0)), stride(p.k.n), n(p.n_kv), d(p.d) {}
  /// From now on reads a copy in shared memory, rows a bank apart; for all threads of the block.
  __device__ void stage(unsigned char* shared) {
    auto* to = reinterpret_cast<std::uint32_t*>(shared);
    const int pairs = d / 2;
    for (int j = static_cast<int>(threadIdx.x); j < n * pairs; j += kThreads) {
      const int i = j / pairs, c = j % pairs;
      to[i * (pairs + 1) + c] = reinterpret_cast<const std::uint32_t*>(data + i * stride)[c];
    }
    data = reinterpret_cast<const T*>(shared), stride = d + 2;
    __syncthreads();
  }
  static int staged_bytes(int n, int d) { return n * (d + 2) * 2; }
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
  int slices;          // parts of the keys that are summed side by side
  int chosen, centre;  // after [threads] doubles; [clusters][d]
  int total;           // [clusters] distances of members
  int sum, count;      // [slices][clusters][d], [slices][clusters]
  int least;           // [keys] squared distances to seeds
  int label;           // [keys], kNoCluster: not finite
  int bytes;           // then keys [keys][d + 2], where there is room

  __host__ __device__ KMeansShared(int n, int clusters, int d)
      : slices(kThreads / d), chosen(kThreads * 8), centre(chosen + 16),
        total(centre + clusters * d * 4), sum(total + clusters * 4),
        count(sum + slices * clusters * d * 4), least(count + slices * clusters * 4),
        label(least + n * 4), bytes((label + n + 15) / 16 * 16) {}
};
constexpr std::uint8_t kNoCluster = 255;

template <typename T>
class KMeansOf {
 public:
  __device__ KMeansOf(const Problem& p, int clusters, bool staged, unsigned char* shared)
      : keys_(p), clusters_(clusters), thread_(static_cast<int>(threadIdx.x)),
        scratch_(reinterpret_cast<double*>(shared)) {
    const KMeansShared at(keys_.n, clusters, keys_.d);
    slices_ = at.slices;
    least_ = reinterpret_cast<float*>(shared + at.least), label_ = shared + at.label;
    total_ = reinterpret_cast<float*>(shared + at.total);
    chosen_ = reinterpret_cast<int*>(shared + at.chosen);
    centre_ = reinterpret_cast<float*>(shared + at.centre);
    sum_ = reinterpret_cast<float*>(shared + at.sum);
    count_ = reinterpret_cast<float*>(shared + at.count);
    if (staged) keys_.stage(shared + at.bytes);
  }

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
  // Each centre to the mean of its keys; an empty one keeps its place. A thread sums a coordinate
  // over a slice of the keys.
  __device__ void update() {
    const int d = keys_.d, size = clusters_ * d, slice = thread_ / d, column = thread_ % d;
    if (slice < slices_) {
      float *sum = sum_ + slice * size + column, *count = count_ + slice * clusters_;
      for (int c = 0; c < clusters_; ++c) sum[c * d] = 0;
      for (int c = column; c < clusters_; c += d) count[c] = 0;
    }
    __syncthreads();
    if (slice < slices_) {
      float *sum = sum_ + slice * size + column, *count = count_ + slice * clusters_;
      const int each = (keys_.n + slices_ - 1) / slices_, last = min((slice + 1) * each, keys_.n);
      for (int i = slice * each; i < last; ++i) {
        const int c = label_[i];
        if (c == kNoCluster) continue;
        sum[c * d] += keys_.at(i, column);
        if (column == 0) ++count[c];
      }
    }
    __syncthreads();
    for (int j = thread_; j < size; j += kThreads) {
      float sum = 0, count = 0;
      for (int s = 0; s < slices_; ++s)
        sum += sum_[s * size + j], count += count_[s * clusters_ + j / d];
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
  int clusters_, thread_, slices_;
  double* scratch_;
  float *least_, *total_, *centre_, *sum_, *count_;
  std::uint8_t* label_;
  int* chosen_;
};

template <typename T>
__global__ __launch_bounds__(kThreads) void kmeans_kernel(const Problem p, int clusters,
                                                          bool staged, std::uint64_t seed,
                                                          int iterations, ClusterScore kind,
                                                          float* out) {
  extern __shared__ __align__(16) unsigned char shared[];
  const std::uint64_t head = blockIdx.y * static_cast<unsigned>(p.h_kv) + blockIdx.x;
  KMeansOf<T>(p, clusters, staged, shared)
      .run(mix(seed) + head, iterations, kind, out + static_cast<std::int64_t>(head) * p.n_kv);
}

// --- leverage ------------------------------------------------------------------------------------

// Shared memory: m [d][d], first K^T K with the ridge, then its Cholesky factor, then the inverse
// of that; both lower triangles.
template <typename T>
__global__ __launch_bounds__(kThreads) void leverage_kernel(const Problem p, float ridge,
                                                            bool staged, float* out) {
  extern __shared__ __align__(16) unsigned char shared[];
  __shared__ float scratch[kWarps];
  Keys<T> keys(p);
  const int thread = static_cast<int>(threadIdx.x), d = keys.d, n = keys.n;
  float* m = reinterpret_cast<float*>(shared);
  std::uint8_t* finite = shared + d * d * 4;
  if (staged) keys.stage(finite + (n + 15) / 16 * 16);
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
  const int room = Keys<T>::staged_bytes(p.n_kv, p.d);
  if (o.score == Score::kLeverage) {
    const int own = p.d * p.d * 4 + (p.n_kv + 15) / 16 * 16;
    const bool staged = own + room <= kMostShared;
    const int bytes = staged ? own + room : own;
    allow_shared(leverage_kernel<T>, bytes, "score");
    leverage_kernel<T><<<grid, kThreads, static_cast<std::size_t>(bytes), stream>>>(
        p, static_cast<float>(o.ridge), staged, out);
    return check_launch("score", "leverage_kernel");
  }
  const int clusters =
      static_cast<int>(std::min<std::int64_t>(o.clusters > 0 ? o.clusters : p.d + 1, p.n_kv));
  const int own = KMeansShared(p.n_kv, clusters, p.d).bytes;
  const bool staged = own + room <= kMostShared;
  const int bytes = staged ? own + room : own;
  allow_shared(kmeans_kernel<T>, bytes, "score");
  kmeans_kernel<T><<<grid, kThreads, static_cast<std::size_t>(bytes), stream>>>(
      p, clusters, staged, o.seed, static_cast<int>(o.iterations), o.cluster_score, out);
  check_launch("score", "kmeans_kernel");
}
template void score_fitted<bf16>(const Problem&, const ScoreOptions&, float*, cudaStream_t);
template void score_fitted<f16>(const Problem&, const ScoreOptions&, float*, cudaStream_t);

}  // namespace prescore::cuda
