// Time of one attention layer against its length, dense beside every method, and where each begins
// to win.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <chrono>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <random>

#include "chart.h"
#include "errors.h"
#include "experiment.h"
#include "methods.h"
#include "prescore/attention.h"

namespace prescore::experiments {
const std::vector<Candidate>& layer_methods() {
  static const std::vector<Candidate> all = [] {
    std::vector<Candidate> list = with_simple_methods({
        {"top-k leverage", "topk --key-score leverage"},
        {"top-k universal set", "topk --key-score universal"},
        {"top-k k-means", "topk --key-score kmeans"},
        {"top-k k-medians", "topk --key-score kmedian"},
        {"top-k kernel k-means", "topk --key-score kernel_kmeans"},
        {"top-k expected", "topk --key-score expected"},
        {"top-k received", "topk --key-score received"},
        {"HyperAttention", "hyper"},
        {"Hyper, leaf 4096", "hyper --hyper-leaf 4096 --hyper-block 256 --hyper-samples 256"},
        {"prescored Hyper", "prescored_hyper --key-score leverage"},
        {"routed", "routed"},
    });
    list.insert(list.begin(), {"dense", "dense"});
    return list;
  }();
  return all;
}

namespace {

using nlohmann::json;

struct Layer {
  Flags flags;
  std::int64_t h_q = 9, h_kv = 3, d = 64, budget = 1280, repeats = 3, most = 0;
  double limit = 20;

  void run();
  json time(const Candidate& m, std::int64_t n, bool causal) const;
};

/// bf16 numbers that have what routing and hashing look for: keys of a slowly moving centre.
std::vector<std::uint16_t> walk(std::int64_t heads, std::int64_t n, std::int64_t d,
                                std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<float> normal;
  std::vector<std::uint16_t> out(static_cast<std::size_t>(heads * n * d));
  std::vector<float> centre(static_cast<std::size_t>(d));
  for (std::size_t i = 0; i < out.size(); ++i) {
    float& c = centre[i % static_cast<std::size_t>(d)];
    c = 0.98f * c + 0.2f * normal(random);
    out[i] =
        static_cast<std::uint16_t>(std::bit_cast<std::uint32_t>(c + 0.6f * normal(random)) >> 16);
  }
  return out;
}

// Median over repeats of the whole call, index and plan included. What would take longer than the
// limit is measured on its last queries and scaled by their visible keys; the row says so.
json Layer::time(const Candidate& m, std::int64_t n, bool causal) const {
  const auto executor = make_executor(flags.thread_count());
  const auto q = walk(h_q, n, d, 1), k = walk(h_kv, n, d, 2), v = walk(h_kv, n, d, 3);
  std::vector<float> out(static_cast<std::size_t>(h_q * n * d));
  Options o = options_of(m, budget);
  o.causal = causal;
  const auto call = [&](std::int64_t n_q) {
    // The last n_q queries of each head.
    Tensor queries = Tensor::contiguous(q.data() + (n - n_q) * d, DType::kBF16, 1, h_q, n_q, d);
    queries.stride[1] = n * d;
    const Tensor keys = Tensor::contiguous(k.data(), DType::kBF16, 1, h_kv, n, d);
    const Tensor values = Tensor::contiguous(v.data(), DType::kBF16, 1, h_kv, n, d);
    State state{MutTensor::contiguous(out.data(), DType::kF32, 1, h_q, n_q, d), nullptr};
    return attention(queries, keys, values, state, o, *executor).counters;
  };
  std::int64_t n_q = n;
  if (o.plan.method == Method::kDense && n > 8192) {
    call(256);
    const Counters some = call(256);
    const double all = some.total_s * static_cast<double>(n) / 256 * (causal ? 0.5 : 1.0);
    if (all > limit) n_q = 256;
  }
  std::vector<Counters> runs;
  const bool once = flags.quick || call(n_q).total_s > 5;  // the first call is not counted
  for (std::int64_t i = 0; i < (once ? 1 : repeats); ++i) runs.push_back(call(n_q));
  std::sort(runs.begin(), runs.end(),
            [](const Counters& a, const Counters& b) { return a.total_s < b.total_s; });
  const Counters& c = runs[runs.size() / 2];
  const double visible = static_cast<double>(h_q) * static_cast<double>(n) *
                         (causal ? (static_cast<double>(n) + 1) / 2 : static_cast<double>(n));
  const double scale = n_q == n ? 1 : visible / static_cast<double>(c.visible);
  return {{"seconds", c.total_s * scale},
          {"index_s", c.index_s * scale},
          {"plan_s", c.plan_s * scale / executor->width()},
          {"keys", keys_per_query(c)},
          {"scaled_from_queries", n_q == n ? 0 : n_q}};
}

// Length from which a method stays faster than dense, between measured lengths in log-log.
double crossover(const std::map<std::int64_t, double>& dense,
                 const std::map<std::int64_t, double>& method) {
  double at = 0;
  for (auto low = dense.begin(), high = std::next(low); high != dense.end(); ++low, ++high) {
    const double before = std::log(method.at(low->first) / low->second);
    const double after = std::log(method.at(high->first) / high->second);
    if (before >= 0 && after < 0) {
      const double part = before / (before - after);
      at = std::exp2(std::log2(static_cast<double>(low->first)) + part);
    } else if (after >= 0) {
      at = std::numeric_limits<double>::infinity();
    }
  }
  return at;
}

void Layer::run() {
  if (h_q < 1 || h_kv < 1 || h_q % h_kv != 0)
    throw cli::BadInput(fmt::format("--heads {} on --kv-heads {}, want a multiple", h_q, h_kv));
  if (most == 0) most = flags.quick ? 4096 : 131072;
  json settings = common_settings(flags);
  settings.update({{"experiment", "layer"},
                   {"h_q", h_q},
                   {"h_kv", h_kv},
                   {"d", d},
                   {"budget", budget},
                   {"dtype", "bf16"}});
  Journal journal(flags.out, "layer", settings, flags.fresh);
  std::vector<std::int64_t> lengths;
  for (std::int64_t n = 1024; n <= most; n *= 2) lengths.push_back(n);
  journal.expect(2 * lengths.size() * layer_methods().size());

  std::string table;
  std::vector<Panel> panels;
  for (const bool causal : {true, false}) {
    std::vector<std::string> header{"method"};
    for (const std::int64_t n : lengths) header.push_back(fmt::format("{}k", n / 1024));
    header.push_back("wins from");
    std::vector<std::vector<std::string>> rows;
    panels.push_back({causal ? "causal" : "not causal", "tokens", "seconds", {}, true, true});
    std::map<std::int64_t, double> dense;
    for (const Candidate& m : layer_methods()) {
      rows.push_back({m.name});
      panels.back().series.push_back({m.name, {}, m.name == "dense"});
      std::map<std::int64_t, double> times;
      for (const std::int64_t n : lengths) {
        const json row = journal
                             .row({{"method", m.flags}, {"n", n}, {"causal", causal}},
                                  [&] { return time(m, n, causal); })
                             .at("row");
        const double s = row.at("seconds");
        times[n] = s;
        rows.back().push_back(
            fmt::format("{:.4g}{}", s, row.at("scaled_from_queries").get<int>() > 0 ? "*" : ""));
        panels.back().series.back().points.emplace_back(n, s);
      }
      if (m.name == "dense") dense = times;
      const double at = m.name == "dense" ? 0 : crossover(dense, times);
      rows.back().push_back(m.name == "dense" ? ""
                            : std::isinf(at)  ? "never"
                            : at == 0         ? "the start"
                                              : fmt::format("{:.0f}", at));
    }
    table +=
        fmt::format("Seconds of one layer, {} ({} query heads on {}, d {}, bf16, budget {}):\n\n",
                    causal ? "causal" : "not causal", h_q, h_kv, d, budget) +
        markdown(header, rows) + "\n";
  }
  table += "* measured on the last 256 queries and scaled by the keys that are visible.\n";
  publish(journal, table, line_chart("Time of one attention layer", panels));
}

}  // namespace

void add_layer(CLI::App& experiment) {
  auto args = std::make_shared<Layer>();
  CLI::App* sub =
      experiment.add_subcommand("layer", "Time of one attention layer against its length");
  args->flags.add_to(*sub);
  sub->add_option("--heads", args->h_q, "Query heads")->capture_default_str();
  sub->add_option("--kv-heads", args->h_kv, "Key heads")->capture_default_str();
  sub->add_option("--head-size", args->d, "Head size")->capture_default_str();
  sub->add_option("--budget", args->budget, "Keys that a query reads")->capture_default_str();
  sub->add_option("--longest", args->most, "Tokens (default: 131072, quick 4096)");
  sub->add_option("--limit", args->limit, "Seconds beyond which dense is measured in part")
      ->capture_default_str();
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::experiments
