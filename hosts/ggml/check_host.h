// Is the program that loads us one that we know? Asked before it sees any of our structs.
#pragma once

#include <string>

#include "ggml.h"

namespace prescore::host {

/// What differs from ggml to ggml, read from the running host.
struct HostFacts {
  int api_version = 0;
  std::string problem;  ///< why this host is refused; empty: it is known
  ggml_op flash_attn_ext{};
  ggml_op reshape{}, view{}, permute{}, transpose{};
};
HostFacts check_host();

}  // namespace prescore::host
