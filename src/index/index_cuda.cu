// One block a segment and key head: k-means over its keys, k-means over the centroids into groups,
// members in the order of groups and clusters, means of all nodes.
#include "index/tree.cuh"

namespace prescore::cuda {
namespace {

template <typename T, typename S>
__global__ __launch_bounds__(kIndexThreads, S::kShared) void index_kernel(const Problem p,
                                                                          const IndexView index) {
  extern __shared__ __align__(1024) unsigned char shared[];
  Tree<T, S> tree(p, index, shared);
  if (tree.empty()) return;
  tree.cluster();
  tree.write();
}

template <typename T, typename S>
void launch(const Problem& p, const IndexView& index, cudaStream_t stream) {
  allow_shared(index_kernel<T, S>, S::bytes, "index");
  const dim3 grid(static_cast<unsigned>(index.segments), static_cast<unsigned>(p.h_kv));
  index_kernel<T, S><<<grid, kIndexThreads, S::bytes, stream>>>(p, index);
  check_launch("index", "index_kernel");
}

}  // namespace

template <typename T>
void build_index(const Problem& p, const IndexView& index, cudaStream_t stream) {
  if (index.segments == 0) return;
  const int d = max(p.d, p.d_v);
  if (d <= 64)
    launch<T, Shared<64, 64>>(p, index, stream);
  else if (d > 128)
    launch<T, Shared<256, 64>>(p, index, stream);
  else if (Shared<128, 128>::bytes <= most_shared("index"))
    launch<T, Shared<128, 128>>(p, index, stream);
  else
    launch<T, Shared<128, 64>>(p, index, stream);
}

template void build_index<bf16>(const Problem&, const IndexView&, cudaStream_t);
template void build_index<f16>(const Problem&, const IndexView&, cudaStream_t);

}  // namespace prescore::cuda
