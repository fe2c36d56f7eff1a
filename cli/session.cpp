#include "session.h"

#include <fmt/format.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <thread>

#include "errors.h"
#include "llama/rotation.h"

namespace prescore::cli {
namespace {

/// llama.cpp's messages: shown with --verbose, else only the last error is kept to explain a
/// failure.
struct Log {
  bool verbose = false;
  ggml_log_level level = GGML_LOG_LEVEL_NONE;
  std::string last_error;

  static void receive(ggml_log_level level, const char* text, void* self) {
    auto* log = static_cast<Log*>(self);
    if (log->verbose) std::fputs(text, stderr);
    if (level != GGML_LOG_LEVEL_CONT) log->level = level;
    if (log->level != GGML_LOG_LEVEL_ERROR) return;
    if (level != GGML_LOG_LEVEL_CONT) log->last_error.clear();
    log->last_error += text;
    while (!log->last_error.empty() && log->last_error.back() == '\n') log->last_error.pop_back();
  }
};
Log& log() {
  static Log* l = new Log;  // llama.cpp may log until the very end
  return *l;
}

std::string because(const std::string& what) {
  return log().last_error.empty() ? what : fmt::format("{}: {}", what, log().last_error);
}

/// Natural-log loss of `target` under one row of logits.
double loss(const float* logits, int n, llama_token target) {
  const float most = *std::max_element(logits, logits + n);
  double sum = 0;
  for (int i = 0; i < n; ++i) sum += static_cast<double>(std::exp(logits[i] - most));
  return std::log(sum) + static_cast<double>(most) - static_cast<double>(logits[target]);
}

/// Calls f(i) for i in [0, n) on `threads` threads.
template <typename F>
void parallel_for(std::int64_t n, int threads, const F& f) {
  std::vector<std::thread> pool;
  const auto run = [&](int t) {
    for (std::int64_t i = t; i < n; i += threads) f(i);
  };
  for (int t = 1; t < threads; ++t) pool.emplace_back(run, t);
  run(0);
  for (std::thread& t : pool) t.join();
}

}  // namespace

Model::Model(const ModelFlags& flags) : yarn_(flags.yarn > 1) {
  log().verbose = flags.verbose;
  llama_log_set(Log::receive, &log());
  static const bool initialised = [] {
    llama_backend_init();
    return true;
  }();
  (void)initialised;
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  model_.reset(llama_model_load_from_file(flags.model.c_str(), params));
  if (model_ == nullptr)
    throw BadInput(because(fmt::format("llama.cpp cannot load {}", flags.model)));
}

std::string Model::description() const {
  char text[256] = {};
  llama_model_desc(get(), text, sizeof text);
  return text;
}

Rotation Model::rotation() const {
  if (yarn_) throw BadInput("--pre-rope with --yarn: a stretched rotation cannot be undone");
  return host::rotation_of(get());
}

std::vector<llama_token> Model::tokenize(const std::string& text, std::int64_t most) const {
  // A token is seldom longer than 8 bytes: start with that much of a long text.
  std::size_t bytes = text.size();
  if (most > 0) bytes = std::min(bytes, static_cast<std::size_t>(most) * 8 + 4096);
  std::vector<llama_token> tokens;
  for (;;) {
    while (bytes < text.size() && (static_cast<unsigned char>(text[bytes]) & 0xC0) == 0x80)
      ++bytes;  // not inside a character
    if (bytes > INT32_MAX) throw BadInput("the text is longer than 2 GiB");
    tokens.resize(bytes + 16);
    const int n = llama_tokenize(vocab(), text.data(), static_cast<std::int32_t>(bytes),
                                 tokens.data(), static_cast<std::int32_t>(tokens.size()),
                                 /*add_special=*/true, /*parse_special=*/false);
    if (n < 0) throw BadInput("llama.cpp cannot turn the text into tokens");
    tokens.resize(static_cast<std::size_t>(n));
    if (bytes == text.size() || n > most) return tokens;
    bytes = std::min(text.size(), bytes * 2);
  }
}

std::string Model::piece(llama_token token) const {
  std::string text(256, '\0');
  const int n = llama_token_to_piece(vocab(), token, text.data(),
                                     static_cast<std::int32_t>(text.size()), 0, true);
  text.resize(static_cast<std::size_t>(std::max(0, n)));
  return text;
}

double Losses::mean() const { return count > 0 ? sum / static_cast<double>(count) : 0; }
double Losses::perplexity() const { return std::exp(mean()); }
double Losses::error() const {
  if (count < 2) return 0;
  const double n = static_cast<double>(count), variance = squares / n - mean() * mean();
  return perplexity() * std::sqrt(std::max(0.0, variance) / (n - 1));
}

Session::Session(const Model& model, const ModelFlags& flags, std::int64_t ctx, std::int64_t batch,
                 std::int64_t outputs)
    : model_(model), batch_size_(batch), threads_(flags.thread_count()),
      host_(std::make_unique<host::LlamaHost>()) {
  llama_context_params params = llama_context_default_params();
  params.n_ctx = static_cast<std::uint32_t>(ctx);
  params.n_batch = params.n_ubatch = static_cast<std::uint32_t>(batch);
  params.n_outputs_max = params.n_outputs_max_per_seq = static_cast<std::uint32_t>(outputs);
  params.n_threads = params.n_threads_batch = threads_;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  params.offload_kqv = params.op_offload = false;
  params.no_perf = true;
  if (flags.yarn > 1) {
    params.rope_scaling_type = LLAMA_ROPE_SCALING_TYPE_YARN;
    params.rope_freq_scale = static_cast<float>(1 / flags.yarn);
    params.yarn_orig_ctx = static_cast<std::uint32_t>(llama_model_n_ctx_train(model.get()));
  }
  host_->attach(params);
  context_.reset(llama_init_from_model(model.get(), params));
  if (context_ == nullptr)
    throw BadInput(
        because(fmt::format("llama.cpp has no context of {} tokens for this model", ctx)));
  batch_.reset(new llama_batch(llama_batch_init(static_cast<std::int32_t>(batch), 0, 1)));

  const double trained = llama_model_n_ctx_train(model.get()) * flags.yarn;
  if (static_cast<double>(ctx) > trained)
    fmt::print(stderr,
               "prescore: warning: {} tokens are more than the {:.0f} that the model was "
               "trained for\n",
               ctx, trained);
}

Session::~Session() = default;

void Session::clear() {
  llama_memory_clear(llama_get_memory(get()), /*data=*/false);
  host_->runner().forget();
}

void Session::truncate(std::int64_t from) {
  if (!llama_memory_seq_rm(llama_get_memory(get()), 0, static_cast<llama_pos>(from), -1))
    throw Failed("this model's memory cannot forget its last tokens (use --score half)");
}

void Session::decode(std::span<const llama_token> tokens, std::int64_t from, std::int64_t to,
                     bool all) {
  llama_batch& b = *batch_;
  b.n_tokens = static_cast<std::int32_t>(to - from);
  for (std::int32_t i = 0; i < b.n_tokens; ++i) {
    b.token[i] = tokens[static_cast<std::size_t>(from + i)];
    b.pos[i] = static_cast<llama_pos>(from + i);
    b.n_seq_id[i] = 1;
    b.seq_id[i][0] = 0;
    b.logits[i] = all || i == b.n_tokens - 1;
  }
  const int status = llama_decode(get(), b);
  if (status == 0) llama_synchronize(get());
  if (status != 0) throw Failed(because(fmt::format("llama_decode failed with status {}", status)));
  if (!host_->stats().error.empty()) throw Failed(host_->stats().error);
}

double Session::read(std::span<const llama_token> tokens, std::int64_t from, std::int64_t to,
                     const OnProgress& progress) {
  const auto start = std::chrono::steady_clock::now();
  const double total = static_cast<double>(to - from);
  for (std::int64_t at = from; at < to; at += batch_size_) {
    const std::int64_t next = std::min(to, at + batch_size_);
    double layers_done = 0;
    if (progress) {
      host_->on_operation([&] {
        ++layers_done;
        progress((static_cast<double>(at - from) +
                  static_cast<double>(next - at) * layers_done / model_.layers()) /
                 total);
      });
    }
    decode(tokens, at, next, /*all=*/false);
    host_->on_operation({});
  }
  return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
}

Losses Session::score(std::span<const llama_token> tokens, std::int64_t from, std::int64_t to,
                      std::int64_t piece, const OnProgress& progress, std::vector<double>* all) {
  Losses losses;
  const int n_vocab = model_.vocab_size();
  std::vector<double> each;
  for (std::int64_t at = from; at < to; at += piece) {
    const std::int64_t next = std::min(to, at + piece);
    decode(tokens, at, next, /*all=*/true);
    each.assign(static_cast<std::size_t>(std::min(next, to - 1) - at), 0.0);
    const float* logits = llama_get_logits(get());
    parallel_for(static_cast<std::int64_t>(each.size()), threads_, [&](std::int64_t i) {
      each[static_cast<std::size_t>(i)] =
          loss(logits + i * n_vocab, n_vocab, tokens[static_cast<std::size_t>(at + i + 1)]);
    });
    for (const double x : each) losses.sum += x, losses.squares += x * x, ++losses.count;
    if (all != nullptr) all->insert(all->end(), each.begin(), each.end());
    if (progress) progress(static_cast<double>(next - from) / static_cast<double>(to - from));
  }
  return losses;
}

std::vector<llama_token> Session::greedy(std::span<const llama_token> tokens, std::int64_t from,
                                         std::int64_t to) {
  std::vector<llama_token> out;
  const int n_vocab = model_.vocab_size();
  constexpr std::int64_t kPiece = 512;
  for (std::int64_t at = from; at < to; at += kPiece) {
    const std::int64_t next = std::min(to, at + kPiece);
    decode(tokens, at, next, /*all=*/true);
    for (std::int64_t i = 0; i < next - at; ++i) {
      const float* row = llama_get_logits(get()) + i * n_vocab;
      out.push_back(static_cast<llama_token>(std::max_element(row, row + n_vocab) - row));
    }
  }
  return out;
}

}  // namespace prescore::cli
