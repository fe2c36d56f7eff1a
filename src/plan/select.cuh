// Choosing the best of many coded candidates within a budget, by a whole block, in a fixed order.
#pragma once

#include "plan/route.cuh"

namespace prescore::cuda {

inline constexpr int kSelectThreads = 128, kSelectWarps = kSelectThreads / 32;

struct SelectScratch {
  int bin[256];
  int share[3][kSelectWarps];
  int found[3];
};

/// Candidates whose rank exceeds `rank` are taken; of those with this rank the first ones, while
/// they have `left` keys together.
struct Threshold {
  std::uint32_t rank;
  int left;
};

/// The highest of 256 bins, counted from the last, at which more than `limit` keys are reached, and
/// what the bins above it leave of the limit. Bin 0 where they are never reached: then found[2]
/// = 1.
__device__ __forceinline__ void find_bin(SelectScratch& s, int limit) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32;
  __syncthreads();
  if (thread < 32) {
    int mine = 0, bins[8];
#pragma unroll
    for (int i = 0; i < 8; ++i) mine += bins[i] = s.bin[255 - (lane * 8 + i)];
    int before = mine;  // inclusive, then exclusive
    for (int step = 1; step < 32; step *= 2) {
      const int other = __shfl_up_sync(~0u, before, step);
      if (lane >= step) before += other;
    }
    const int after = before;
    before -= mine;
    if (lane == 31 && after <= limit) s.found[0] = 0, s.found[1] = limit - after, s.found[2] = 1;
    if (before <= limit && after > limit) {
      int i = 0;
      while (before + bins[i] <= limit) before += bins[i++];
      s.found[0] = 255 - (lane * 8 + i), s.found[1] = limit - before, s.found[2] = 0;
    }
  }
  __syncthreads();
}

/// f(j, code[j]) for j = first + mine, then each step-th; four are fetched before the first is
/// used. Threads of one `first` are called together: behind the last with code 0.
template <typename F>
__device__ __forceinline__ void each_code(const std::uint32_t* code, int first, int last, int step,
                                          int mine, const F& f) {
  constexpr int kTogether = 4;
  for (; first < last; first += kTogether * step) {
    std::uint32_t c[kTogether];
#pragma unroll
    for (int u = 0; u < kTogether; ++u) {
      const int j = first + u * step + mine;
      c[u] = j < last ? code[j] : 0u;
    }
#pragma unroll
    for (int u = 0; u < kTogether; ++u) f(first + u * step + mine, c[u]);
  }
}

__device__ inline Threshold find_threshold(SelectScratch& s, const std::uint32_t* code, int n,
                                           int limit) {
  const int thread = static_cast<int>(threadIdx.x);
  std::uint32_t high = 0;
  for (int half = 0; half < 2; ++half) {
    __syncthreads();
    for (int i = thread; i < 256; i += kSelectThreads) s.bin[i] = 0;
    __syncthreads();
    each_code(code, 0, n, kSelectThreads, thread, [&](int, std::uint32_t c) {
      const std::uint32_t r = Code::rank(c);
      if (r == 0) return;
      if (half == 0)
        atomicAdd(&s.bin[r >> 8], Code::keys(c));
      else if (r >> 8 == high)
        atomicAdd(&s.bin[r & 255], Code::keys(c));
    });
    find_bin(s, limit);
    if (half == 0) {
      if (s.found[2] != 0) return {0, 0};  // all fit: ranks begin at 1
      high = static_cast<std::uint32_t>(s.found[0]);
      limit = s.found[1];
    }
  }
  return {high << 8 | static_cast<std::uint32_t>(s.found[0]), s.found[1]};
}

/// Larger for larger scores; NaN is last.
__device__ __forceinline__ std::uint32_t score_order(float x) {
  const std::uint32_t u = __float_as_uint(x);
  return x != x ? 0u : (u & 0x80000000u) != 0 ? ~u : u | 0x80000000u;
}

/// Scores above `code` are taken, and the first `ties` that have it.
struct Last {
  std::uint32_t code;
  int ties;
};

/// Of the `count` best scores of [first, last).
__device__ inline Last find_last(SelectScratch& s, const float* score, int first, int last,
                                 int count) {
  const int thread = static_cast<int>(threadIdx.x);
  std::uint32_t prefix = 0;
  for (int shift = 24; shift >= 0; shift -= 8) {
    __syncthreads();
    for (int i = thread; i < 256; i += kSelectThreads) s.bin[i] = 0;
    __syncthreads();
    for (int j = first + thread; j < last; j += kSelectThreads) {
      const std::uint32_t c = score_order(score[j]);
      if (shift == 24 || c >> (shift + 8) == prefix) atomicAdd(&s.bin[c >> shift & 255], 1);
    }
    find_bin(s, count);
    if (shift == 24 && s.found[2] != 0) return {0, last - first};  // all
    prefix = prefix << 8 | static_cast<std::uint32_t>(s.found[0]);
    count = s.found[1];
  }
  return {prefix, count};
}

__device__ __forceinline__ int scan_warp(int x, int lane) {  // inclusive
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(~0u, x, step);
    if (lane >= step) x += other;
  }
  return x;
}

/// What all threads before this one have together; `all`: and all of them.
__device__ __forceinline__ int scan_block(SelectScratch& s, int x, int& all) {
  const int lane = static_cast<int>(threadIdx.x) % 32, warp = static_cast<int>(threadIdx.x) / 32;
  const int until = scan_warp(x, lane);
  __syncthreads();
  if (lane == 31) s.share[0][warp] = until;
  __syncthreads();
  int before = until - x;
  all = 0;
  for (int w = 0; w < kSelectWarps; ++w) {
    if (w < warp) before += s.share[0][w];
    all += s.share[0][w];
  }
  return before;
}

/// Calls write(i, at) for all i of [first, last) that have a bucket, bucket(i) >= 0: `at` counts on
/// from next[bucket], in the order of i. Warps take turns; in a warp those of one bucket are
/// counted before each lane.
template <typename Of, typename Write>
__device__ void place_by_bucket(int* next, int first, int last, const Of& bucket,
                                const Write& write) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  for (; first < last; first += kSelectThreads) {
    const int i = first + thread, mine = i < last ? bucket(i) : -1;
    const unsigned alike = __match_any_sync(~0u, mine);
    const int rank = __popc(alike & ((1u << lane) - 1));
    for (int w = 0; w < kSelectWarps; ++w) {
      __syncthreads();
      if (w != warp || mine < 0) continue;
      const int at = next[mine] + rank;
      __syncwarp(alike);
      if (rank == 0) next[mine] += __popc(alike);
      write(i, at);
    }
  }
}

/// Calls take(j, place) for those that are taken, stand(j, place) for those that are not but have a
/// share above `worth`, both numbered in the order of j. Each warp has a run of candidates, which
/// it passes twice: to count, then to write.
template <typename Take, typename Stand>
__device__ void select(SelectScratch& s, const std::uint32_t* code, int n, Threshold th,
                       float worth, const Take& take, const Stand& stand, int& taken, int& stood) {
  const int thread = static_cast<int>(threadIdx.x), lane = thread % 32, warp = thread / 32;
  const int run = (n + kSelectThreads - 1) / kSelectThreads * 32;
  const int first = min(warp * run, n), last = min(first + run, n);

  // Keys of the candidates at the threshold, before each warp.
  int ties = 0;
  each_code(code, first, last, 32, lane, [&](int, std::uint32_t c) {
    if (c != 0 && Code::rank(c) == th.rank) ties += Code::keys(c);
  });
  for (int step = 16; step > 0; step /= 2) ties += __shfl_xor_sync(~0u, ties, step);
  __syncthreads();
  if (lane == 0) s.share[2][warp] = ties;
  __syncthreads();
  int ties_before = 0;
  for (int w = 0; w < warp; ++w) ties_before += s.share[2][w];

  int at[2] = {0, 0};
  for (int pass = 0; pass < 2; ++pass) {
    int tied = ties_before;
    each_code(code, first, last, 32, lane, [&](int j, std::uint32_t c) {
      const bool tie = c != 0 && Code::rank(c) == th.rank;
      bool in = Code::rank(c) > th.rank;
      if (__any_sync(~0u, tie)) {
        const int mine = tie ? Code::keys(c) : 0, until = tied + scan_warp(mine, lane);
        in = in || (tie && until <= th.left);
        tied = __shfl_sync(~0u, until, 31);
      }
      const bool stands = c != 0 && !in && Code::share(c) > worth;
      const unsigned ins = __ballot_sync(~0u, in), standing = __ballot_sync(~0u, stands);
      if (pass == 1) {
        const unsigned before = (1u << lane) - 1;
        if (in) take(j, at[0] + __popc(ins & before));
        if (stands) stand(j, at[1] + __popc(standing & before));
      }
      at[0] += __popc(ins);
      at[1] += __popc(standing);
    });
    if (pass == 1) break;
    if (lane == 0) s.share[0][warp] = at[0], s.share[1][warp] = at[1];
    __syncthreads();
    taken = stood = at[0] = at[1] = 0;
    for (int w = 0; w < kSelectWarps; ++w) {
      if (w == warp) at[0] = taken, at[1] = stood;
      taken += s.share[0][w], stood += s.share[1][w];
    }
  }
  __syncthreads();
}

}  // namespace prescore::cuda
