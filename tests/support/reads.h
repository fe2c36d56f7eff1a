// What each query of a plan reads, whatever its tiles and parts.
#pragma once

#include <cstdint>
#include <map>
#include <tuple>

#include "support/cases.h"

namespace prescore::test {

using Query = std::tuple<std::int64_t, std::int64_t, std::int64_t>;  // batch, head, position
using Reads = std::map<std::int64_t, float>;                         // key, log-weight

/// Over all parts, of a plan that the heads of a group share. A key read twice, and one that the
/// query does not see, fail.
std::map<Query, Reads> reads_by_query(const Case&, const Visibility&, const Plan&);

}  // namespace prescore::test
