// Any bytes as a head profile: a profile or one sentence, and what is read survives being written.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <string_view>

#include "common/profile.h"

namespace {

void check(bool right, const std::string& what) {
  if (right) return;
  std::fprintf(stderr, "%s\n", what.c_str());
  std::abort();
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace prescore;
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  try {
    const host::HeadProfile p = host::parse_profile(text, "p.json");
    const std::string written = host::to_json(p);
    check(host::to_json(host::parse_profile(written, "p.json")) == written, written);
    for (const bool decoding : {false, true})
      for (std::int64_t layer = -1; layer <= p.model.layers; ++layer) {
        const auto budgets = static_cast<std::int64_t>(p.budgets(layer, decoding).size());
        check(budgets == 0 || budgets == p.model.heads, "budgets");
      }
    check(!host::describe(p).empty(), "no description");
  } catch (const Error& e) {
    const std::string_view sentence = e.what();
    check(sentence.rfind("[profile] ", 0) == 0 && sentence.find('\n') == std::string_view::npos,
          e.what());
  }
  return 0;
}
