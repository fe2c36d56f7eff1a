// A model and one text, read again and again with some heads sparse and all others dense.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "common/profile.h"
#include "session.h"

namespace prescore::experiments {

/// What one head is in a run, and what all others are: letters of host::Need.
struct Roles {
  char head, others;
};

/// Loss of each scored prediction: after a sparse prompt the tail is read densely (production), or
/// sparsely too, each token choosing for itself (strict).
struct Tails {
  std::vector<double> production, strict;
};

struct HeadReading {
  std::int64_t ctx = 0, tail_tokens = 0;  ///< tail_tokens 0: a quarter
  std::int64_t samples = 0;               ///< pairs of queries of a certificate
};

class HeadReader {
 public:
  /// `sparse` is what a sparse head reads. `text` has ctx tokens.
  HeadReader(const cli::Model&, const cli::ModelFlags&, const HeadReading&, host::ModelIdentity,
             std::vector<llama_token> text, const Options& sparse);

  Tails dense();   ///< the same losses in both
  Tails sparse();  ///< all heads
  /// Head number layer * heads + h in its role, by a head profile.
  Tails with(std::size_t head, Roles);

  /// {"missing", "error"}, [layers * heads] each: of a prompt that was read densely, the share of
  /// the attention of sampled queries that `method` would not read, and the largest relative error
  /// of its outputs. 0 where a layer's attention is not prescore's.
  nlohmann::json certificate(Method);

 private:
  cli::Session& session();
  void prompt(const Options&, std::shared_ptr<const host::HeadProfile>);
  std::vector<double> tail(const Options&);
  Tails with(std::shared_ptr<const host::HeadProfile>);
  Options dense_options() const;

  const cli::Model& model_;
  const cli::ModelFlags& flags_;
  HeadReading reading_;
  host::ModelIdentity identity_;
  std::vector<llama_token> text_;
  Options sparse_;
  std::int64_t split_ = 0;
  std::optional<cli::Session> session_;  // made where a row is missing
};

}  // namespace prescore::experiments
