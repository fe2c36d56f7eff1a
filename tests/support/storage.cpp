#include "support/storage.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <vector>

#include "common/views.h"
#include "reference/reference.h"

namespace prescore::test {
namespace {

// As an element of any dtype a NaN: whoever reads a sentinel shows it.
constexpr unsigned char kSentinel = 0xff;

}  // namespace

Storage::Storage(DType dtype, std::array<std::int64_t, 4> shape, Order order)
    : dtype_(dtype), shape_(shape) {
  const auto [b, h, n, d] = shape;
  switch (order) {
    case Order::kDense: stride_ = {h * n * d, n * d, d, 1}; break;
    case Order::kTokens: stride_ = {n * h * d, d, h * d, 1}; break;
    case Order::kPadded: {
      const std::int64_t row = 2 * (d + 5), head = 2 * n * row;
      stride_ = {h * head, head, row, 1};
      break;
    }
  }
  const std::int64_t elements = offset(b - 1, h - 1, n - 1, d - 1) + 1;
  const auto bytes = static_cast<std::size_t>(elements * size_of(dtype));
  const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
  const std::size_t used = (bytes + 256 + page - 1) / page * page;
  void* map =
      mmap(nullptr, used + page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (map == MAP_FAILED) throw std::runtime_error("mmap");
  pages_ = std::shared_ptr<void>(map, [size = used + page](void* p) { munmap(p, size); });
  begin_ = static_cast<unsigned char*>(map);
  end_ = begin_ + used;
  data_ = end_ - bytes;  // the last element ends where reading is an error
  mprotect(end_, page, PROT_NONE);
  std::memset(begin_, kSentinel, used);
}

std::int64_t Storage::offset(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t c) const {
  return b * stride_[0] + h * stride_[1] + i * stride_[2] + c * stride_[3];
}

Tensor Storage::slice(std::int64_t begin, std::int64_t end) const {
  Tensor t = view();
  t.data = data_ + begin * stride_[2] * size_of(dtype_);
  t.shape[2] = end - begin;
  return t;
}

double Storage::get(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t c) const {
  return reference::load(data_, dtype_, offset(b, h, i, c));
}
void Storage::set(std::int64_t b, std::int64_t h, std::int64_t i, std::int64_t c, double x) {
  store_element(data_, dtype_, offset(b, h, i, c), static_cast<float>(x));
}
void Storage::fill_row(std::int64_t b, std::int64_t h, std::int64_t i, double x) {
  for (std::int64_t c = 0; c < shape_[3]; ++c) set(b, h, i, c, x);
}

void Storage::fill_normal(std::mt19937_64& random, double deviation) {
  fill_normal_rows(random, 0, shape_[2], deviation);
}
void Storage::fill_normal_rows(std::mt19937_64& random, std::int64_t begin, std::int64_t end,
                               double deviation) {
  // Float suffices and is fast: every element is rounded anyway.
  std::normal_distribution<float> normal(0.0f, static_cast<float>(deviation));
  for (std::int64_t b = 0; b < shape_[0]; ++b) {
    for (std::int64_t h = 0; h < shape_[1]; ++h) {
      for (std::int64_t i = begin; i < end; ++i) {
        for (std::int64_t c = 0; c < shape_[3]; ++c) {
          store_element(data_, dtype_, offset(b, h, i, c), normal(random));
        }
      }
    }
  }
}

bool Storage::sentinels_intact() const {
  std::vector<bool> element(static_cast<std::size_t>(end_ - begin_), false);
  for (std::int64_t b = 0; b < shape_[0]; ++b) {
    for (std::int64_t h = 0; h < shape_[1]; ++h) {
      for (std::int64_t i = 0; i < shape_[2]; ++i) {
        const std::int64_t first = (data_ - begin_) + offset(b, h, i, 0) * size_of(dtype_);
        std::fill_n(element.begin() + first, shape_[3] * size_of(dtype_), true);
      }
    }
  }
  for (std::size_t i = 0; i < element.size(); ++i) {
    if (!element[i] && begin_[i] != kSentinel) return false;
  }
  return true;
}

bool Storage::same_row(const Storage& other, std::int64_t b, std::int64_t h, std::int64_t i) const {
  return std::memcmp(data_ + offset(b, h, i, 0) * size_of(dtype_),
                     other.data_ + other.offset(b, h, i, 0) * size_of(dtype_),
                     static_cast<std::size_t>(shape_[3] * size_of(dtype_))) == 0;
}

bool Storage::same_bits(const Storage& other) const {
  if (shape_ != other.shape_ || dtype_ != other.dtype_) return false;
  for (std::int64_t b = 0; b < shape_[0]; ++b) {
    for (std::int64_t h = 0; h < shape_[1]; ++h) {
      for (std::int64_t i = 0; i < shape_[2]; ++i) {
        if (!same_row(other, b, h, i)) return false;
      }
    }
  }
  return true;
}

}  // namespace prescore::test
