// Tensors for tests: any dtype and memory layout, with a page behind them that must not be touched
// and sentinels everywhere else that must not change.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <random>
#include <span>

#include "prescore/types.h"

namespace prescore::test {

/// How [b, h, n, d] lies in memory.
enum class Order {
  kDense,   ///< [b][h][n][d]
  kTokens,  ///< [b][n][h][d], as projections leave it
  kPadded,  ///< [b][h][n][d + 5], every second head and row
};

class Storage {
 public:
  Storage(DType dtype, std::array<std::int64_t, 4> shape, Order order = Order::kDense);

  Tensor view() const { return {data_, dtype_, shape_, stride_}; }
  MutTensor out() { return {data_, dtype_, shape_, stride_}; }
  /// Keys or queries [begin, end) of every head.
  Tensor slice(std::int64_t begin, std::int64_t end) const;

  const std::array<std::int64_t, 4>& shape() const { return shape_; }
  double get(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t c) const;
  /// Rounded to the dtype.
  void set(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t c, double x);
  void fill_row(std::int64_t b, std::int64_t h, std::int64_t i, double x);
  /// Independent normal elements; in rows of every head where `rows` is given, else everywhere.
  void fill_normal(std::mt19937_64& random, double deviation = 1.0);
  void fill_normal_rows(std::mt19937_64& random, std::int64_t begin, std::int64_t end,
                        double deviation = 1.0);

  /// Nothing outside the elements was written since construction.
  bool sentinels_intact() const;
  /// The same bits in every element.
  bool same_bits(const Storage& other) const;
  /// The same bits in row i.
  bool same_row(const Storage& other, std::int64_t b, std::int64_t h, std::int64_t i) const;

 private:
  std::int64_t offset(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t c) const;

  DType dtype_;
  std::array<std::int64_t, 4> shape_, stride_{};
  std::shared_ptr<void> pages_;
  unsigned char* begin_ = nullptr;  // of the sentinels before the elements
  unsigned char* data_ = nullptr;
  unsigned char* end_ = nullptr;
};

}  // namespace prescore::test
