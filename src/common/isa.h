// Which kernels this machine can run.
#pragma once

#include <string_view>
#include <vector>

namespace prescore {

/// Levels in rising order of preference.
enum class Isa { kScalar, kSse2, kNeon, kAvx2, kAvx512, kAvx512Bf16, kAmxBf16 };

std::string_view name_of(Isa isa) noexcept;

/// Levels compiled into the library and supported by machine and kernel, ascending.
std::vector<Isa> available_isas();

/// The best level allowed: PRESCORE_ISA (read once) or set_isa_for_testing, else the machine's
/// best. Throws Error when PRESCORE_ISA names no level that this machine has.
Isa chosen_isa();

/// Forces a level ("avx2", ...); null: back to the default. Only for tests: not thread-safe.
void set_isa_for_testing(const char* name);

/// Whether this machine has AVX512-BF16 and the parts of AVX-512 that its kernels use.
bool avx512_bf16_usable() noexcept;

/// Asks the kernel for permission to use AMX tiles, once; false where refused or absent.
bool amx_usable() noexcept;

}  // namespace prescore
