// Included first into ggml-cpu/amx/mmq.cpp. GCC 12 declares that _tile_loadconfig reads 8 bytes of
// the 64, drops the stores to the rest of ggml's tile configuration as dead, and the first tile
// load dies of SIGILL. Here the operand is the whole configuration.
#pragma once
#if defined(__GNUC__) && !defined(__clang__) && defined(__AMX_TILE__)
#include <immintrin.h>
static inline void prescore_tile_loadconfig(const void* config) {
  __asm__ volatile("ldtilecfg %0" ::"m"(*static_cast<const char(*)[64]>(config)));
}
#define _tile_loadconfig prescore_tile_loadconfig
#endif
