#include "ggml/settings.h"

#include <cstdlib>
#include <string_view>

#include "common/names.h"
#include "common/profile_files.h"

namespace prescore::host {
namespace {

/// Value of a variable; empty where it is not set.
std::string_view variable(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? std::string_view{} : text;
}

bool flag(const char* name) {
  const std::string_view text = variable(name);
  return !text.empty() && text != "0";
}

void read_count(const char* name, std::int64_t* value, std::int64_t least) {
  if (const auto text = variable(name); !text.empty())
    *value = parse_count(name, text, least, kMostKeys);
}

}  // namespace

PluginSettings read_settings() {
  PluginSettings s;
  s.disabled = flag("PRESCORE_DISABLE");
  s.stats = flag("PRESCORE_STATS");
  if (s.disabled) return s;
  PlanOptions& plan = s.options.plan;
  if (const auto text = variable("PRESCORE_METHOD"); !text.empty())
    plan.method = parse_method("PRESCORE_METHOD", text);
  if (const auto text = variable("PRESCORE_STANDINS"); !text.empty())
    plan.standins = parse_standins("PRESCORE_STANDINS", text);
  if (const auto text = variable("PRESCORE_ROUTING"); !text.empty())
    plan.routing = parse_routing("PRESCORE_ROUTING", text);
  read_count("PRESCORE_BUDGET", &plan.budget, 1);
  read_count("PRESCORE_WINDOW", &plan.window, 0);
  if (const std::string text = profile_setting(); text == "none")
    s.profile_off = true;
  else if (!text.empty())
    s.profile = std::make_shared<const HeadProfile>(read_profile(text));
  return s;
}

}  // namespace prescore::host
