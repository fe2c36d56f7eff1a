// Perplexity and prefill time of one method on one text.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/layer_set.h"
#include "progress.h"
#include "protocol.h"
#include "report.h"
#include "session.h"

namespace prescore::cli {

struct Setting {
  std::string method;  ///< "stock" or a method's name
  Options options;     ///< the method in options.plan too, unless stock
  host::LayerSet layers;
};

class Measurement {
 public:
  Measurement(const Protocol& protocol, Setting setting, const Model& model, Session& session,
              const std::vector<llama_token>& tokens);

  /// Reads and scores every chunk. Throws Failed.
  Row run();
  std::int64_t scored() const { return losses_.count; }

 private:
  void warm_up();
  void read(std::span<const llama_token> chunk, std::int64_t number);
  void score(std::span<const llama_token> chunk, std::int64_t number);
  Options scoring_options() const;
  OnProgress show(Progress& progress, std::int64_t chunk) const;

  const Protocol& protocol_;
  Setting setting_;
  const Model& model_;
  Session& session_;
  const std::vector<llama_token>& tokens_;
  Row row_;
  Losses losses_;
};

}  // namespace prescore::cli
