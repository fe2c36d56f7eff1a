#include "llama/rotation.h"

#include <string>

namespace prescore::host {
namespace {

// Empty where the model has no such entry.
std::string meta(const llama_model* model, const std::string& key) {
  char text[256] = {};
  return llama_model_meta_val_str(model, key.c_str(), text, sizeof text) < 0 ? "" : text;
}

}  // namespace

Rotation rotation_of(const llama_model* model) {
  const std::string arch = meta(model, "general.architecture");
  const auto number = [&](const char* key, double otherwise) {
    const std::string text = meta(model, arch + key);
    return text.empty() ? otherwise : std::stod(text);
  };
  const llama_rope_type type = llama_model_rope_type(model);
  if (type != LLAMA_ROPE_TYPE_NORM && type != LLAMA_ROPE_TYPE_NEOX)
    throw Error("[host] rotation of " + arch + " models, got none in pairs, want one in pairs");
  const std::string scaling = meta(model, arch + ".rope.scaling.type");
  if (!(scaling.empty() || scaling == "none" || scaling == "linear"))
    throw Error("[host] scaling of the rotation, got " + scaling + ", want none or linear");
  const double head = static_cast<double>(llama_model_n_embd(model)) / llama_model_n_head(model);
  Rotation r;
  r.dims = static_cast<std::int64_t>(
      number(".rope.dimension_count", number(".attention.key_length", head)));
  r.base = number(".rope.freq_base", 10000);
  r.interleaved = type == LLAMA_ROPE_TYPE_NORM;
  r.position_scale = static_cast<double>(llama_model_rope_freq_scale_train(model));
  return r;
}

}  // namespace prescore::host
