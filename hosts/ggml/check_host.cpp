#include "ggml/check_host.h"

#include <algorithm>
#include <array>
#include <cstdint>
#include <cstring>

#include "common/flash_node.h"
#include "ggml-backend.h"
#include "ggml/layout.h"

namespace prescore::host {
namespace {

constexpr std::array kKnownApiVersions = {2, 3};

/// The host's own CPU device, seen through our layouts: each must say what the public getters say.
bool layouts_match(ggml_backend_dev_t dev) {
  const auto* device = reinterpret_cast<const layout::Device*>(dev);
  ggml_backend_reg_t reg = ggml_backend_dev_backend_reg(dev);
  if (device->reg != reg) return false;
  const auto* registration = reinterpret_cast<const layout::Reg*>(reg);
  if (registration->get_device_count(reg) != ggml_backend_reg_dev_count(reg)) return false;
  if (std::strcmp(device->get_name(dev), ggml_backend_dev_name(dev)) != 0) return false;

  ggml_backend_t own = ggml_backend_dev_init(dev, nullptr);
  if (own == nullptr) return false;
  const auto* backend = reinterpret_cast<const layout::Backend*>(own);
  const bool ok = backend->device == ggml_backend_get_device(own) &&
                  std::strcmp(backend->get_name(own), ggml_backend_name(own)) == 0;
  ggml_backend_free(own);
  return ok;
}

/// Operation numbers move between releases and tensors could change, so the host makes one of each.
bool read_operations(HostFacts* facts) {
  ggml_context* ctx = ggml_init({std::size_t{1} << 16, nullptr, /*no_alloc=*/true});
  if (ctx == nullptr) return false;
  constexpr float kScale = 0.25f, kMaxBias = 3.0f, kSoftcap = 7.0f;
  ggml_tensor* q = ggml_new_tensor_4d(ctx, GGML_TYPE_F32, 8, 5, 4, 1);
  ggml_tensor* k = ggml_new_tensor_4d(ctx, GGML_TYPE_F16, 8, 6, 2, 1);
  ggml_tensor* v = ggml_new_tensor_4d(ctx, GGML_TYPE_F16, 16, 6, 2, 1);
  ggml_tensor* mask = ggml_new_tensor_4d(ctx, GGML_TYPE_F16, 6, 5, 1, 1);
  const ggml_tensor* flash = ggml_flash_attn_ext(ctx, q, k, v, mask, kScale, kMaxBias, kSoftcap);
  facts->flash_attn_ext = flash->op;
  facts->reshape = ggml_reshape_2d(ctx, q, 40, 4)->op;
  facts->view = ggml_view_1d(ctx, q, 8, 0)->op;
  facts->permute = ggml_permute(ctx, q, 0, 2, 1, 3)->op;
  facts->transpose = ggml_transpose(ctx, q)->op;
  const FlashParams params = read_flash_params(flash);
  const bool ok = std::strcmp(ggml_op_name(flash->op), "FLASH_ATTN_EXT") == 0 &&
                  params.scale == kScale && params.max_bias == kMaxBias &&
                  params.softcap == kSoftcap && flash->src[0] == q && flash->src[1] == k &&
                  flash->src[2] == v && flash->src[3] == mask && flash->src[4] == nullptr &&
                  flash->ne[0] == 16 && flash->ne[1] == 4 && flash->ne[2] == 5 && k->nb[1] == 16 &&
                  k->type == GGML_TYPE_F16;
  ggml_free(ctx);
  return ok;
}

}  // namespace

HostFacts check_host() {
  HostFacts facts;
  const std::string host = std::string("ggml ") + ggml_version();
  ggml_backend_dev_t cpu = ggml_backend_dev_by_type(GGML_BACKEND_DEVICE_TYPE_CPU);
  if (cpu == nullptr) {
    facts.problem = "this host (" + host + ") has no CPU device";
    return facts;
  }
  // The version is the first member of every registration, in all versions.
  facts.api_version = *reinterpret_cast<const int*>(ggml_backend_dev_backend_reg(cpu));
  if (std::find(kKnownApiVersions.begin(), kKnownApiVersions.end(), facts.api_version) ==
      kKnownApiVersions.end()) {
    facts.problem = "this host (" + host + ") has backend API version " +
                    std::to_string(facts.api_version) + ", known are 2 and 3";
  } else if (!layouts_match(cpu) || !read_operations(&facts)) {
    facts.problem = "this host (" + host + ", backend API version " +
                    std::to_string(facts.api_version) + ") is laid out differently";
  }
  return facts;
}

}  // namespace prescore::host
