// Which layers of a model get the sparse method; the others are read densely.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "common/names.h"

namespace prescore::host {

struct LayerSet {
  enum class Kind { kAll, kEven, kOdd, kFirst, kLast };
  Kind kind = Kind::kAll;
  std::int64_t count = 0;   ///< kFirst and kLast
  std::int64_t layers = 0;  ///< of the model; kLast only

  bool contains(std::int64_t layer) const {
    switch (kind) {
      case Kind::kAll: return true;
      case Kind::kEven: return layer % 2 == 0;
      case Kind::kOdd: return layer % 2 != 0;
      case Kind::kFirst: return layer < count;
      case Kind::kLast: return layer >= layers - count;
    }
    return true;
  }
};

/// "all", "even", "odd", "first:N" or "last:N" of a model with `layers` layers. Throws Error.
inline LayerSet parse_layers(std::string_view what, std::string_view text, std::int64_t layers) {
  if (text == "all") return {};
  if (text == "even") return {LayerSet::Kind::kEven, 0, layers};
  if (text == "odd") return {LayerSet::Kind::kOdd, 0, layers};
  for (const auto& [prefix, kind] : {std::pair{std::string_view("first:"), LayerSet::Kind::kFirst},
                                     std::pair{std::string_view("last:"), LayerSet::Kind::kLast}})
    if (text.substr(0, prefix.size()) == prefix)
      return {kind, parse_count(what, text.substr(prefix.size()), 0, layers), layers};
  throw Error(std::string(what) + ", got \"" + std::string(text) +
              "\", want all, even, odd, first:N or last:N");
}

/// 7 of "cache_k_l7"; -1 where a name does not end like that.
inline std::int64_t layer_of_cache(std::string_view name) {
  const std::size_t at = name.rfind("_l");
  if (at == std::string_view::npos || at + 2 >= name.size()) return -1;
  std::int64_t layer = 0;
  for (const char c : name.substr(at + 2)) {
    if (c < '0' || c > '9') return -1;
    layer = layer * 10 + (c - '0');
  }
  return layer;
}

}  // namespace prescore::host
