#include "common/flash_node.h"

#include <cstring>

namespace prescore::host {
namespace {

constexpr std::int64_t kMaxHeadDim = 512;

bool dtype_of(ggml_type type, DType* out) {
  switch (type) {
    case GGML_TYPE_F32: *out = DType::kF32; return true;
    case GGML_TYPE_F16: *out = DType::kF16; return true;
    case GGML_TYPE_BF16: *out = DType::kBF16; return true;
    default: return false;
  }
}

bool rows_are_elements(const ggml_tensor* t) {
  const auto es = static_cast<std::size_t>(ggml_type_size(t->type));
  return t->nb[0] == es && t->nb[1] % es == 0 && t->nb[2] % es == 0 && t->nb[3] % es == 0;
}

std::string with_number(const char* what, std::int64_t n) { return what + std::to_string(n); }

/// ggml [d, n, h, s] -> [1, h, n, d] of stream s, with n shortened.
Tensor rows_view(const ggml_tensor* t, std::int64_t s, std::int64_t n) {
  DType dtype = DType::kF32;
  dtype_of(t->type, &dtype);
  const std::int64_t es = size_of(dtype);
  const auto stride = [&](int i) { return static_cast<std::int64_t>(t->nb[i]) / es; };
  return {static_cast<const char*>(t->data) + s * static_cast<std::int64_t>(t->nb[3]),
          dtype,
          {1, t->ne[2], n, t->ne[0]},
          {stride(3), stride(2), stride(1), 1}};
}

}  // namespace

FlashParams read_flash_params(const ggml_tensor* node) {
  FlashParams p;
  std::memcpy(&p.scale, node->op_params + 0, sizeof(float));
  std::memcpy(&p.max_bias, node->op_params + 1, sizeof(float));
  std::memcpy(&p.softcap, node->op_params + 2, sizeof(float));
  std::memcpy(&p.n_kv_max, node->op_params + 4, sizeof(std::int32_t));
  return p;
}

std::string why_left(const ggml_tensor* node, const FlashParams& params, std::int64_t min_queries) {
  const ggml_tensor* q = node->src[0];
  const ggml_tensor* k = node->src[1];
  const ggml_tensor* v = node->src[2];
  const ggml_tensor* mask = node->src[3];
  if (q == nullptr || k == nullptr || v == nullptr) return "no sources";
  if (params.max_bias != 0) return "ALiBi";
  if (params.softcap != 0) return "softcap";
  if (node->src[4] != nullptr) return "attention sinks";
  if (params.n_kv_max != 0) return "sparse mask";
  DType k_type{}, v_type{};
  if (!dtype_of(k->type, &k_type) || !dtype_of(v->type, &v_type))
    return std::string("KV type ") + ggml_type_name(ggml_is_quantized(k->type) ? k->type : v->type);
  if (k_type != v_type) return "K and V of different types";
  if (q->type != GGML_TYPE_F32 || node->type != GGML_TYPE_F32) return "Q or output not f32";
  if (q->ne[0] > kMaxHeadDim || v->ne[0] > kMaxHeadDim)
    return with_number("head size ", q->ne[0] > v->ne[0] ? q->ne[0] : v->ne[0]);
  if (k->ne[2] < 1 || q->ne[2] % k->ne[2] != 0 || v->ne[2] != k->ne[2]) return "head counts";
  if (k->ne[3] != q->ne[3] || v->ne[3] != q->ne[3] || v->ne[1] != k->ne[1]) return "shapes of K, V";
  if (!rows_are_elements(q) || !rows_are_elements(k) || !rows_are_elements(v) ||
      !rows_are_elements(node))
    return "strides";
  if (k->ne[1] > INT32_MAX) return "more than 2^31 cells";
  if (mask != nullptr) {
    if (mask->type != GGML_TYPE_F16 || mask->nb[0] != sizeof(std::uint16_t)) return "mask not f16";
    if (mask->ne[2] != 1) return "a mask per head";
    if (mask->ne[0] < k->ne[1] || mask->ne[1] < q->ne[1]) return "mask smaller than the scores";
    if (mask->ne[3] != 1 && mask->ne[3] != q->ne[3]) return "shape of the mask";
  }
  if (q->ne[1] < min_queries) return "few queries";
  return {};
}

Tensor query_view(const ggml_tensor* q, std::int64_t s) { return rows_view(q, s, q->ne[1]); }

Tensor key_view(const ggml_tensor* k, std::int64_t s, std::int64_t n) { return rows_view(k, s, n); }

MutTensor output_view(const ggml_tensor* dst, std::int64_t s) {
  const auto stride = [&](int i) { return static_cast<std::int64_t>(dst->nb[i] / sizeof(float)); };
  return {static_cast<char*>(dst->data) + s * static_cast<std::int64_t>(dst->nb[3]),
          DType::kF32,
          {1, dst->ne[1], dst->ne[2], dst->ne[0]},
          {stride(3), stride(1), stride(2), 1}};
}

}  // namespace prescore::host
