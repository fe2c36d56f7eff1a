// Measures which heads of a model copy, by letting it read random tokens twice.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "common/profile.h"
#include "common/profile_rule.h"
#include "llama.h"

namespace prescore::host {

/// How long a text of a probe is: `period` random tokens, then the first `repeated` of them again.
struct ProbeSize {
  std::int64_t period = 512, repeated = 512;
};

/// Such a text of a model's ordinary vocabulary, after its first token if it wants one.
struct ProbeText {
  std::vector<llama_token> tokens;
  std::int64_t first = 0;  ///< tokens before the random ones
};
ProbeText probe_text(const llama_vocab* vocab, ProbeSize size, std::uint64_t seed);

/// Scores of all heads from one text, read in a context of its own. Layers whose attention is left
/// to llama.cpp, or is cut by a sliding window shorter than the text, have scores of 0. `on_layer`
/// is called after each layer. Throws Error.
HeadScores probe_heads(llama_model* model, const ModelIdentity& identity, ProbeSize size,
                       std::uint64_t seed, int threads, const std::function<void()>& on_layer = {});

/// A quick probe before a prompt of so many tokens, of which it has at most a twentieth; nothing
/// where the prompt is too short for one.
std::optional<ProbeSize> quick_probe(const llama_model* model, std::int64_t prompt);

/// How a profile was measured, for HeadProfile::how.
std::string describe_probe(ProbeSize size, std::int64_t draws, const RuleOptions& rule);

/// Today, UTC, "2026-11-29".
std::string today();

}  // namespace prescore::host
