#include "llama/probe.h"

#include <algorithm>
#include <ctime>
#include <memory>

#include "common/layer_set.h"
#include "llama/llama_host.h"

namespace prescore::host {
namespace {

/// SplitMix64: the same numbers everywhere.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed) {}
  std::size_t below(std::size_t n) {
    std::uint64_t z = state_ += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return static_cast<std::size_t>((z ^ z >> 31) % n);
  }

 private:
  std::uint64_t state_;
};

/// Tokens that texts are made of. The first ones of a vocabulary are bytes and pieces of two
/// letters, the last ones seldom or never seen in training.
std::vector<llama_token> ordinary_tokens(const llama_vocab* vocab) {
  constexpr std::size_t kSkipped = 1000, kMost = 29'000;
  std::vector<llama_token> tokens;
  for (llama_token t = 0; t < llama_vocab_n_tokens(vocab); ++t)
    if (llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE ||
        (llama_vocab_get_attr(vocab, t) & LLAMA_TOKEN_ATTR_NORMAL) != 0)
      tokens.push_back(t);
  if (tokens.size() >= 2 * kSkipped) tokens.erase(tokens.begin(), tokens.begin() + kSkipped);
  if (tokens.size() > kMost) tokens.resize(kMost);
  if (tokens.size() < 16) throw Error("[profile] vocabulary, got none of text, want one");
  return tokens;
}

using ContextPtr = std::unique_ptr<llama_context, decltype(&llama_free)>;

}  // namespace

ProbeText probe_text(const llama_vocab* vocab, ProbeSize size, std::uint64_t seed) {
  const std::vector<llama_token> ordinary = ordinary_tokens(vocab);
  ProbeText text;
  if (llama_vocab_get_add_bos(vocab) && llama_vocab_bos(vocab) >= 0) {
    text.tokens.push_back(llama_vocab_bos(vocab));
    text.first = 1;
  }
  Random random(seed);
  for (std::int64_t i = 0; i < size.period; ++i)
    text.tokens.push_back(ordinary[random.below(ordinary.size())]);
  for (std::int64_t i = 0; i < size.repeated; ++i)
    text.tokens.push_back(text.tokens[static_cast<std::size_t>(text.first + i)]);
  return text;
}

HeadScores probe_heads(llama_model* model, const ModelIdentity& identity, ProbeSize size,
                       std::uint64_t seed, int threads, const std::function<void()>& on_layer) {
  if (llama_model_has_encoder(model))
    throw Error("[profile] model, got one with an encoder, want a decoder alone");
  const ProbeText text = probe_text(llama_model_get_vocab(model), size, seed);
  const auto n = static_cast<std::int32_t>(text.tokens.size());

  Options options;
  options.plan.method = Method::kDense;
  LlamaHost host(options);
  HeadScores scores(identity.layers, identity.heads);
  std::string problem;
  std::int64_t seen = 0;
  host.runner().on_inputs([&](const std::string& cache, const Tensor& q, const Tensor& k,
                              const Tensor&, const Visibility&, float scale) {
    const std::int64_t layer = layer_of_cache(cache);
    if (layer < 0 || layer >= identity.layers || q.shape[1] != identity.heads) {
      problem = "an attention of " + std::to_string(q.shape[1]) + " heads in \"" + cache + "\"";
      return;
    }
    const std::int64_t at = layer * identity.heads;
    score_copying(q, k, scale, text.first, size.period, scores.duplicate.data() + at,
                  scores.induction.data() + at);
    ++seen;
  });
  host.on_operation(on_layer);

  llama_context_params params = llama_context_default_params();
  params.n_ctx = params.n_batch = params.n_ubatch = static_cast<std::uint32_t>(n);
  params.n_threads = params.n_threads_batch = threads;
  params.flash_attn_type = LLAMA_FLASH_ATTN_TYPE_ENABLED;
  params.offload_kqv = params.op_offload = false;
  params.no_perf = true;
  host.attach(params);
  const ContextPtr context(llama_init_from_model(model, params), llama_free);
  if (context == nullptr)
    throw Error("[profile] context of " + std::to_string(n) + " tokens, got none, want one");
  std::vector<llama_token> tokens = text.tokens;
  const int status = llama_decode(context.get(), llama_batch_get_one(tokens.data(), n));
  if (status == 0) llama_synchronize(context.get());
  if (!host.stats().error.empty()) throw Error(host.stats().error);
  if (status != 0)
    throw Error("[profile] llama_decode, got status " + std::to_string(status) + ", want 0");
  if (!problem.empty())
    throw Error("[profile] model, got " + problem + ", want " + std::to_string(identity.heads) +
                " heads in each of " + std::to_string(identity.layers) + " layers");
  if (seen == 0) throw Error("[profile] model, got no attention that can be seen, want some");
  return scores;
}

std::optional<ProbeSize> quick_probe(const llama_model* model, std::int64_t prompt) {
  // Far copies tell best which heads look far; a few tokens tell what a head does. A sliding window
  // that covered the whole probe would look like full attention.
  constexpr std::int64_t kLeast = 128, kMost = 1024, kRepeated = 64;
  const std::int64_t tokens = prompt / 20 - 1;
  const std::int64_t least = std::max<std::int64_t>(kLeast, llama_model_n_swa(model));
  const std::int64_t period = std::min(kMost, tokens - kRepeated);
  if (period < least) return {};
  return ProbeSize{period, kRepeated};
}

std::string describe_probe(ProbeSize size, std::int64_t draws, const RuleOptions& rule) {
  const std::string period = std::to_string(size.period);
  return describe(rule) + "; " + std::to_string(draws) + (draws == 1 ? " draw" : " draws") +
         " of " + period + " random tokens" +
         (size.repeated == size.period
              ? " given twice"
              : ", then the first " + std::to_string(size.repeated) + " of them again");
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", &parts);
  return text;
}

}  // namespace prescore::host
