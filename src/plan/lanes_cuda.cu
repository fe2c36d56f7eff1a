// Queries by bucket: tiles of lanes.
#include "plan/hyper_cuda.cuh"
#include "plan/select.cuh"

namespace prescore::cuda {
namespace {

constexpr int kThreads = kSelectThreads;

// One block a run and sequence: its queries, of all heads of the list, by bucket; tiles of those
// that share one.
class LaneSorter {
 public:
  __device__ LaneSorter(const Problem& p, const Hyper& hyper, int list, SelectScratch& scratch,
                        int* count)
      : p_(p), hyper_(hyper), scratch_(scratch), count_(count), group_(p.h_q / p.h_kv),
        head_(list * group_), run_(static_cast<int>(blockIdx.x)),
        batch_(static_cast<int>(blockIdx.y)), thread_(static_cast<int>(threadIdx.x)) {
    const HyperSizes& s = hyper.sizes;
    const std::int64_t position = s.causal ? p.n_kv - p.n_q : 0;  // of the first query
    const std::int64_t run = hyper.first_run + run_;
    const std::int64_t first = s.causal ? hyper.begin(run) - position : 0;
    const std::int64_t last = s.causal ? hyper.begin(run + 1) - position : p.n_q;
    first_ = static_cast<int>(max(first, std::int64_t{0}));
    last_ = static_cast<int>(min(last, std::int64_t{p.n_q}));
    // The first tiles of a run may see few enough keys to read them all; then what they share with
    // the others are spans that they do not have.
    while (first_ < last_ && far_leaf(first_) == 0) skip(position);
    if (first_ >= last_) return;
    const std::int64_t end = s.causal ? position + first_ + 1 : p.n_kv, leaf = far_leaf(first_);
    bucket_ = {static_cast<std::int32_t>(leaf),
               static_cast<std::int32_t>(s.step(end, s.far_end(leaf))), 0};
  }

  __device__ void run() {
    for (int i = thread_; i < hyper_.buckets(); i += kThreads) count_[i] = 0;
    __syncthreads();
    const int lanes = max(last_ - first_, 0) * group_;
    for (int i = thread_; i < lanes; i += kThreads) atomicAdd(&count_[place(lane(i))], 1);
    __syncthreads();
    write_tiles();
    write_lanes(lanes);
  }

 private:
  __device__ std::int64_t far_leaf(int query) const {
    const HyperSizes& s = hyper_.sizes;
    return s.far_leaf(s.causal ? p_.n_kv - p_.n_q + query + 1 : p_.n_kv);
  }
  // To the next tile.
  __device__ void skip(std::int64_t position) {
    const std::int64_t size = hyper_.sizes.size;
    first_ = static_cast<int>((position + first_) / size * size + size - position);
  }
  __device__ Lane lane(int i) const {
    const int n = last_ - first_;
    return {head_ + i / n, first_ + i % n};
  }
  __device__ int place(Lane at) const {
    return hyper_.place[(std::int64_t{batch_} * p_.h_q + at.head) * p_.n_q + at.query];
  }

  // count_ <- where each bucket begins.
  __device__ void write_tiles() {
    const std::int64_t at_run = std::int64_t{batch_} * hyper_.runs + run_;
    TileInfo* tile = hyper_.tile + at_run * hyper_.slots;
    Bucket* bucket = hyper_.bucket + at_run * hyper_.slots;
    int lanes = 0, tiles = 0;
    for (int first = 0; first < hyper_.buckets(); first += kThreads) {
      const int i = first + thread_, mine = i < hyper_.buckets() ? count_[i] : 0;
      int all = 0, all_tiles = 0;
      const int at = lanes + scan_block(scratch_, mine, all);
      const int to = tiles + scan_block(scratch_, (mine + kTile - 1) / kTile, all_tiles);
      for (int n = 0; n * kTile < mine; ++n) {
        TileInfo x{};
        x.batch = batch_, x.n_kv = p_.n_kv;
        x.q = static_cast<std::int32_t>(at_run * hyper_.rows) + at + n * kTile;
        x.rows = min(kTile, mine - n * kTile);
        tile[to + n] = x;
        bucket[to + n] = {bucket_.leaf, bucket_.step, i};
      }
      if (i < hyper_.buckets()) count_[i] = at;
      lanes += all, tiles += all_tiles;
    }
    for (int i = tiles + thread_; i < hyper_.slots; i += kThreads) tile[i] = {};
  }

  __device__ void write_lanes(int lanes) {
    Lane* to = hyper_.lane + (std::int64_t{batch_} * hyper_.runs + run_) * hyper_.rows;
    place_by_bucket(
        count_, 0, lanes, [&](int i) { return place(lane(i)); },
        [&](int i, int at) { to[at] = lane(i); });
  }

  const Problem& p_;
  const Hyper& hyper_;
  SelectScratch& scratch_;
  int* count_;
  int group_, head_, run_, batch_, thread_, first_, last_;
  Bucket bucket_{};
};

__global__ __launch_bounds__(kThreads) void lanes_kernel(const Problem p, const Hyper hyper,
                                                         int list) {
  __shared__ SelectScratch scratch;
  __shared__ int count[1 << kMostBits];
  LaneSorter(p, hyper, list, scratch, count).run();
}

}  // namespace

void sort_lanes(const Problem& p, const Hyper& hyper, int list, cudaStream_t stream) {
  const dim3 grid(static_cast<unsigned>(hyper.runs), static_cast<unsigned>(p.sequences));
  lanes_kernel<<<grid, kThreads, 0, stream>>>(p, hyper, list);
  check_launch("plan", "lanes_kernel");
}

}  // namespace prescore::cuda
