#include "attend/certificate_cuda.cuh"

#include <algorithm>

#include "attend/attend_cuda.cuh"
#include "attend/certificate.h"
#include "attend/rows.cuh"
#include "plan/plan_cuda.cuh"

namespace prescore::cuda {
namespace {

constexpr int kMostSplits = 16, kSplitKeys = 4096;

// The tile of a query: those of a batch entry follow each other, the last first.
__device__ int tile_of(const Problem& p, int batch, int query) {
  const int position = p.causal ? p.n_kv - p.n_q : 0;
  const int last = floor_divide(position + p.n_q - 1, p.tile);
  const int tiles = last - floor_divide(position, p.tile) + 1;
  return batch * tiles + last - floor_divide(position + query, p.tile);
}

// What a call of its own needs: copies of the queries, one a key range, and its plans.
template <typename T>
__global__ void prepare_kernel(const Problem p, const Certificate c) {
  const int row_at = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y),
            b = static_cast<int>(blockIdx.z);
  const int split = row_at / c.rows, query = c.query[row_at % c.rows];
  const T* from = row<T>(p.q, b, head, query);
  T* to =
      static_cast<T*>(c.q) + ((std::int64_t{b} * p.h_q + head) * c.splits * c.rows + row_at) * p.d;
  for (int i = static_cast<int>(threadIdx.x); i < p.d; i += static_cast<int>(blockDim.x))
    to[i] = from[i];
  if (threadIdx.x != 0) return;
  if (b == 0 && head == 0) c.end[row_at] = p.causal ? max(0, p.n_kv - p.n_q + query + 1) : p.n_kv;
  if (row_at % c.rows != 0) return;
  const int each = (p.n_kv + c.splits - 1) / c.splits;
  const int begin = min(split * each, p.n_kv), end = min(begin + each, p.n_kv);
  if (head == 0) c.tile[b * c.splits + split] = {b, split * c.rows, c.rows, 0, 0, p.n_kv, 0, 0};
  if (head < p.h_kv) c.reads[(head * p.sequences + b) * c.splits + split] = {begin, end, 0, 0, 0};
}

// exact, whole <- the ranges of a row together; a block a row.
template <typename T>
__global__ void join_kernel(const Problem p, const Certificate c) {
  const int row_at = static_cast<int>(blockIdx.x) % c.rows;
  const std::int64_t bh = blockIdx.x / static_cast<unsigned>(c.rows),
                     from = bh * c.splits * c.rows + row_at;
  float top = -INFINITY, sum = 0;
  for (int s = 0; s < c.splits; ++s) top = fmaxf(top, c.lse[from + s * c.rows]);
  for (int s = 0; s < c.splits; ++s)
    if (top > -INFINITY) sum += expf(c.lse[from + s * c.rows] - top);
  const std::int64_t to = bh * c.rows + row_at;
  if (threadIdx.x == 0)
    c.whole[to] = top > -INFINITY ? top + logf(sum) : -INFINITY, c.mass[to] = 1, c.error[to] = 0;
  for (int i = static_cast<int>(threadIdx.x); i < p.d_v; i += static_cast<int>(blockDim.x)) {
    float o = 0;
    for (int s = 0; s < c.splits; ++s) {
      const float weight = top > -INFINITY ? expf(c.lse[from + s * c.rows] - top) / sum : 0.0f;
      if (weight > 0)
        o += weight *
             static_cast<float>(static_cast<const T*>(c.o)[(from + s * c.rows) * p.d_v + i]);
    }
    c.exact[to * p.d_v + i] = o;
  }
}

// Shares of one head that its plan reads of two neighbouring queries; a block a pair and head.
constexpr int kWarps = 4;
template <typename T>
__global__ __launch_bounds__(32 * kWarps) void mass_kernel(const Problem p, const PlanView plan,
                                                           const IndexView index,
                                                           const Certificate c, int first_tile) {
  const int i = static_cast<int>(blockIdx.x), b = static_cast<int>(blockIdx.z);
  const int unit = plan.info(0).unit + static_cast<int>(blockIdx.y);
  const int list = plan.table.list_of[unit] - plan.first_list, head = plan.table.head_of[unit];
  const int query = c.query[i], t = tile_of(p, b, query) - first_tile;
  if (t < 0 || t >= plan.tiles) return;  // of another wave
  const TileInfo tile = plan.tile[t];
  const Reads reads = plan.reads[plan.at(list, t)];
  if (reads.window == 0 && reads.keys == 0) return;  // all of it
  const RowSource<T> source(p, plan, index, tile, list, t, head);
  const int keys = source.total() - reads.nodes;
  const int end = tile.end(p, query - tile.q);
  // Lanes of a row have eight columns each.
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  int width = 1;
  while (8 * width < p.d) width *= 2;
  const int column = lane % width * 8, at_once = 32 / width;
  float q[8];
  const T* from = row<T>(p.q, b, head, query);
  for (int e = 0; e < 8; ++e)
    q[e] = column + e < p.d ? static_cast<float>(from[column + e]) * p.scale : 0.0f;
  float m = -INFINITY, sum = 0;
  for (int first = warp * at_once; first < keys; first += kWarps * at_once) {
    const int r = first + lane / width;
    float s = 0;
    if (r < keys && column < p.d) {
      const uint4 raw = *reinterpret_cast<const uint4*>(source.key(source.find(r)) + column);
      const std::uint32_t word[4] = {raw.x, raw.y, raw.z, raw.w};
      for (int w = 0; w < 4; ++w) {
        const float2 x = unpack<T>(word[w]);
        s += x.x * q[2 * w] + x.y * q[2 * w + 1];
      }
    }
    for (int step = width / 2; step > 0; step /= 2) s += __shfl_xor_sync(~0u, s, step);
    if (r >= keys || source.position(r) >= end) s = -INFINITY;
    const float top = fmaxf(m, s);
    if (top > -INFINITY) sum = sum * exp2f(m - top) + exp2f(s - top);
    m = top;
  }
  __shared__ float parts[kWarps][32][2];
  parts[warp][lane][0] = lane % width == 0 ? m : -INFINITY, parts[warp][lane][1] = sum;
  __syncthreads();
  if (threadIdx.x != 0) return;
  float top = -INFINITY, all = 0;
  for (int j = 0; j < 32 * kWarps; ++j) top = fmaxf(top, parts[j / 32][j % 32][0]);
  for (int j = 0; j < 32 * kWarps; ++j) {
    const float* part = parts[j / 32][j % 32];
    if (part[0] > -INFINITY) all += part[1] * exp2f(part[0] - top);
  }
  const std::int64_t to = (std::int64_t{b} * p.h_q + head) * c.rows + i;
  const float read = top > -INFINITY ? (top + log2f(all)) * kLn2 : -INFINITY;
  c.mass[to] = c.whole[to] == -INFINITY ? 1.0f : fminf(1.0f, expf(read - c.whole[to]));
}

// A warp a head of the wave.
__global__ void mark_kernel(const Problem p, const PlanView plan, const Certificate c) {
  const int head = plan.table.head_of[plan.info(0).unit + static_cast<int>(blockIdx.x)];
  float sum = 0;
  for (int b = 0; b < p.sequences; ++b)
    for (int i = static_cast<int>(threadIdx.x); i < c.rows; i += 32)
      sum += c.mass[(std::int64_t{b} * p.h_q + head) * c.rows + i];
  for (int step = 16; step > 0; step /= 2) sum += __shfl_xor_sync(~0u, sum, step);
  const float mean = sum / static_cast<float>(p.sequences * c.rows);
  if (threadIdx.x == 0) c.redone[head] = mean < c.min_recall ? 1 : 0;
}

// A warp a row.
template <typename T>
__global__ void error_kernel(const Problem p, const Certificate c) {
  const int i = static_cast<int>(blockIdx.x), head = static_cast<int>(blockIdx.y),
            b = static_cast<int>(blockIdx.z);
  const std::int64_t at = (std::int64_t{b} * p.h_q + head) * c.rows + i;
  const T* o = row<T>(p.o, b, head, c.query[i]);
  float difference = 0, size = 0;
  for (int j = static_cast<int>(threadIdx.x); j < p.d_v; j += 32) {
    const float want = c.exact[at * p.d_v + j], d = static_cast<float>(o[j]) - want;
    difference += d * d, size += want * want;
  }
  for (int step = 16; step > 0; step /= 2) {
    difference += __shfl_xor_sync(~0u, difference, step);
    size += __shfl_xor_sync(~0u, size, step);
  }
  if (threadIdx.x == 0) c.error[at] = size > 0 ? sqrtf(difference / size) : 0.0f;
}

}  // namespace

Certificate draw_certificate(const Problem& p, const Options& o) {
  Certificate c;
  check_certify_options(o.certify);
  if (o.certify.samples == 0) return c;
  if (p.cu_q != nullptr)
    fail("attention", "a certificate with device cuda", "packed sequences", "a regular batch");
  if (o.plan.method == Method::kHyper || o.plan.method == Method::kPrescoredHyper)
    fail("attention", "a certificate of hyper", "one", "another method, or no samples");
  check(o.certify.samples <= Certificate::kMostRows / 2, "attention",
        "samples of the certificate with device cuda", o.certify.samples, "at most 32");
  check(p.sequences <= 65535, "attention", "batch entries of a certificate with device cuda",
        p.sequences, "at most 65535");
  if (p.n_q == 0) return c;
  const std::vector<std::int32_t> drawn = draw_queries(p.n_q, o.certify);
  std::copy(drawn.begin(), drawn.end(), c.query);
  c.rows = static_cast<int>(drawn.size());
  c.splits = std::clamp(p.n_kv / kSplitKeys, 1, kMostSplits);
  c.min_recall = o.certify.min_recall;
  return c;
}

void lay_out_certificate(const Problem& p, Arena& arena, Certificate& c) {
  if (!c.wanted()) return;
  const std::int64_t heads = std::int64_t{p.sequences} * p.h_q, copies = heads * c.splits * c.rows;
  c.q = arena.take<std::uint16_t>(copies * p.d), c.o = arena.take<std::uint16_t>(copies * p.d_v);
  c.lse = arena.take<float>(copies);
  c.end = arena.take<std::int32_t>(c.splits * c.rows);
  c.tile = arena.take<TileInfo>(p.sequences * c.splits);
  c.reads = arena.take<Reads>(p.sequences * c.splits * p.h_kv);
  c.table = take_table(arena, p.h_kv, p.h_q);
  c.exact = arena.take<float>(heads * c.rows * p.d_v), c.whole = arena.take<float>(heads * c.rows);
  c.mass = arena.take<float>(heads * c.rows), c.error = arena.take<float>(heads * c.rows);
  c.redone = arena.take<std::uint8_t>(p.h_q);
}

template <typename T>
void attend_samples(const Problem& p, const Certificate& c, cudaStream_t stream) {
  std::vector<ListInfo> lists;
  std::vector<std::int32_t> heads;
  const int group = p.h_q / p.h_kv;
  for (int i = 0; i < p.h_kv; ++i) lists.push_back({i * group, group, 0, 0});
  for (int h = 0; h < p.h_q; ++h) heads.push_back(h);
  put_lists(c.table, lists, heads, stream);
  const auto rows = static_cast<unsigned>(c.splits * c.rows);
  const dim3 all(rows, static_cast<unsigned>(p.h_q), static_cast<unsigned>(p.sequences));
  prepare_kernel<T><<<all, 32, 0, stream>>>(p, c);
  check_launch("attention", "prepare_kernel");
  const auto whole = [&](const void* data, int d) {
    const std::int64_t head = std::int64_t{rows} * d;
    return View{data, head * p.h_q, head, d};
  };
  Problem own = p;
  own.q = whole(c.q, p.d), own.o = whole(c.o, p.d_v), own.lse = c.lse, own.ends = c.end;
  own.n_q = static_cast<int>(rows);
  PlanView plan{};
  plan.tile = c.tile, plan.reads = c.reads, plan.table = c.table;
  plan.tiles = p.sequences * c.splits, plan.lists = p.h_kv, plan.units = p.h_q;
  attend<T>(own, plan, {}, stream);
  join_kernel<T><<<static_cast<unsigned>(c.rows) * static_cast<unsigned>(p.sequences * p.h_q), 64,
                   0, stream>>>(p, c);
  check_launch("attention", "join_kernel");
}

template <typename T>
void measure_reads(const Problem& p, const PlanView& plan, const IndexView& index,
                   const Certificate& c, int first_tile, cudaStream_t stream) {
  const dim3 all(static_cast<unsigned>(c.rows), static_cast<unsigned>(plan.units),
                 static_cast<unsigned>(p.sequences));
  mass_kernel<T><<<all, 32 * kWarps, 0, stream>>>(p, plan, index, c, first_tile);
  check_launch("attention", "mass_kernel");
  if (c.min_recall <= 0) return;
  mark_kernel<<<static_cast<unsigned>(plan.units), 32, 0, stream>>>(p, plan, c);
  check_launch("attention", "mark_kernel");
}

template <typename T>
void measure_errors(const Problem& p, const Certificate& c, cudaStream_t stream) {
  const dim3 all(static_cast<unsigned>(c.rows), static_cast<unsigned>(p.h_q),
                 static_cast<unsigned>(p.sequences));
  error_kernel<T><<<all, 32, 0, stream>>>(p, c);
  check_launch("attention", "error_kernel");
}

std::vector<HeadCertificate> fetch_certificate(const Problem& p, const Certificate& c,
                                               cudaStream_t stream) {
  const std::size_t n = static_cast<std::size_t>(p.sequences) * static_cast<std::size_t>(p.h_q) *
                        static_cast<std::size_t>(c.rows);
  std::vector<float> mass(n), error(n);
  std::vector<std::uint8_t> redone(static_cast<std::size_t>(p.h_q));
  const auto fetch = [&](void* to, const void* from, std::size_t bytes) {
    check_cuda(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream), "attention",
               "reading the certificate");
  };
  fetch(mass.data(), c.mass, n * 4), fetch(error.data(), c.error, n * 4);
  if (c.min_recall > 0) fetch(redone.data(), c.redone, redone.size());  // else nobody wrote it
  check_cuda(cudaStreamSynchronize(stream), "attention", "the certificate");
  std::vector<HeadCertificate> heads =
      summarise(p.sequences, p.h_q, c.rows, p.n_q == 1, [&](std::size_t i) {
        return SampledQuery{double{mass[i]}, double{error[i]}, true};
      });
  for (std::size_t h = 0; h < heads.size(); ++h) heads[h].redone = redone[h] != 0;
  return heads;
}

#define PRESCORE_FOR_TYPE(T)                                                         \
  template void attend_samples<T>(const Problem&, const Certificate&, cudaStream_t); \
  template void measure_reads<T>(const Problem&, const PlanView&, const IndexView&,  \
                                 const Certificate&, int, cudaStream_t);             \
  template void measure_errors<T>(const Problem&, const Certificate&, cudaStream_t);
PRESCORE_FOR_TYPE(bf16)
PRESCORE_FOR_TYPE(f16)

}  // namespace prescore::cuda
