// Angular hashing on the GPU, and the keys of spans in Hamming order (plan/lsh.h).
#include <algorithm>

#include "common/mma.cuh"
#include "plan/hyper_cuda.cuh"
#include "plan/select.cuh"

namespace prescore::cuda {
namespace {

constexpr int kThreads = kSelectThreads, kWarps = kThreads / 32, kMostColumns = 256;

/// A direction as a parameter: the CPU draws it, and a graph keeps it.
struct Direction {
  float x[kMostColumns];
};
__global__ void set_direction(const Direction from, int d, float* to) {
  if (static_cast<int>(threadIdx.x) < d) to[threadIdx.x] = from.x[threadIdx.x];
}

__device__ __forceinline__ int hamming(unsigned code) {
  return static_cast<int>(hamming_place(code));
}

// Products of rows with the directions: kept [bits][n] for keys, of queries only the bucket. A warp
// has a row.
template <typename T, bool kKeys>
__global__ void project(const View x, const Hyper hyper, int h, int n, int d, std::int64_t rows) {
  const std::int64_t i = (std::int64_t{blockIdx.x} * blockDim.x + threadIdx.x) / 32;
  if (i >= rows) return;
  const int lane = static_cast<int>(threadIdx.x) % 32;
  const T* from = row<T>(x, i / n / h, i / n % h, i % n);
  unsigned code = 0;
  for (int bit = 0; bit < hyper.bits; ++bit) {
    float sum = 0;
    for (int c = 2 * lane; c < d; c += 64) {
      const float2 v = unpack<T>(*reinterpret_cast<const std::uint32_t*>(from + c));
      const float* direction = hyper.direction + bit * d + c;
      sum += v.x * direction[0] + v.y * direction[1];
    }
    for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
    if (kKeys && lane == 0) hyper.product[(i / n * hyper.bits + bit) * n + i % n] = sum;
    code |= ((hyper.negated ? -sum : sum) > 0 ? 1u : 0u) << bit;
  }
  if (!kKeys && lane == 0) hyper.place[i] = static_cast<std::uint16_t>(hamming(code));
}

// One block: the keys of the span that ends at a leaf, those that survive, by bucket.
class SpanSorter {
 public:
  __device__ SpanSorter(const Problem& p, const Hyper& hyper, SelectScratch& scratch, int* count,
                        float* centre)
      : hyper_(hyper), scratch_(scratch), count_(count), centre_(centre),
        thread_(static_cast<int>(threadIdx.x)), leaf_(static_cast<int>(blockIdx.x) + 1),
        head_(static_cast<int>(blockIdx.y)), n_(p.n_kv) {
    const HyperSizes& s = hyper.sizes;
    end_ = static_cast<int>(s.far_end(leaf_));
    sinks_ = static_cast<int>(min(s.sinks, static_cast<std::int64_t>(end_)));
    begin_ = max(static_cast<int>(s.far_end(HyperSizes::before(leaf_))), sinks_);
    product_ = hyper.product + std::int64_t{head_} * hyper.bits * n_;
    score_ = hyper.scores == nullptr ? nullptr : hyper.scores + std::int64_t{head_} * n_;
    all_ = hyper.selected == 0 || end_ - sinks_ <= hyper.selected ||
           (s.causal && end_ < kSegment);  // before the first fit of the scores
  }

  __device__ void run() {
    if (!all_) find_bar();
    for (int bit = 0; bit < hyper_.bits; ++bit) find_centre(bit);
    for (int i = thread_; i < hyper_.buckets(); i += kThreads) count_[i] = 0;
    __syncthreads();
    for (int j = begin_ + thread_; j < end_; j += kThreads)
      if (survives(j)) atomicAdd(&count_[place(j)], 1);
    __syncthreads();
    find_starts();
    write();
  }

 private:
  __device__ bool survives(int j) const {
    if (all_) return true;
    const std::uint32_t c = score_order(score_[j]);
    return c > bar_.code || (c == bar_.code && j < ties_end_);
  }
  __device__ int place(int j) const {
    unsigned code = 0;
    for (int bit = 0; bit < hyper_.bits; ++bit)
      code |= (product_[std::int64_t{bit} * n_ + j] > centre_[bit] ? 1u : 0u) << bit;
    return hamming(code);
  }

  // The score of the last key that survives, and where the keys end that do though they only equal
  // it.
  __device__ void find_bar() {
    bar_ = find_last(scratch_, score_, sinks_, end_, hyper_.selected);
    ties_end_ = sinks_;
    for (int first = sinks_, ties = 0; first < end_ && ties < bar_.ties; first += kThreads) {
      const int j = first + thread_;
      const bool tie = j < end_ && score_order(score_[j]) == bar_.code;
      int all = 0;
      const int mine = ties + scan_block(scratch_, tie ? 1 : 0, all);
      ties += all;
      ties_end_ = first + kThreads;
      if (ties < bar_.ties) continue;
      __syncthreads();
      if (tie && mine + 1 == bar_.ties) scratch_.found[0] = j + 1;
      __syncthreads();
      ties_end_ = scratch_.found[0];
    }
  }

  // The mean of the products that are finite.
  __device__ void find_centre(int bit) {
    float* shared = reinterpret_cast<float*>(scratch_.bin);  // [warps] sums, counts
    float sum = 0, count = 0;
    if (hyper_.centred)
      for (int j = begin_ + thread_; j < end_; j += kThreads) {
        const float x = product_[std::int64_t{bit} * n_ + j];
        if (isfinite(x) && survives(j)) sum += x, ++count;
      }
    for (int step = 16; step > 0; step /= 2)
      sum += __shfl_xor_sync(~0u, sum, step), count += __shfl_xor_sync(~0u, count, step);
    __syncthreads();
    if (thread_ % 32 == 0) shared[thread_ / 32] = sum, shared[kWarps + thread_ / 32] = count;
    __syncthreads();
    if (thread_ != 0) return;
    sum = count = 0;
    for (int w = 0; w < kWarps; ++w) sum += shared[w], count += shared[kWarps + w];
    centre_[bit] = count > 0 ? sum / count : 0;
  }

  // count_ <- where each bucket begins, as start says too.
  __device__ void find_starts() {
    std::int32_t* start =
        hyper_.start + (std::int64_t{head_} * hyper_.leaves + leaf_ - 1) * (hyper_.buckets() + 1);
    int before = 0;
    for (int first = 0; first < hyper_.buckets(); first += kThreads) {
      const int i = first + thread_;
      int all = 0;
      const int at = before + scan_block(scratch_, i < hyper_.buckets() ? count_[i] : 0, all);
      if (i < hyper_.buckets()) start[i] = count_[i] = at;
      before += all;
    }
    if (thread_ == 0) start[hyper_.buckets()] = before;
  }

  __device__ void write() {
    std::int32_t* order = hyper_.order + head_ * hyper_.ordered + hyper_.offset(leaf_);
    place_by_bucket(
        count_, begin_, end_, [&](int j) { return survives(j) ? place(j) : -1; },
        [&](int j, int at) { order[at] = j; });
  }

  const Hyper& hyper_;
  SelectScratch& scratch_;
  int* count_;
  float* centre_;
  int thread_, leaf_, head_, n_, begin_, end_, sinks_, ties_end_ = 0;
  bool all_;
  Last bar_{};
  const float *product_, *score_;
};

__global__ __launch_bounds__(kThreads) void sort_spans(const Problem p, const Hyper hyper) {
  __shared__ SelectScratch scratch;
  __shared__ int count[1 << kMostBits];
  __shared__ float centre[kMostBits];
  SpanSorter(p, hyper, scratch, count, centre).run();
}

template <typename T, bool kKeys>
void launch_project(const Problem& p, const Hyper& hyper, cudaStream_t stream) {
  const int h = kKeys ? p.h_kv : p.h_q, n = kKeys ? p.n_kv : p.n_q;
  const std::int64_t rows = std::int64_t{p.sequences} * h * n;
  project<T, kKeys><<<static_cast<unsigned>((rows + kWarps - 1) / kWarps), kThreads, 0, stream>>>(
      kKeys ? p.k : p.q, hyper, h, n, p.d, rows);
  check_launch("plan", "project");
}

}  // namespace

template <typename T>
void hash_hyper(const Problem& p, const Hyper& hyper, cudaStream_t stream) {
  const AngularHash hash(hyper.bits, p.d, hyper.seed);
  for (int bit = 0; bit < hyper.bits; ++bit) {
    Direction direction{};
    std::copy_n(hash.direction(bit), p.d, direction.x);
    set_direction<<<1, kMostColumns, 0, stream>>>(direction, p.d, hyper.direction + bit * p.d);
    check_launch("plan", "set_direction");
  }
  launch_project<T, true>(p, hyper, stream);
  launch_project<T, false>(p, hyper, stream);
  const dim3 grid(static_cast<unsigned>(hyper.leaves), static_cast<unsigned>(p.sequences * p.h_kv));
  sort_spans<<<grid, kThreads, 0, stream>>>(p, hyper);
  check_launch("plan", "sort_spans");
}
template void hash_hyper<bf16>(const Problem&, const Hyper&, cudaStream_t);
template void hash_hyper<f16>(const Problem&, const Hyper&, cudaStream_t);

}  // namespace prescore::cuda
