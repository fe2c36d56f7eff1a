#include "common/fingerprint.h"

#include <algorithm>
#include <bit>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <optional>

#include "common/sha256.h"
#include "ggml.h"
#include "gguf.h"

namespace prescore::host {
namespace {

[[noreturn]] void fail(const std::string& path, const std::string& got, const std::string& want) {
  throw Error("[profile] fingerprint of " + path + ", got " + got + ", want " + want);
}

/// Nearest, ties to even; what is no number stays none.
std::uint16_t bf16_bits(float x) {
  const auto bits = std::bit_cast<std::uint32_t>(x);
  if (x != x) return static_cast<std::uint16_t>(bits >> 16 | 0x40);
  return static_cast<std::uint16_t>((bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}

/// One GGUF file: metadata, and tensors read one at a time.
class Gguf {
 public:
  explicit Gguf(const std::string& path)
      : path_(path), file_(std::fopen(path.c_str(), "rb"), std::fclose),
        gguf_(gguf_init_from_file(path.c_str(), {/*no_alloc=*/true, /*ctx=*/nullptr}), gguf_free) {
    if (file_ == nullptr || gguf_ == nullptr) fail(path_, "an unreadable file", "a GGUF model");
  }

  std::string text(const std::string& key) const {
    const std::int64_t id = gguf_find_key(gguf_.get(), key.c_str());
    if (id < 0 || gguf_get_kv_type(gguf_.get(), id) != GGUF_TYPE_STRING) return {};
    return gguf_get_val_str(gguf_.get(), id);
  }

  /// Of an array (a number a layer) the largest.
  std::optional<std::int64_t> number(const std::string& key) const {
    const std::int64_t id = gguf_find_key(gguf_.get(), key.c_str());
    if (id < 0) return {};
    switch (gguf_get_kv_type(gguf_.get(), id)) {
      case GGUF_TYPE_UINT16: return gguf_get_val_u16(gguf_.get(), id);
      case GGUF_TYPE_INT32: return gguf_get_val_i32(gguf_.get(), id);
      case GGUF_TYPE_UINT32: return gguf_get_val_u32(gguf_.get(), id);
      case GGUF_TYPE_UINT64: return static_cast<std::int64_t>(gguf_get_val_u64(gguf_.get(), id));
      case GGUF_TYPE_ARRAY: break;
      default: return {};
    }
    const gguf_type type = gguf_get_arr_type(gguf_.get(), id);
    const std::size_t n = gguf_get_arr_n(gguf_.get(), id);
    if (n == 0 || (type != GGUF_TYPE_INT32 && type != GGUF_TYPE_UINT32)) return {};
    const auto* x = static_cast<const std::int32_t*>(gguf_get_arr_data(gguf_.get(), id));
    return *std::max_element(x, x + n);
  }

  std::int64_t needed(const std::string& key) const {
    const auto value = number(key);
    if (!value || *value < 1) fail(path_, "no " + key, "a language model");
    return *value;
  }

  /// Empty where the file has no such tensor.
  std::vector<float> weights(const std::string& name) const {
    const std::int64_t id = gguf_find_tensor(gguf_.get(), name.c_str());
    if (id < 0) return {};
    const ggml_type type = gguf_get_tensor_type(gguf_.get(), id);
    const std::size_t bytes = gguf_get_tensor_size(gguf_.get(), id);
    if ((type != GGML_TYPE_F32 && type != GGML_TYPE_F16 && type != GGML_TYPE_BF16) ||
        bytes > (std::size_t{1} << 22))
      fail(path_, name + " of type " + ggml_type_name(type), "a norm of f32, f16 or bf16");
    std::vector<char> raw(bytes);
    const std::size_t at =
        gguf_get_data_offset(gguf_.get()) + gguf_get_tensor_offset(gguf_.get(), id);
    if (fseeko(file_.get(), static_cast<off_t>(at), SEEK_SET) != 0 ||
        std::fread(raw.data(), 1, bytes, file_.get()) != bytes)
      fail(path_, "a file that ends before " + name, "a whole one");
    std::vector<float> x(bytes / ggml_type_size(type));
    const auto n = static_cast<std::int64_t>(x.size());
    if (type == GGML_TYPE_F32)
      std::copy_n(raw.data(), bytes, reinterpret_cast<char*>(x.data()));
    else if (type == GGML_TYPE_F16)
      ggml_fp16_to_fp32_row(reinterpret_cast<const ggml_fp16_t*>(raw.data()), x.data(), n);
    else
      ggml_bf16_to_fp32_row(reinterpret_cast<const ggml_bf16_t*>(raw.data()), x.data(), n);
    return x;
  }

 private:
  std::string path_;
  std::unique_ptr<FILE, int (*)(FILE*)> file_;
  std::unique_ptr<gguf_context, void (*)(gguf_context*)> gguf_;
};

/// Paths of all files of a model: "m-00001-of-00003.gguf" stands for three.
std::vector<std::string> parts_of(const std::string& path, std::int64_t count) {
  constexpr std::size_t kTail = sizeof "-00001-of-00003.gguf" - 1;
  if (count < 2 || count > 99999 || path.size() < kTail) return {path};
  std::vector<std::string> paths;
  for (std::int64_t i = 1; i <= count; ++i) {
    char tail[64];
    std::snprintf(tail, sizeof tail, "-%05d-of-%05d.gguf", static_cast<int>(i),
                  static_cast<int>(count));
    paths.push_back(path.substr(0, path.size() - kTail) + tail);
  }
  return paths;
}

}  // namespace

std::string fingerprint_of(const ModelIdentity& shape, std::int64_t width,
                           std::span<const NormWeights> norms) {
  Sha256 sha;
  sha.add("prescore profile 1\n" + std::to_string(shape.layers) + " " +
          std::to_string(shape.heads) + " " + std::to_string(shape.kv_heads) + " " +
          std::to_string(shape.head_dim) + " " + std::to_string(width) + "\n");
  for (const auto& [name, weights] : norms) {
    sha.add(name + " " + std::to_string(weights.size()) + "\n");
    for (const float x : weights) {
      const std::uint16_t bits = bf16_bits(x);
      const std::byte bytes[] = {static_cast<std::byte>(bits & 255),
                                 static_cast<std::byte>(bits >> 8)};
      sha.add(bytes);
    }
  }
  return sha.digits().substr(0, 16);
}

ModelIdentity identify(const std::string& path) {
  const Gguf head(path);
  ModelIdentity m;
  m.architecture = head.text("general.architecture");
  m.name = head.text("general.name");
  if (m.name.empty()) m.name = std::filesystem::path(path).stem().string();
  const std::string& a = m.architecture;
  // Layers that predict several tokens come behind the others and belong to no checkpoint's count.
  m.layers = head.needed(a + ".block_count") - head.number(a + ".nextn_predict_layers").value_or(0);
  m.heads = head.needed(a + ".attention.head_count");
  m.kv_heads = head.number(a + ".attention.head_count_kv").value_or(m.heads);
  const std::int64_t width = head.needed(a + ".embedding_length");
  m.head_dim = head.number(a + ".attention.key_length").value_or(width / m.heads);

  std::vector<NormWeights> norms = {{"first", {}}, {"last", {}}, {"output", {}}};
  const std::string names[] = {"blk.0.attn_norm.weight",
                               "blk." + std::to_string(m.layers - 1) + ".attn_norm.weight",
                               "output_norm.weight"};
  for (const std::string& part : parts_of(path, head.number("split.count").value_or(1))) {
    const Gguf file(part);
    for (std::size_t i = 0; i < norms.size(); ++i)
      if (norms[i].second.empty()) norms[i].second = file.weights(names[i]);
  }
  std::erase_if(norms, [](const NormWeights& n) { return n.second.empty(); });
  if (norms.empty()) fail(path, "none of its norms", "a model with attn_norm or output_norm");
  m.fingerprint = fingerprint_of(m, width, norms);
  return m;
}

}  // namespace prescore::host
