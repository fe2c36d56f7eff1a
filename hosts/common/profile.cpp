#include "common/profile.h"

#include <algorithm>
#include <nlohmann/json.hpp>

namespace prescore::host {
namespace {

using nlohmann::ordered_json;

constexpr std::int64_t kMostLayers = 4096, kMostHeads = 4096, kMostHeadDim = 1 << 16;
constexpr std::int64_t kMostRead = std::int64_t{1} << 31;
constexpr std::size_t kMostBytes = std::size_t{1} << 26;
constexpr int kMostDepth = 32;
constexpr std::string_view kLetters = ".dwm";

/// Reads one file; every complaint names it.
class Reader {
 public:
  explicit Reader(const std::string& source) : source_(source) {}

  [[noreturn]] void fail(const std::string& what, const std::string& got,
                         const std::string& want) const {
    throw Error("[profile] " + what + " of " + source_ + ", got " + got + ", want " + want);
  }

  const ordered_json& member(const ordered_json& of, const char* name) const {
    const auto at = of.find(name);
    if (at == of.end()) fail(name, "none", "one: it is no head profile, or a part of one");
    return *at;
  }

  std::int64_t number(const ordered_json& of, const char* name, std::int64_t most) const {
    const ordered_json& value = member(of, name);
    // Unsigned ones above the range of int64 are told by the second comparison.
    if (!value.is_number_integer() ||
        (value.is_number_unsigned() &&
         value.get<std::uint64_t>() > static_cast<std::uint64_t>(most)) ||
        value.get<std::int64_t>() < 1)
      fail(name, shown(value), "a whole number from 1 to " + std::to_string(most));
    return value.get<std::int64_t>();
  }

  std::int64_t number_or(const ordered_json& of, const char* name, std::int64_t most,
                         std::int64_t otherwise) const {
    return of.contains(name) ? number(of, name, most) : otherwise;
  }

  std::string text_or_empty(const ordered_json& of, const char* name) const {
    const auto at = of.find(name);
    if (at == of.end()) return {};
    if (!at->is_string()) fail(name, shown(*at), "text");
    return at->get<std::string>();
  }

  const ordered_json& object(const ordered_json& of, const char* name) const {
    const ordered_json& value = member(of, name);
    if (!value.is_object()) fail(name, shown(value), "an object");
    return value;
  }

  std::vector<std::string> needs(const ordered_json& of, const char* name,
                                 const ModelIdentity& model) const {
    const ordered_json& rows = member(of, name);
    const std::string layers = std::to_string(model.layers) + " strings, one a layer";
    if (!rows.is_array()) fail(name, shown(rows), layers);
    if (static_cast<std::int64_t>(rows.size()) != model.layers)
      fail(name, std::to_string(rows.size()), layers);
    std::vector<std::string> result;
    for (const ordered_json& row : rows) {
      const std::string where = std::string(name) + " of layer " + std::to_string(result.size());
      if (!row.is_string()) fail(where, shown(row), layers);
      const std::string& letters = row.get_ref<const std::string&>();
      if (!letters.empty() && static_cast<std::int64_t>(letters.size()) != model.heads)
        fail(where, std::to_string(letters.size()) + " letters",
             std::to_string(model.heads) + ", one a query head, or none");
      if (const auto bad = letters.find_first_not_of(kLetters); bad != std::string::npos)
        fail(where, "\"" + printable(letters.substr(bad, 1)) + "\"", "letters of \".dwm\"");
      result.push_back(letters);
    }
    return result;
  }

  /// A value in a sentence: short, on one line.
  static std::string shown(const ordered_json& value) {
    std::string text = value.dump(-1, ' ', true, ordered_json::error_handler_t::replace);
    if (text.size() > 40) text = text.substr(0, 37) + "...";
    return text;
  }

 private:
  static std::string printable(std::string text) {
    for (char& c : text)
      if (c < ' ' || c > '~') c = '?';
    return text;
  }

  const std::string& source_;
};

bool is_fingerprint(const std::string& text) {
  return text.size() == 16 && text.find_first_not_of("0123456789abcdef") == std::string::npos;
}

std::int64_t count(const std::vector<std::string>& rows, char letter) {
  std::int64_t n = 0;
  for (const std::string& row : rows) n += std::count(row.begin(), row.end(), letter);
  return n;
}

/// "10 dense, 120 in a window"; empty where all are as the call says.
std::string kinds(const std::vector<std::string>& rows) {
  std::string text;
  for (const auto& [letter, word] :
       {std::pair{Need::kDense, "dense"}, std::pair{Need::kMany, "with many keys"},
        std::pair{Need::kWindow, "with a window"}})
    if (const std::int64_t n = count(rows, letter); n > 0)
      text += (text.empty() ? "" : ", ") + std::to_string(n) + " " + word;
  return text;
}

}  // namespace

std::vector<HeadBudget> HeadProfile::budgets(std::int64_t layer, bool decoding) const {
  const std::vector<std::string>& rows = needs(decoding);
  if (layer < 0 || layer >= static_cast<std::int64_t>(rows.size())) return {};
  const std::string& letters = rows[static_cast<std::size_t>(layer)];
  if (letters.find_first_not_of(Need::kAsCalled) == std::string::npos) return {};
  std::vector<HeadBudget> result;
  for (const char letter : letters) {
    switch (letter) {
      case Need::kDense: result.push_back({Method::kDense, 0}); break;
      case Need::kWindow: result.push_back({Method::kWindow, window}); break;
      case Need::kMany: result.push_back({Method::kRouted, many}); break;
      default: result.push_back({}); break;
    }
  }
  return result;
}

HeadProfile plain_profile(const ModelIdentity& model) {
  HeadProfile p;
  p.model = model;
  p.prompt.assign(static_cast<std::size_t>(model.layers),
                  std::string(static_cast<std::size_t>(model.heads), Need::kAsCalled));
  p.decode = p.prompt;
  return p;
}

HeadProfile parse_profile(std::string_view text, const std::string& source) {
  const Reader in(source);
  if (text.size() > kMostBytes) in.fail("size", std::to_string(text.size()), "a head profile");
  bool deep = false;  // what is nested without end would overflow the stack when it is shown
  const auto keep = [&](int depth, ordered_json::parse_event_t, ordered_json&) {
    deep = deep || depth > kMostDepth;
    return !deep;
  };
  const ordered_json file = ordered_json::parse(text, keep, /*allow_exceptions=*/false);
  if (deep) in.fail("nesting", "more than " + std::to_string(kMostDepth), "a head profile");
  if (file.is_discarded()) in.fail("contents", "no JSON, or a part of it", "a head profile");
  if (!file.is_object()) in.fail("contents", Reader::shown(file), "a head profile");
  if (const ordered_json& schema = in.member(file, "schema"); schema != HeadProfile::kSchema)
    in.fail("schema", Reader::shown(schema),
            std::to_string(HeadProfile::kSchema) + ", which this version of prescore reads");

  HeadProfile p;
  p.source = source;
  const ordered_json& model = in.object(file, "model");
  p.model.name = in.text_or_empty(model, "name");
  p.model.architecture = in.text_or_empty(model, "architecture");
  p.model.layers = in.number(model, "layers", kMostLayers);
  p.model.heads = in.number(model, "heads", kMostHeads);
  p.model.kv_heads = in.number(model, "kv_heads", kMostHeads);
  p.model.head_dim = in.number(model, "head_dim", kMostHeadDim);
  p.model.fingerprint = in.text_or_empty(model, "fingerprint");
  if (!is_fingerprint(p.model.fingerprint))
    in.fail("fingerprint", Reader::shown(p.model.fingerprint), "16 digits of 0-9a-f");
  if (file.contains("made")) {
    const ordered_json& made = in.object(file, "made");
    p.by = in.text_or_empty(made, "by");
    p.how = in.text_or_empty(made, "how");
    p.date = in.text_or_empty(made, "date");
  }
  p.many = in.number_or(file, "many", kMostRead, p.many);
  p.window = in.number_or(file, "window", kMostRead, p.window);
  p.prompt = in.needs(file, "prompt", p.model);
  p.decode = in.needs(file, "decode", p.model);
  return p;
}

std::string to_json(const HeadProfile& p) {
  const ordered_json file = {{"schema", HeadProfile::kSchema},
                             {"model",
                              {{"name", p.model.name},
                               {"architecture", p.model.architecture},
                               {"layers", p.model.layers},
                               {"heads", p.model.heads},
                               {"kv_heads", p.model.kv_heads},
                               {"head_dim", p.model.head_dim},
                               {"fingerprint", p.model.fingerprint}}},
                             {"made", {{"by", p.by}, {"how", p.how}, {"date", p.date}}},
                             {"many", p.many},
                             {"window", p.window},
                             {"prompt", p.prompt},
                             {"decode", p.decode}};
  return file.dump(2, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

void check_fits(const HeadProfile& p, const ModelIdentity& m) {
  const auto shape = [](const ModelIdentity& x) {
    return std::to_string(x.layers) + " layers of " + std::to_string(x.heads) + " heads on " +
           std::to_string(x.kv_heads) + " of " + std::to_string(x.head_dim);
  };
  if (p.model.fingerprint != m.fingerprint)
    throw Error("[profile] model of " + p.source + ", got " + p.model.name + " (" +
                p.model.fingerprint + "), want " + m.name + " (" + m.fingerprint + ")");
  if (shape(p.model) != shape(m))
    throw Error("[profile] shape of " + p.source + ", got " + shape(p.model) + ", want " +
                shape(m));
}

std::string describe(const HeadProfile& p) {
  const std::string heads = " of " + std::to_string(p.model.layers * p.model.heads) + " heads ";
  const auto part = [&](const std::vector<std::string>& rows) {
    std::string text = kinds(rows);
    if (text.empty()) return "none" + heads + "differs";
    return text.insert(text.find(' '), heads.substr(0, heads.size() - 1));
  };
  std::string text = part(p.prompt);
  if (p.prompt != p.decode) text += "; decoding: " + part(p.decode);
  return text + (p.source.empty() ? "" : ", from " + p.source);
}

}  // namespace prescore::host
