// Keyword arguments as the library's options, under the names of the C++ members.
#pragma once

#include <nanobind/nanobind.h>

#include "prescore/attention.h"

namespace prescore::python {

namespace nb = nanobind;

/// Members of PlanOptions; is_causal, scale, compute, threads, stream; and mappings `index`,
/// `scoring` and `hyper` with those of IndexOptions, ScoreOptions and HyperOptions. None: the
/// default. Throws TypeError for unknown names and wrong types, Error for unknown values.
Options to_options(const nb::dict& arguments);
IndexOptions to_index_options(const nb::dict& arguments);
/// ScoreOptions and, as for to_options, `threads`.
ScoreOptions to_score_options(const nb::dict& arguments, int& threads);

void bind_options(nb::module_& m);

}  // namespace prescore::python
