// Models of two layers with random F32 weights, written as GGUF: fast, and without the steps that
// quantised weights make of any rounding. They know no text, only token numbers.
#pragma once

#include <unistd.h>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <random>
#include <string>

#include "ggml.h"
#include "gguf.h"
#include "llama.h"

namespace prescore::test {

struct TinyModel {
  std::string architecture = "llama";  // or "gemma2": softcap, every other layer a sliding window
  float softcap = 0;                   // gemma2
  ggml_type type = GGML_TYPE_F32;      // of matrices
  unsigned seed = 7;
  int copying_head = -1;  // a head of layer 0 whose queries look for their own token; -1: none
  static constexpr int kLayers = 2, kVocab = 512;
};

namespace detail {

class TinyWriter {
 public:
  explicit TinyWriter(const TinyModel& m) : model_(m), random_(m.seed) {
    ctx_ = ggml_init({std::size_t{32} << 20, nullptr, false});
    file_ = gguf_init_empty();
  }
  ~TinyWriter() {
    gguf_free(file_);
    ggml_free(ctx_);
  }

  void write(const std::string& path) {
    constexpr int kEmbedding = 128, kHeads = 4, kKvHeads = 2, kHead = 64, kForward = 128;
    gguf_set_val_str(file_, "general.architecture", model_.architecture.c_str());
    gguf_set_val_str(file_, "tokenizer.ggml.model", "no_vocab");
    number("vocab_size", TinyModel::kVocab);
    number("context_length", 4096);
    number("embedding_length", kEmbedding);
    number("block_count", TinyModel::kLayers);
    number("feed_forward_length", kForward);
    number("attention.head_count", kHeads);
    number("attention.head_count_kv", kKvHeads);
    number("attention.key_length", kHead);
    number("attention.value_length", kHead);
    number("rope.dimension_count", kHead);
    real("attention.layer_norm_rms_epsilon", 1e-5f);
    // Only the first pairs of a head rotate: a match at a distance is one beside the query, too.
    if (model_.copying_head >= 0) real("rope.freq_base", 1e36f);
    const bool gemma = model_.architecture == "gemma2";
    if (gemma) {
      number("attention.sliding_window", 256);
      real("attn_logit_softcapping", model_.softcap);
      real("final_logit_softcapping", 30);
    }
    matrix("token_embd.weight", kEmbedding, TinyModel::kVocab);
    norm("output_norm.weight", kEmbedding);
    for (int i = 0; i < TinyModel::kLayers; ++i) {
      const std::string block = "blk." + std::to_string(i) + ".";
      norm(block + "attn_norm.weight", kEmbedding);
      float* q = matrix(block + "attn_q.weight", kEmbedding, kHeads * kHead);
      const float* k = matrix(block + "attn_k.weight", kEmbedding, kKvHeads * kHead);
      if (i == 0 && model_.copying_head >= 0) {
        constexpr int kOfHead = kEmbedding * kHead;
        k += model_.copying_head / (kHeads / kKvHeads) * kOfHead;
        q += model_.copying_head * kOfHead;
        for (int j = 0; j < kOfHead; ++j) q[j] = j < 8 * kEmbedding ? 0 : 0.4f * k[j];
      }
      matrix(block + "attn_v.weight", kEmbedding, kKvHeads * kHead);
      matrix(block + "attn_output.weight", kHeads * kHead, kEmbedding);
      norm(block + "ffn_norm.weight", kEmbedding);
      matrix(block + "ffn_gate.weight", kEmbedding, kForward);
      matrix(block + "ffn_up.weight", kEmbedding, kForward);
      matrix(block + "ffn_down.weight", kForward, kEmbedding);
      if (gemma) {
        norm(block + "post_attention_norm.weight", kEmbedding);
        norm(block + "post_ffw_norm.weight", kEmbedding);
      }
    }
    gguf_write_to_file(file_, path.c_str(), /*only_meta=*/false);
  }

 private:
  std::string key(const char* name) const { return model_.architecture + "." + name; }
  void number(const char* name, int value) {
    gguf_set_val_u32(file_, key(name).c_str(), static_cast<std::uint32_t>(value));
  }
  void real(const char* name, float value) { gguf_set_val_f32(file_, key(name).c_str(), value); }

  float* add(const std::string& name, ggml_tensor* t, float mean, float spread,
             ggml_type type = GGML_TYPE_F32) {
    std::normal_distribution<float> normal(mean, spread);
    for (std::int64_t i = 0; i < ggml_nelements(t); ++i)
      static_cast<float*>(t->data)[i] = normal(random_);
    if (type != GGML_TYPE_F32) {
      ggml_tensor* rounded = ggml_new_tensor_2d(ctx_, type, t->ne[0], t->ne[1]);
      ggml_quantize_chunk(type, static_cast<const float*>(t->data), rounded->data, 0, t->ne[1],
                          t->ne[0], nullptr);
      t = rounded;
    }
    ggml_set_name(t, name.c_str());
    gguf_add_tensor(file_, t);
    return static_cast<float*>(t->data);
  }
  float* matrix(const std::string& name, int in, int out) {
    // Twice the usual spread: attention must have preferences.
    return add(name, ggml_new_tensor_2d(ctx_, GGML_TYPE_F32, in, out), 0,
               2 / std::sqrt(static_cast<float>(in)), model_.type);
  }
  void norm(const std::string& name, int n) {
    add(name, ggml_new_tensor_1d(ctx_, GGML_TYPE_F32, n), 1, 0.1f);
  }

  TinyModel model_;
  std::mt19937 random_;
  ggml_context* ctx_ = nullptr;
  gguf_context* file_ = nullptr;
};

}  // namespace detail

using Llama = std::unique_ptr<llama_model, decltype(&llama_model_free)>;

inline Llama load(const std::string& path) {
  llama_log_set([](ggml_log_level, const char*, void*) {}, nullptr);
  static const bool initialised = (llama_backend_init(), true);
  (void)initialised;
  llama_model_params params = llama_model_default_params();
  params.n_gpu_layers = 0;
  return Llama(llama_model_load_from_file(path.c_str(), params), llama_model_free);
}

/// Writes the model's file.
inline void write_model(const TinyModel& m, const std::string& path) {
  detail::TinyWriter(m).write(path);
}

inline Llama make_model(const TinyModel& m) {
  const auto path = std::filesystem::temp_directory_path() /
                    ("prescore_tiny_" + std::to_string(getpid()) + ".gguf");
  write_model(m, path.string());
  Llama model = load(path.string());
  std::filesystem::remove(path);
  return model;
}

}  // namespace prescore::test
