// Which models this process has open: a plug-in is told nothing about the model it works for.
#pragma once

#include <cstdint>
#include <istream>
#include <memory>
#include <string>
#include <vector>

#include "common/profile.h"

namespace prescore::host {

/// Paths of the GGUF files that a process has mapped into memory, from the text of
/// /proc/PID/maps, each once. Of files that begin with GGUF's magic; deleted ones are left out.
std::vector<std::string> mapped_ggufs(std::istream& maps);

/// The models of this process; those that cannot be read are left out. Empty on systems without
/// /proc, and where models are read without mapping (--no-mmap).
std::vector<ModelIdentity> mapped_models();

/// The profile for operations of these heads: the one that was named, unless a mapped model of this
/// shape shows that it is another's; else, where mapped models of this shape are one, what is found
/// for it. Null: none; `*note` says why where that is worth a line.
std::shared_ptr<const HeadProfile> profile_of_mapped(
    const std::shared_ptr<const HeadProfile>& named, const std::vector<ModelIdentity>& models,
    std::int64_t heads, std::int64_t kv_heads, std::int64_t head_dim, std::string* note);

}  // namespace prescore::host
