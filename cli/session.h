// A GGUF model opened with llama.cpp, and one context of it whose attention goes through prescore.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "llama/llama_host.h"
#include "settings.h"

namespace prescore::cli {

/// Fraction done, from 0 to 1.
using OnProgress = std::function<void(double)>;

class Model {
 public:
  /// Throws BadInput where llama.cpp cannot load it, with its last message.
  explicit Model(const ModelFlags& flags);

  llama_model* get() const { return model_.get(); }
  const llama_vocab* vocab() const { return llama_model_get_vocab(get()); }
  int vocab_size() const { return llama_vocab_n_tokens(vocab()); }
  int layers() const { return llama_model_n_layer(get()); }
  std::string description() const;
  /// See host::rotation_of; not with --yarn.
  Rotation rotation() const;

  /// Tokens of a text; `most` > 0: at least that many where the text has them, the rest may be
  /// left.
  std::vector<llama_token> tokenize(const std::string& text, std::int64_t most = 0) const;
  /// Bytes of one token.
  std::string piece(llama_token token) const;

 private:
  std::unique_ptr<llama_model, decltype(&llama_model_free)> model_{nullptr, llama_model_free};
  bool yarn_ = false;
};

/// Sum of the losses (natural log) of predicted tokens.
struct Losses {
  double sum = 0, squares = 0;
  std::int64_t count = 0;
  double mean() const;
  double perplexity() const;
  /// One standard error of the perplexity.
  double error() const;
};

class Session {
 public:
  /// A context for `ctx` tokens, read in batches of at most `batch`, with at most `outputs` rows of
  /// logits at a time. Throws BadInput where it cannot be created.
  Session(const Model& model, const ModelFlags& flags, std::int64_t ctx, std::int64_t batch,
          std::int64_t outputs);
  ~Session();

  llama_context* get() const { return context_.get(); }
  host::LlamaHost& host() { return *host_; }

  /// Empties the cache and drops all indexes.
  void clear();
  /// Forgets the tokens from position `from` on.
  void truncate(std::int64_t from);

  /// Reads tokens[from, to) as a prompt at these positions; logits of the last only. Returns
  /// seconds.
  double read(std::span<const llama_token> tokens, std::int64_t from, std::int64_t to,
              const OnProgress& progress = {});
  /// Reads tokens[from, to) in batches of `piece` and scores what they predict of each other; into
  /// `all`, if not null, goes the loss of each prediction.
  Losses score(std::span<const llama_token> tokens, std::int64_t from, std::int64_t to,
               std::int64_t piece, const OnProgress& progress = {},
               std::vector<double>* all = nullptr);
  /// Reads tokens[from, to) and returns, for each, the most likely token to follow it.
  std::vector<llama_token> greedy(std::span<const llama_token> tokens, std::int64_t from,
                                  std::int64_t to);

 private:
  struct BatchFree {
    void operator()(llama_batch* b) const {
      llama_batch_free(*b);
      delete b;
    }
  };
  /// Positions [from, to); logits of all or of the last. Throws Failed.
  void decode(std::span<const llama_token> tokens, std::int64_t from, std::int64_t to, bool all);

  const Model& model_;
  std::int64_t batch_size_;
  int threads_;
  std::unique_ptr<host::LlamaHost> host_;  // outlives the context
  std::unique_ptr<llama_context, decltype(&llama_free)> context_{nullptr, llama_free};
  std::unique_ptr<llama_batch, BatchFree> batch_;
};

}  // namespace prescore::cli
