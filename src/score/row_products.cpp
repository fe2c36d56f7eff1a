#include "score/row_products.h"

namespace prescore {

using tile::kLanes;

RowProducts::RowProducts(const RowsF& rows, const tile::Kernels& kernels)
    : kernels_(kernels), count_(static_cast<int>(rows.rows())),
      padded_(static_cast<int>(round_up(rows.rows(), kernels_.block_multiple))),
      d_(static_cast<int>(rows.cols())),
      d_pad_(static_cast<int>(round_up(rows.cols(), kernels_.d_multiple))),
      row_bytes_(std::int64_t{d_pad_} * (kernels_.bf16 ? 2 : 4)), block_(padded_ * row_bytes_) {
  std::vector<const void*> pointers;
  for (Eigen::Index i = 0; i < rows.rows(); ++i) pointers.push_back(rows.row(i).data());
  for (int i = 0; i < padded_; i += tile::kMaxBlock) {
    const int n_pad = std::min(tile::kMaxBlock, padded_ - i);
    kernels_.load_k(pointers.data() + i, DType::kF32, std::min(n_pad, count_ - i), n_pad, d_,
                    d_pad_, block_.data() + i * row_bytes_);
  }
}

float* RowProducts::run(const RowsF& keys, std::int64_t first, std::int64_t n,
                        Scratch& scratch) const {
  scratch.pointers.clear();
  for (std::int64_t i = 0; i < round_up(n, kLanes); ++i)
    scratch.pointers.push_back(keys.row(first + i).data());
  return run(scratch.pointers.data(), DType::kF32, round_up(n, kLanes), scratch);
}

float* RowProducts::run(const void* const* keys, DType dtype, std::int64_t n,
                        Scratch& scratch) const {
  const auto vecs = static_cast<int>(round_up(n, kLanes) / kLanes);
  std::byte* packed = scratch.keys.reserve(vecs * kLanes * row_bytes_);
  kernels_.pack_q(keys, dtype, static_cast<int>(n), vecs, d_, d_pad_, packed);
  float* s = scratch.s.reserve(std::int64_t{vecs} * padded_ * kLanes);
  for (int v = 0; v < vecs; v += kernels_.strip)
    for (int i = 0; i < padded_; i += tile::kMaxBlock)
      kernels_.scores(block_.data() + i * row_bytes_, std::min(tile::kMaxBlock, padded_ - i),
                      packed + v * kLanes * row_bytes_, std::min(kernels_.strip, vecs - v), d_pad_,
                      s + (std::int64_t{v} * padded_ + i) * kLanes,
                      std::ptrdiff_t{padded_} * kLanes);
  return s;
}

}  // namespace prescore
