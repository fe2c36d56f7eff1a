// Numbers out of a fuzzer's bytes.
#pragma once

#include <cstdint>
#include <cstring>

namespace prescore::fuzz {

class Input {
 public:
  Input(const std::uint8_t* data, std::size_t size) : data_(data), left_(size) {}

  bool empty() const { return left_ == 0; }

  template <typename T>
  T take() {
    T x{};
    const std::size_t n = left_ < sizeof x ? left_ : sizeof x;
    if (n > 0) std::memcpy(&x, data_, n);
    data_ += n, left_ -= n;
    return x;
  }
  /// Uniform in [low, high] for uniform bytes.
  std::int64_t between(std::int64_t low, std::int64_t high) {
    return low + static_cast<std::int64_t>(take<std::uint16_t>()) % (high - low + 1);
  }
  bool chance(int one_in) { return take<std::uint8_t>() % one_in == 0; }
  /// Mostly a sensible number, sometimes any.
  std::int64_t number(std::int64_t low, std::int64_t high) {
    if (!chance(32)) return between(low, high);
    const std::int64_t any = take<std::int64_t>();
    return chance(2) ? any : any % 64 - 32;
  }

 private:
  const std::uint8_t* data_;
  std::size_t left_;
};

}  // namespace prescore::fuzz
