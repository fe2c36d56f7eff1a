#include "common/keep_tiles.h"

#include "common/isa.h"

#if defined(__x86_64__) && defined(PRESCORE_HAVE_AMX)
#include <immintrin.h>
#define PRESCORE_TILES __attribute__((target("amx-tile")))
#endif

namespace prescore::host {

#ifdef PRESCORE_TILES
namespace {
// gcc does not apply the attribute to constructors.
PRESCORE_TILES void store(void* config) { _tile_storeconfig(config); }
PRESCORE_TILES void load(const void* config) { _tile_loadconfig(config); }
}  // namespace

KeepTiles::KeepTiles() noexcept {
  if (amx_usable()) store(saved_.data());
}

KeepTiles::~KeepTiles() {
  if (amx_usable() && saved_[0] != 0) load(saved_.data());
}

#else

KeepTiles::KeepTiles() noexcept = default;
KeepTiles::~KeepTiles() = default;

#endif

}  // namespace prescore::host
