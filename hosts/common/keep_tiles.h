// Keeps a host's AMX tile configuration over our operations.
#pragma once

#include <array>
#include <cstdint>

namespace prescore::host {

/// The configuration of the tile unit belongs to a thread. ggml loads its own once a thread and
/// relies on it ever after (ggml-cpu/amx/mmq.cpp); our kernels load another and release it, after
/// which ggml's next tile instruction would be illegal. Every thread that the host lends holds one
/// of these while it is ours. Does nothing where there are no tiles.
class KeepTiles {
 public:
  KeepTiles() noexcept;
  ~KeepTiles();
  KeepTiles(const KeepTiles&) = delete;
  KeepTiles& operator=(const KeepTiles&) = delete;

 private:
  alignas(64) std::array<std::uint8_t, 64> saved_{};  // palette 0: not configured
};

}  // namespace prescore::host
