// The f32 kernels for every target of this architecture, and the choice among all tables.
#undef HWY_DISABLED_TARGETS
#include "hwy/detect_targets.h"
#undef HWY_DISABLED_TARGETS
// Targets between those with a level of their own add nothing here.
#define HWY_DISABLED_TARGETS (HWY_SSSE3 | HWY_SSE4 | PRESCORE_DISABLED_HWY_TARGETS)
#ifdef HWY_AVX3_SPR
#define PRESCORE_DISABLED_HWY_TARGETS (HWY_AVX3_DL | HWY_AVX3_ZEN4 | HWY_AVX3_SPR)
#elif defined(HWY_AVX3_ZEN4)
#define PRESCORE_DISABLED_HWY_TARGETS (HWY_AVX3_DL | HWY_AVX3_ZEN4)
#else
#define PRESCORE_DISABLED_HWY_TARGETS HWY_AVX3_DL
#endif

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "tile/tile_hwy.cpp"
#include "hwy/foreach_target.h"
// After foreach_target.h, as Highway asks.
#include "tile/tile_f32-inl.h"

#if HWY_ONCE
#include "tile/tile_tables.h"

namespace prescore::tile {
namespace {

struct Table {
  std::int64_t target;
  const Kernels* kernels;
  const RowKernels* rows;
};

// Tables of Highway's targets that this machine supports.
const std::vector<Table>& tables() {
  static const std::vector<Table> all = [] {
    const std::vector<Table> compiled = {
#if HWY_TARGETS & HWY_SSE2
      {HWY_SSE2, &N_SSE2::kKernels, &N_SSE2::kRowKernels},
#endif
#if HWY_TARGETS & HWY_AVX2
      {HWY_AVX2, &N_AVX2::kKernels, &N_AVX2::kRowKernels},
#endif
#if HWY_TARGETS & HWY_AVX3
      {HWY_AVX3, &N_AVX3::kKernels, &N_AVX3::kRowKernels},
#endif
#if HWY_TARGETS & HWY_NEON
      {HWY_NEON, &N_NEON::kKernels, &N_NEON::kRowKernels},
#endif
    };
    std::vector<Table> here;
    for (const Table& t : compiled)
      if (t.target & hwy::SupportedTargets()) here.push_back(t);
    return here;
  }();
  return all;
}

template <typename Table>
const Table* best_up_to(const std::vector<const Table*>& all, Isa limit) {
  const Table* best = nullptr;
  for (const Table* t : all)
    if (t->isa <= limit && (best == nullptr || t->isa > best->isa)) best = t;
  return best;
}

}  // namespace

std::vector<const Kernels*> all_kernels() {
  std::vector<const Kernels*> all{&kScalarKernels};
  for (const Table& t : tables()) all.push_back(t.kernels);
#ifdef PRESCORE_HAVE_BF16
  if (avx512_bf16_usable()) all.push_back(&kAvx512Bf16Kernels);
#endif
#ifdef PRESCORE_HAVE_AMX
  if (avx512_bf16_usable() && amx_usable()) all.push_back(&kAmxBf16Kernels);
#endif
  return all;
}

std::vector<const RowKernels*> all_row_kernels() {
  std::vector<const RowKernels*> all{&kScalarRowKernels};
  for (const Table& t : tables()) all.push_back(t.rows);
  return all;
}

const Kernels& kernels(Compute compute, DType keys) {
  static const std::vector<const Kernels*> all = all_kernels();
  static const std::vector<const Kernels*> exact = [] {
    std::vector<const Kernels*> f32;
    for (const Kernels* k : all)
      if (!k->bf16) f32.push_back(k);
    return f32;
  }();
  const bool bf16 = compute == Compute::kBF16 || (compute == Compute::kAuto && keys != DType::kF32);
  return *best_up_to(bf16 ? all : exact, chosen_isa());
}

const RowKernels& row_kernels() {
  static const std::vector<const RowKernels*> all = all_row_kernels();
  return *best_up_to(all, chosen_isa());
}

}  // namespace prescore::tile
#endif  // HWY_ONCE
