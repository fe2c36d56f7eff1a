#include "common/isa.h"

#include <algorithm>
#include <cstdlib>
#include <string>

#include "common/check.h"
#include "tile/tile.h"

#if defined(__x86_64__)
#include <cpuid.h>
#if defined(__linux__)
#include <sys/syscall.h>
#include <unistd.h>
#endif
#endif

namespace prescore {
namespace {

struct Name {
  Isa isa;
  std::string_view name;
};
constexpr Name kNames[] = {
    {Isa::kScalar, "scalar"},    {Isa::kSse2, "sse2"},     {Isa::kNeon, "neon"},
    {Isa::kAvx2, "avx2"},        {Isa::kAvx512, "avx512"}, {Isa::kAvx512Bf16, "avx512-bf16"},
    {Isa::kAmxBf16, "amx-bf16"},
};

Isa parse(std::string_view text, std::string_view source) {
  std::string known;
  for (const Isa isa : available_isas()) {
    if (name_of(isa) == text) return isa;
    known += known.empty() ? "" : ", ";
    known += name_of(isa);
  }
  fail("isa", source, text, "one of " + known);
}

const char* forced = nullptr;

#if defined(__x86_64__) && defined(__linux__)
bool request_amx() noexcept {
  constexpr long kReqXcompPerm = 0x1023;  // ARCH_REQ_XCOMP_PERM (Linux, asm/prctl.h)
  constexpr long kTileData = 18;          // XFEATURE_XTILEDATA
  unsigned a = 0, b = 0, c = 0, d = 0;
  if (!__get_cpuid_count(7, 0, &a, &b, &c, &d)) return false;
  const bool amx_bf16 = (d >> 22) & 1, amx_tile = (d >> 24) & 1;
  return amx_bf16 && amx_tile && syscall(SYS_arch_prctl, kReqXcompPerm, kTileData) == 0;
}
#endif

}  // namespace

std::string_view name_of(Isa isa) noexcept {
  for (const Name& n : kNames)
    if (n.isa == isa) return n.name;
  return "unknown";
}

bool avx512_bf16_usable() noexcept {
#if defined(__x86_64__)
  unsigned a = 0, b = 0, c = 0, d = 0;
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
         __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
         __get_cpuid_count(7, 1, &a, &b, &c, &d) && ((a >> 5) & 1);
#else
  return false;
#endif
}

bool amx_usable() noexcept {
#if defined(__x86_64__) && defined(__linux__)
  static const bool usable = request_amx();
  return usable;
#else
  return false;
#endif
}

std::vector<Isa> available_isas() {
  std::vector<Isa> out;
  for (const tile::Kernels* k : tile::all_kernels()) out.push_back(k->isa);
  std::sort(out.begin(), out.end());
  return out;
}

Isa chosen_isa() {
  if (forced != nullptr) return parse(forced, "forced level");
  static const Isa from_environment = [] {
    const char* text = std::getenv("PRESCORE_ISA");
    return text != nullptr && *text != 0 ? parse(text, "PRESCORE_ISA") : available_isas().back();
  }();
  return from_environment;
}

void set_isa_for_testing(const char* name) { forced = name; }

}  // namespace prescore
