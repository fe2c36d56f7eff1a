// What perplexity is measured of: which tokens of a text are scored, and how they are read.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace CLI {
class App;
}

namespace prescore::cli {

/// Tokens that are scored at once: their logits are kept.
inline constexpr std::int64_t kScoredAtOnce = 512;

/// What is scored, and how it is read. `score` tail: the end of the context, after a prompt that
/// the method has read; half: the second half, choosing by tile, which flatters. `tail` dense: as
/// hosts decode by default; strict: by the method, each token choosing for itself.
struct Protocol {
  std::string score = "tail", tail = "dense";
  std::int64_t ctx = 8192, chunks = 1, warmup = 256;
  std::int64_t tail_tokens = 0;  ///< that are scored, rounded up to a tile; 0: a quarter of ctx
  bool from_end = false;         ///< the last ctx * chunks tokens of the text, not the first
  int threads = 1;

  /// Batches that a session needs: tokens read at once, and tokens whose logits are kept.
  std::int64_t batch() const;
  std::int64_t outputs(std::int64_t tile) const;
  /// Where scoring begins: at a tile's first query.
  std::int64_t split(std::int64_t tile) const;
  /// "tail dense", "tail strict" or "half": what tables and files call it.
  std::string name() const;
  /// Throws BadInput or Error.
  void check() const;
};

/// Flags that ppl and the experiment lm share. `tail` as given: with --score half there is none.
struct ProtocolFlags {
  std::string score = "tail";
  std::optional<std::string> tail;
  std::int64_t tail_tokens = 0;
  bool from_end = false;

  void add_to(CLI::App& app);
  /// Checked. Throws BadInput or Error.
  Protocol protocol(std::int64_t ctx, std::int64_t chunks, std::int64_t warmup, int threads) const;
};

/// Throws BadInput unless dense or strict.
void check_tail(const std::string& tail);

}  // namespace prescore::cli
