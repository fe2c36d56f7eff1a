// libggml-prescore.so: prescore as a loadable ggml backend, for unmodified llama.cpp programs.
//
//   GGML_BACKEND_PATH=/path/to/libggml-prescore.so llama-perplexity -m model.gguf ...
//
// An accelerator device beside the CPU: it works on the CPU's buffers and takes FLASH_ATTN_EXT and
// nothing else, so the scheduler gives it exactly the attention operations. Settings: settings.h.
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <unordered_set>

#include "common/mapped_models.h"
#include "common/names.h"
#include "common/op_runner.h"
#include "ggml-backend.h"
#include "ggml/check_host.h"
#include "ggml/layout.h"
#include "ggml/settings.h"

namespace prescore::host {
namespace {

// `-fa auto` asks with a graph of one query whether the CPU computes attention and switches flash
// attention off where another device does. Few queries are therefore left to it; decoding is, too.
constexpr std::int64_t kMinQueries = 32;

/// What all backends of the process did, printed when it ends.
struct Totals {
  std::mutex mutex;
  Stats stats;                     // only counts, seconds, counters
  std::set<std::string> declined;  // reasons given to the scheduler
  std::set<const OpRunner*> live;  // of contexts that the host has not freed
  std::string profile;             // of the last context that has one
  bool hinted = false;             // that there is none: said once
  void add(const Stats& s) {
    stats.taken += s.taken;
    stats.seconds += s.seconds;
    stats.counters += s.counters;
    stats.profiled += s.profiled;
    stats.unprofiled += s.unprofiled;
    for (const auto& [method, count] : s.methods) stats.methods[method] += count;
  }
};
Totals& totals() {
  static Totals* t = new Totals;  // outlives whatever the host still runs at exit
  return *t;
}

struct Globals {
  PluginSettings settings;
  HostFacts facts;
};
Globals& globals() {
  static Globals* g = new Globals;
  return *g;
}

void say(const std::string& text) { std::fprintf(stderr, "prescore: %s\n", text.c_str()); }

void print_totals() {
  Totals& t = totals();
  const std::lock_guard lock(t.mutex);
  for (const OpRunner* runner : t.live) t.add(runner->stats());
  std::string line = std::to_string(t.stats.taken) + " attention operations taken over";
  for (const auto& [method, count] : t.stats.methods)
    line += ", " + std::to_string(count) + " " + method;
  char text[160];
  const Counters& c = t.stats.counters;
  std::snprintf(
      text, sizeof text, "; %.3f s in them, %.1f of %.1f keys a query", t.stats.seconds,
      c.queries > 0 ? static_cast<double>(c.keys) / static_cast<double>(c.queries) : 0.0,
      c.queries > 0 ? static_cast<double>(c.visible) / static_cast<double>(c.queries) : 0.0);
  line += text;
  if (!t.profile.empty())
    line +=
        "; profile: " + t.profile + ", used in " + std::to_string(t.stats.profiled) + " operations";
  std::string reasons;
  for (const std::string& reason : t.declined) reasons += (reasons.empty() ? "" : ", ") + reason;
  if (!reasons.empty()) line += "; left to the host: " + reasons;
  say(line);
}

/// One context's backend: the runner and its threads.
class Context {
 public:
  Context() : runner_(globals().settings.options) {
    const std::lock_guard lock(totals().mutex);
    totals().live.insert(&runner_);
  }
  ~Context() {
    const std::lock_guard lock(totals().mutex);
    totals().live.erase(&runner_);
    totals().add(runner_.stats());
  }

  void set_threads(int n) {
    if (n >= 1 && n <= kMostThreads && n != threads_) {
      threads_ = n;
      executor_ = nullptr;
    }
  }

  ggml_status compute(ggml_cgraph* graph) {
    bool ok = true;
    for (int i = 0; i < ggml_graph_n_nodes(graph); ++i) {
      ggml_tensor* node = ggml_graph_node(graph, i);
      if (node->op == globals().facts.flash_attn_ext) ok = attention(node) && ok;
    }
    return ok ? GGML_STATUS_SUCCESS : GGML_STATUS_FAILED;
  }

 private:
  bool attention(ggml_tensor* node) {
    if (executor_ == nullptr) executor_ = make_executor(threads_);
    if (!profile_sought_) seek_profile(node);
    // Each operation arrives as a graph of its own. A layer that comes again opens an evaluation.
    if (!layers_.insert(node->src[1]->data).second) {
      layers_.clear();
      layers_.insert(node->src[1]->data);
      runner_.begin_evaluation();
    }
    const bool ok = runner_.run(node, read_flash_params(node), *executor_);
    if (!runner_.stats().error.empty() && !reported_) {
      reported_ = true;
      say(runner_.stats().error);
    }
    return ok;
  }

  /// At the first operation: only now is the model in memory, and its shape known.
  void seek_profile(const ggml_tensor* node) {
    profile_sought_ = true;
    const PluginSettings& settings = globals().settings;
    if (settings.profile_off) return;
    std::string note;
    try {
      runner_.set_profile(profile_of_mapped(settings.profile, mapped_models(), node->src[0]->ne[2],
                                            node->src[1]->ne[2], node->src[0]->ne[0], &note));
    } catch (const std::exception& e) {
      note = e.what();
    }
    if (!note.empty()) say("no head profile: " + note);
    const std::lock_guard lock(totals().mutex);
    if (runner_.profile() != nullptr) {
      totals().profile = describe(*runner_.profile());
    } else if (settings.options.plan.method == Method::kAuto && !totals().hinted) {
      totals().hinted = true;
      say("no head profile of this model, so that all is read densely; `prescore profile -m "
          "MODEL.gguf` measures one");
    }
  }

  OpRunner runner_;
  bool profile_sought_ = false;
  int threads_ = static_cast<int>(std::thread::hardware_concurrency());
  std::unique_ptr<Executor> executor_;
  std::unordered_set<const void*> layers_;
  bool reported_ = false;
};

// ---- backend -----------------------------------------------------------------------------------

constexpr char kName[] = "prescore";
constexpr char kDescription[] = "sparse long-context attention on the CPU";

Context* context_of(ggml_backend_t backend) {
  return static_cast<Context*>(reinterpret_cast<layout::Backend*>(backend)->context);
}

void backend_free(ggml_backend_t backend) {
  delete context_of(backend);
  delete reinterpret_cast<layout::Backend*>(backend);
}

ggml_status backend_compute(ggml_backend_t backend, ggml_cgraph* graph) {
  try {
    return context_of(backend)->compute(graph);
  } catch (const std::exception& e) {
    say(e.what());
    return GGML_STATUS_FAILED;
  }
}

void backend_set_threads(ggml_backend_t backend, int n) { context_of(backend)->set_threads(n); }

ggml_backend_t device_init(ggml_backend_dev_t device, const char*) {
  static ggml_guid guid = {'p',  'r',  'e',  's',  'c',  'o',  'r',  'e',
                           0x2a, 0x91, 0x4c, 0x07, 0xb3, 0x5e, 0xd8, 0x16};
  auto backend = std::make_unique<layout::Backend>();
  backend->guid = &guid;
  backend->get_name = [](ggml_backend_t) { return static_cast<const char*>(kName); };
  backend->free = backend_free;
  backend->graph_compute = backend_compute;
  backend->device = device;
  backend->context = new Context;
  return reinterpret_cast<ggml_backend_t>(backend.release());
}

// ---- device ------------------------------------------------------------------------------------

bool device_supports(ggml_backend_dev_t, const ggml_tensor* node) {
  const HostFacts& f = globals().facts;
  if (node->op == GGML_OP_NONE || node->op == f.reshape || node->op == f.view ||
      node->op == f.permute || node->op == f.transpose)
    return true;
  if (node->op != f.flash_attn_ext) return false;
  const std::string reason = why_left(node, read_flash_params(node), kMinQueries);
  if (!reason.empty()) {
    const std::lock_guard lock(totals().mutex);
    totals().declined.insert(reason);
  }
  return reason.empty();
}

void device_props(ggml_backend_dev_t, ggml_backend_dev_props* props) {
  props->name = kName;
  props->description = kDescription;
  props->memory_free = props->memory_total = 0;
  props->type = GGML_BACKEND_DEVICE_TYPE_ACCEL;
  props->caps = {};
  props->caps.buffer_from_host_ptr = true;
  props->caps.mmap_support = true;
}

layout::Device make_device() {
  layout::Device d{};
  d.get_name = [](ggml_backend_dev_t) { return static_cast<const char*>(kName); };
  d.get_description = [](ggml_backend_dev_t) { return static_cast<const char*>(kDescription); };
  d.get_memory = [](ggml_backend_dev_t, std::size_t* free, std::size_t* total) {
    *free = *total = 0;
  };
  d.get_type = [](ggml_backend_dev_t) { return GGML_BACKEND_DEVICE_TYPE_ACCEL; };
  d.get_props = device_props;
  d.init_backend = device_init;
  d.get_buffer_type = [](ggml_backend_dev_t) { return ggml_backend_cpu_buffer_type(); };
  d.buffer_from_host_ptr = [](ggml_backend_dev_t, void* data, std::size_t size, std::size_t) {
    return ggml_backend_cpu_buffer_from_ptr(data, size);
  };
  d.supports_op = device_supports;
  d.supports_buft = [](ggml_backend_dev_t, ggml_backend_buffer_type_t type) {
    return ggml_backend_buft_is_host(type);
  };
  return d;
}

// ---- registration ------------------------------------------------------------------------------

layout::Device& device() {
  static layout::Device d = make_device();
  return d;
}

void* proc_address(ggml_backend_reg_t, const char* name) {
  if (std::strcmp(name, "ggml_backend_set_n_threads") == 0)
    return reinterpret_cast<void*>(backend_set_threads);
  return nullptr;
}

ggml_backend_reg_t register_with(int api_version) {
  static layout::Reg reg{};
  reg.api_version = api_version;
  reg.get_name = [](ggml_backend_reg_t) { return static_cast<const char*>(kName); };
  reg.get_device_count = [](ggml_backend_reg_t) {
    return std::size_t{globals().settings.disabled ? 0u : 1u};
  };
  reg.get_device = [](ggml_backend_reg_t, std::size_t) {
    return reinterpret_cast<ggml_backend_dev_t>(&device());
  };
  reg.get_proc_address = proc_address;
  device().reg = reinterpret_cast<ggml_backend_reg_t>(&reg);
  return device().reg;
}

ggml_backend_reg_t init() {
  Globals& g = globals();
  g.settings = read_settings();
  check_plan(g.settings.options.plan);
  g.facts = check_host();
  if (!g.facts.problem.empty()) throw Error(g.facts.problem);
  if (g.settings.disabled) say("switched off by PRESCORE_DISABLE");  // loaded, without a device
  if (g.settings.stats) std::atexit(print_totals);
  return register_with(g.facts.api_version);
}

}  // namespace
}  // namespace prescore::host

/// The host's entry point; null: not loaded, and the host goes on without us.
extern "C" __attribute__((visibility("default"))) ggml_backend_reg_t ggml_backend_init(void) {
  try {
    return prescore::host::init();
  } catch (const std::exception& e) {
    std::fprintf(stderr, "prescore: not loaded: %s\n", e.what());
    return nullptr;
  }
}
