// SHA-256 (FIPS 180-4), for names of things: nothing here is secret.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

namespace prescore::host {

class Sha256 {
 public:
  void add(std::span<const std::byte> bytes);
  void add(const std::string& text) { add(std::as_bytes(std::span(text))); }
  /// 64 hexadecimal digits; ends the message.
  std::string digits();

 private:
  void block();

  std::array<std::uint32_t, 8> state_ = {0x6a09e667, 0xbb67ae85, 0x3c6ef372, 0xa54ff53a,
                                         0x510e527f, 0x9b05688c, 0x1f83d9ab, 0x5be0cd19};
  std::array<std::uint8_t, 64> pending_{};
  std::size_t held_ = 0;
  std::uint64_t bytes_ = 0;
};

}  // namespace prescore::host
