// One FLASH_ATTN_EXT operation on random tensors, laid out as llama.cpp lays out its cache,
// computed by whatever scheduler the test hands in, and by a float64 oracle.
#pragma once

#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "ggml-alloc.h"
#include "ggml-backend.h"
#include "ggml-cpu.h"
#include "ggml.h"
#include "llama/llama_host.h"

namespace prescore::test {

enum class Mask { kNone, kCausal, kSliding, kTwoSequences };

struct FlashCase {
  std::int64_t n_q = 64, n_kv = 256, used = 256;  // cells beyond `used` are padding
  std::int64_t h_q = 4, h_kv = 2, d = 64, d_v = 64, streams = 1;
  ggml_type type = GGML_TYPE_F16;
  Mask mask = Mask::kCausal;
  float max_bias = 0, softcap = 0;
  unsigned seed = 1;

  bool sees(std::int64_t i, std::int64_t j) const {
    const std::int64_t position = used - n_q + i;
    switch (mask) {
      case Mask::kNone: return true;
      case Mask::kCausal: return j <= position;
      case Mask::kSliding: return j <= position && j > position - 50;
      case Mask::kTwoSequences: return j <= position && j % 2 == i % 2;
    }
    return false;
  }
};

template <auto free>
struct Free {
  template <typename T>
  void operator()(T* p) const {
    free(p);
  }
};
using Context = std::unique_ptr<ggml_context, Free<ggml_free>>;
using Buffer = std::unique_ptr<ggml_backend_buffer, Free<ggml_backend_buffer_free>>;
using Backend = std::unique_ptr<ggml_backend, Free<ggml_backend_free>>;
using Scheduler = std::unique_ptr<ggml_backend_sched, Free<ggml_backend_sched_free>>;

inline Backend cpu_backend(int threads) {
  Backend cpu(ggml_backend_cpu_init());
  ggml_backend_cpu_set_n_threads(cpu.get(), threads);
  return cpu;
}

inline Scheduler scheduler(std::vector<ggml_backend_t> backends) {
  return Scheduler(ggml_backend_sched_new(backends.data(), nullptr,
                                          static_cast<int>(backends.size()), 64, false, false));
}

/// The leaves of a case: query, cache, mask; filled once, computed as often as wanted.
class FlashTensors {
 public:
  explicit FlashTensors(const FlashCase& c) : case_(c) {
    leaves_.reset(ggml_init({ggml_tensor_overhead() * 8, nullptr, true}));
    q_ = ggml_new_tensor_4d(leaves_.get(), GGML_TYPE_F32, c.d, c.h_q, c.n_q, c.streams);
    k_ = ggml_new_tensor_3d(leaves_.get(), c.type, c.d * c.h_kv, c.n_kv, c.streams);
    v_ = ggml_new_tensor_3d(leaves_.get(), c.type, c.d_v * c.h_kv, c.n_kv, c.streams);
    ggml_set_name(k_, "cache_k_l0");
    ggml_set_name(v_, "cache_v_l0");
    if (c.mask != Mask::kNone)
      mask_ = ggml_new_tensor_4d(leaves_.get(), GGML_TYPE_F16, c.n_kv, c.n_q, 1, c.streams);
    buffer_.reset(
        ggml_backend_alloc_ctx_tensors_from_buft(leaves_.get(), ggml_backend_cpu_buffer_type()));
    std::mt19937 random(c.seed);
    fill(q_, random, 1.5f);
    fill(k_, random, 1.0f);
    fill(v_, random, 1.0f);
    if (mask_ != nullptr) fill_mask();
  }

  ggml_tensor* k() { return k_; }

  /// Computes the operation; dst as [streams][n_q][h_q][d_v]. With `between`, computes the same
  /// graph a second time after it, as llama.cpp does where it reuses a graph, and returns that
  /// result.
  std::vector<float> compute(ggml_backend_sched_t sched,
                             const std::function<void()>& between = {}) {
    const FlashCase& c = case_;
    Context graph_memory(
        ggml_init({ggml_tensor_overhead() * 32 + ggml_graph_overhead(), nullptr, true}));
    ggml_context* ctx = graph_memory.get();
    const auto cache_view = [&](ggml_tensor* t, std::int64_t d) {
      const std::size_t head = ggml_row_size(c.type, d),
                        row = head * static_cast<std::size_t>(c.h_kv);
      return ggml_permute(ctx,
                          ggml_view_4d(ctx, t, d, c.h_kv, c.n_kv, c.streams, head, row,
                                       row * static_cast<std::size_t>(c.n_kv), 0),
                          0, 2, 1, 3);
    };
    ggml_tensor* out =
        ggml_flash_attn_ext(ctx, ggml_permute(ctx, q_, 0, 2, 1, 3), cache_view(k_, c.d),
                            cache_view(v_, c.d_v), mask_, scale(), c.max_bias, c.softcap);
    ggml_set_output(out);
    ggml_cgraph* graph = ggml_new_graph(ctx);
    ggml_build_forward_expand(graph, out);
    ggml_backend_sched_reset(sched);
    std::vector<float> result(static_cast<std::size_t>(ggml_nelements(out)));
    if (ggml_backend_sched_graph_compute(sched, graph) != GGML_STATUS_SUCCESS) return {};
    if (between) {
      between();
      if (ggml_backend_sched_graph_compute(sched, graph) != GGML_STATUS_SUCCESS) return {};
    }
    ggml_backend_tensor_get(out, result.data(), 0, result.size() * sizeof(float));
    return result;
  }

  /// The same in float64.
  std::vector<double> oracle() const {
    const FlashCase& c = case_;
    std::vector<double> out, weight(static_cast<std::size_t>(c.n_kv));
    for (std::int64_t s = 0; s < c.streams; ++s)
      for (std::int64_t i = 0; i < c.n_q; ++i)
        for (std::int64_t h = 0; h < c.h_q; ++h) {
          const std::int64_t kv = h / (c.h_q / c.h_kv);
          double most = -std::numeric_limits<double>::infinity(), sum = 0;
          for (std::int64_t j = 0; j < c.n_kv; ++j) {
            double x = -std::numeric_limits<double>::infinity();
            if (c.sees(i, j)) {
              x = 0;
              for (std::int64_t e = 0; e < c.d; ++e)
                x += at(q_, e + c.d * (h + c.h_q * (i + c.n_q * s))) *
                     at(k_, e + c.d * (kv + c.h_kv * (j + c.n_kv * s)));
              x *= static_cast<double>(scale());
            }
            weight[static_cast<std::size_t>(j)] = x;
            most = std::max(most, x);
          }
          for (double& w : weight) sum += w = std::isinf(w) ? 0.0 : std::exp(w - most);
          for (std::int64_t e = 0; e < c.d_v; ++e) {
            double o = 0;
            for (std::int64_t j = 0; j < c.n_kv; ++j)
              if (weight[static_cast<std::size_t>(j)] > 0)
                o += weight[static_cast<std::size_t>(j)] *
                     at(v_, e + c.d_v * (kv + c.h_kv * (j + c.n_kv * s)));
            out.push_back(sum > 0 ? o / sum : 0.0);
          }
        }
    return out;
  }

 private:
  float scale() const { return 1.0f / std::sqrt(static_cast<float>(case_.d)); }

  static double at(const ggml_tensor* t, std::int64_t i) {
    switch (t->type) {
      case GGML_TYPE_F32: return static_cast<double>(static_cast<const float*>(t->data)[i]);
      case GGML_TYPE_F16:
        return static_cast<double>(ggml_fp16_to_fp32(static_cast<const ggml_fp16_t*>(t->data)[i]));
      default:
        return static_cast<double>(ggml_bf16_to_fp32(static_cast<const ggml_bf16_t*>(t->data)[i]));
    }
  }

  static void fill(ggml_tensor* t, std::mt19937& random, float spread) {
    std::normal_distribution<float> normal(0, spread);
    if (ggml_is_quantized(t->type)) {
      std::vector<float> values(static_cast<std::size_t>(ggml_nelements(t)));
      for (float& x : values) x = normal(random);
      ggml_quantize_chunk(t->type, values.data(), t->data, 0, ggml_nrows(t), t->ne[0], nullptr);
      return;
    }
    for (std::int64_t i = 0; i < ggml_nelements(t); ++i) {
      const float x = normal(random);
      if (t->type == GGML_TYPE_F32)
        static_cast<float*>(t->data)[i] = x;
      else if (t->type == GGML_TYPE_F16)
        static_cast<ggml_fp16_t*>(t->data)[i] = ggml_fp32_to_fp16(x);
      else
        static_cast<ggml_bf16_t*>(t->data)[i] = ggml_fp32_to_bf16(x);
    }
  }

  void fill_mask() {
    auto* row = static_cast<ggml_fp16_t*>(mask_->data);
    const ggml_fp16_t seen = ggml_fp32_to_fp16(0), hidden = ggml_fp32_to_fp16(-INFINITY);
    for (std::int64_t s = 0; s < case_.streams; ++s)
      for (std::int64_t i = 0; i < case_.n_q; ++i)
        for (std::int64_t j = 0; j < case_.n_kv; ++j) *row++ = case_.sees(i, j) ? seen : hidden;
  }

  FlashCase case_;
  Context leaves_;
  Buffer buffer_;
  ggml_tensor *q_ = nullptr, *k_ = nullptr, *v_ = nullptr, *mask_ = nullptr;
};

/// Largest difference of two results.
template <typename A, typename B>
double distance(const std::vector<A>& a, const std::vector<B>& b) {
  if (a.size() != b.size()) return std::numeric_limits<double>::infinity();
  double most = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double x = std::abs(static_cast<double>(a[i]) - static_cast<double>(b[i]));
    if (!(x <= most)) most = x;  // NaN counts
  }
  return most;
}

}  // namespace prescore::test
