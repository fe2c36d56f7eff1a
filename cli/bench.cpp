// prescore bench attend: times of the one call, by method, length and budget.
#include "bench.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include "commands.h"
#include "common/names.h"
#include "errors.h"
#include "files.h"
#include "settings.h"
#include "table.h"

namespace prescore::cli {
namespace {

using nlohmann::json;

struct BenchAttend {
  std::string device = "cpu", dtype = "bf16", json_file;
  std::vector<std::string> methods{"dense", "window", "routed"};
  std::vector<std::int64_t> keys{8192, 32768}, budgets{1280};
  std::int64_t heads = 14, kv_heads = 2, head_size = 64, group = 32, repeats = 10, threads = 0;
  bool full = false;
  MethodFlags method;

  void add_to(CLI::App& app);
  void check() const;
  void run() const;
  json time(Bench& bench, const BenchShape& shape, const std::string& name,
            std::int64_t budget) const;
};

void BenchAttend::add_to(CLI::App& app) {
  const auto option = [&](const char* name, auto& value, const char* text) {
    app.add_option(name, value, text)->capture_default_str();
  };
  const auto list = [&](const char* name, auto& values, const char* text) {
    app.add_option(name, values, text)->delimiter(',')->capture_default_str();
  };
  option("--device", device, "cpu or cuda");
  list("--methods", methods, "Methods, separated by commas");
  list("--keys", keys, "Keys and queries, several");
  option("--heads", heads, "Query heads");
  option("--kv-heads", kv_heads, "Key heads");
  option("--head-size", head_size, "Columns of a head");
  option("--dtype", dtype, "f16 or bf16");
  option("--group", group, "Keys of a group of clusters on average");
  option("--repeats", repeats, "Runs, of which the median counts");
  option("--threads", threads, "cpu: threads, 0: all");
  option("--json", json_file, "Write the rows here");
  app.add_flag("--full", full, "Every query sees every key");
  method.add_to(app);
  app.remove_option(app.get_option("--budget"));
  list("--budget", budgets, "Most keys that one query reads, several");
}

void BenchAttend::check() const {
  const auto at_least = [](const char* what, std::int64_t value, std::int64_t least) {
    host::check_count(what, value, least, host::kMostKeys);
  };
  if (device != "cpu" && device != "cuda")
    throw BadInput("--device, got \"" + device + "\", want cpu or cuda");
  if (dtype != "f16" && dtype != "bf16")
    throw BadInput("--dtype, got \"" + dtype + "\", want f16 or bf16");
  at_least("--kv-heads", kv_heads, 1), at_least("--head-size", head_size, 1);
  at_least("--heads", heads, kv_heads), at_least("--repeats", repeats, 1);
  at_least("--group", group, 1);
  host::check_count("--threads", threads, 0, host::kMostThreads);
  if (heads % kv_heads != 0)
    throw BadInput(
        fmt::format("--heads, got {}, want a multiple of --kv-heads {}", heads, kv_heads));
  for (const std::int64_t n : keys) at_least("--keys", n, 1);
  if (!json_file.empty()) check_writable(json_file);
  for (const std::int64_t budget : budgets) at_least("--budget", budget, 1);
}

// Products are two of 2 d operations a key or stand-in and query; a row of keys and one of values
// come once a tile.
json BenchAttend::time(Bench& bench, const BenchShape& s, const std::string& name,
                       std::int64_t budget) const {
  Options o = method.options();
  o.plan.method = host::parse_method("--methods", name);
  o.plan.budget = budget, o.index.group = group, o.causal = !full;
  const Timed t = bench.run(o, static_cast<int>(repeats));
  const Counters& c = t.report.counters;
  const double rows = static_cast<double>(c.keys + c.standins),
               queries = static_cast<double>(c.queries);
  const double operations = 4.0 * static_cast<double>(s.d) * rows;
  json row = {{"method", name},
              {"keys_seen", s.n},
              {"budget", budget},
              {"ms", 1e3 * t.median_s},
              {"index_ms", 1e3 * c.index_s},
              {"plan_ms", 1e3 * c.plan_s},
              {"attend_ms", 1e3 * c.attend_s},
              {"keys", static_cast<double>(c.keys) / queries},
              {"standins", static_cast<double>(c.standins) / queries},
              {"attend_tflops", operations / c.attend_s * 1e-12},
              {"row_gbytes_s", operations / static_cast<double>(o.plan.tile) / c.attend_s * 1e-9},
              {"kernel", t.report.isa}};
  if (t.report.choice.method != o.plan.method)
    row["took"] = std::string(host::name_of(t.report.choice.method));
  return row;
}

void BenchAttend::run() const {
  check();
  const auto executor = make_executor(static_cast<int>(threads));
  json rows = json::array();
  Table table({"method", "keys seen", "budget", "ms", "index", "plan", "attend", "keys",
               "stand-ins", "TFLOP/s"});
  for (const std::int64_t n : keys) {
    const BenchShape s{heads, kv_heads, n, head_size, dtype == "f16" ? DType::kF16 : DType::kBF16};
    const BenchData data = make_bench_data(s, *executor);
    const auto bench = device == "cuda" ? make_cuda_bench(data) : make_cpu_bench(data, *executor);
    for (const std::string& name : methods)
      for (const std::int64_t budget : budgets) {
        if (name == "dense" && budget != budgets.front()) continue;  // has none
        const json r = time(*bench, s, name, budget);
        const auto ms = [&](const char* key) {
          return fmt::format("{:.2f}", r[key].get<double>());
        };
        table.add({name, std::to_string(n), name == "dense" ? "" : std::to_string(budget), ms("ms"),
                   ms("index_ms"), ms("plan_ms"), ms("attend_ms"),
                   fmt::format("{:.0f}", r["keys"].get<double>()), ms("standins"),
                   ms("attend_tflops")});
        rows.push_back(r);
      }
  }
  fmt::print("{}", table.str());
  fmt::print("ms: median of {} runs, all stages; the stages are of one more run{}.\n", repeats,
             device == "cpu" ? ", plan and attend summed over threads" : "");
  if (json_file.empty()) return;
  std::string where = machine_name();
  if (device == "cuda")
    if (const auto found = gpus(); !found.empty()) where = found.front().name;
  write_file(json_file, json{{"experiment", "bench attend"},
                             {"device", device},
                             {"machine", where},
                             {"heads", heads},
                             {"kv_heads", kv_heads},
                             {"head_size", head_size},
                             {"dtype", dtype},
                             {"causal", !full},
                             {"repeats", repeats},
                             {"version", std::string(version())},
                             {"rows", rows}}
                                .dump(1) +
                            "\n");
}

}  // namespace

void add_bench(CLI::App& app) {
  CLI::App* bench = app.add_subcommand("bench", "Times without a model");
  bench->require_subcommand(1);
  CLI::App* attend = bench->add_subcommand("attend", "One attention call, by method and length");
  const auto flags = std::make_shared<BenchAttend>();
  flags->add_to(*attend);
  attend->callback([flags] { flags->run(); });
}

}  // namespace prescore::cli
