// What the methods read of real attention: heavy entries and mass, by layer and head, and how much
// their choices have in common.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cmath>
#include <filesystem>
#include <map>
#include <memory>
#include <span>

#include "common/names.h"
#include "coverage_reads.h"
#include "coverage_report.h"
#include "errors.h"
#include "experiment.h"
#include "measure.h"
#include "methods.h"
#include "prescore/attention.h"
#include "reference/reference.h"

namespace prescore::experiments {
const std::vector<Candidate>& coverage_methods() {
  static const std::vector<Candidate> all = [] {
    std::vector<Candidate> list = with_simple_methods({
        {"top-k k-means", "topk --key-score kmeans"},
        {"top-k k-means relative", "topk --key-score kmeans --cluster-score relative"},
        {"top-k k-means nearness", "topk --key-score kmeans --cluster-score nearness"},
        {"top-k k-medians", "topk --key-score kmedian"},
        {"top-k kernel k-means", "topk --key-score kernel_kmeans"},
        {"top-k kernel distance", "topk --key-score kernel_kmeans --kernel distance"},
        {"top-k leverage", "topk --key-score leverage"},
        {"top-k universal set", "topk --key-score universal"},
        {"top-k expected", "topk --key-score expected"},
        {"top-k received", "topk --key-score received"},
        {"top-k oracle", "topk --key-score oracle"},
        received_from_afar(),
        {"HyperAttention", "hyper"},
        {"prescored Hyper, leverage", "prescored_hyper"},
        {"prescored Hyper, k-means", "prescored_hyper --key-score kmeans"},
        {"routed", "routed"},
    });
    for (Candidate& c : list)
      if (c.flags.starts_with("topk")) c = with_far_step(c);
    return list;
  }();
  return all;
}

namespace {

using nlohmann::json;

struct Coverage {
  Flags flags;
  cli::ModelFlags model;
  std::string text;
  std::vector<std::int64_t> layers;
  std::int64_t ctx = 0, budget = 512, queries = 64;

  void run();
  void prepare();
  void choose_layers(std::int64_t all);
  std::vector<Candidate> methods() const;
  std::map<std::int64_t, Captured> capture(const cli::Model& loaded,
                                           std::span<const llama_token> tokens);
  std::vector<std::int32_t> positions() const;
  json layer(const Captured& c, Executor& executor) const;
};

std::vector<Candidate> Coverage::methods() const {
  std::vector<Candidate> all = coverage_methods();
  if (flags.quick)
    for (Candidate& c : all) c = keeping_a_quarter(c, ctx);
  return all;
}

std::map<std::int64_t, Captured> Coverage::capture(const cli::Model& loaded,
                                                   std::span<const llama_token> tokens) {
  cli::Session session(loaded, model, ctx, ctx, 1);
  Options dense;
  dense.plan.method = Method::kDense;
  session.host().runner().set_options(dense);
  std::map<std::int64_t, Captured> all;
  session.host().runner().on_inputs([&](const std::string& cache, const Tensor& q, const Tensor& k,
                                        const Tensor& v, const Visibility&, float scale) {
    const std::int64_t layer = host::layer_of_cache(cache);
    if (std::find(layers.begin(), layers.end(), layer) == layers.end()) return;
    all.insert_or_assign(layer, Captured(q, k, v, scale));
  });
  session.read(tokens, 0, ctx);
  return all;
}

// Spread over the second half.
std::vector<std::int32_t> Coverage::positions() const {
  std::vector<std::int32_t> out;
  for (std::int64_t i = 1; i <= queries; ++i)
    out.push_back(static_cast<std::int32_t>(ctx / 2 + ctx / 2 * i / queries - 1));
  return out;
}

// Probabilities of a query over keys [0, end).
std::vector<double> probabilities(const double* q, const reference::Array& k, std::int64_t h,
                                  std::int64_t end, double scale) {
  std::vector<double> p(static_cast<std::size_t>(end));
  double most = -1e300, total = 0;
  for (std::int64_t j = 0; j < end; ++j) {
    double dot = 0;
    for (std::int64_t x = 0; x < k.shape[3]; ++x) dot += q[x] * k.row(0, h, j)[x];
    p[static_cast<std::size_t>(j)] = scale * dot;
    most = std::max(most, scale * dot);
  }
  for (double& x : p) total += x = std::exp(x - most);
  for (double& x : p) x /= total;
  return p;
}

/// What one method reads of one head.
struct Share {
  double mass = 0, keys = 0;
  std::array<double, kHeavy.size()> heavy{};
  void add(const std::vector<double>& p, const std::vector<std::int64_t>& read) {
    keys += static_cast<double>(read.size());
    for (const std::int64_t j : read) {
      const double x = p[static_cast<std::size_t>(j)];
      mass += x;
      for (std::size_t e = 0; e < heavy.size(); ++e) heavy[e] += x > kHeavy[e];
    }
  }
};

// For each method by head: mass and heavy entries covered, keys read; and overlaps of all pairs.
json Coverage::layer(const Captured& c, Executor& executor) const {
  const reference::Array q = reference::load(c.tq), k = reference::load(c.tk);
  const std::vector<std::int32_t> at = positions();
  const std::int64_t h_q = q.shape[1], group = h_q / k.shape[1];
  std::vector<Reads> all;
  json out = json::array();
  for (const Candidate& m : methods()) {
    all.push_back(reads_of(c, options_of(m, budget), at, executor));
    out.push_back({{"method", m.name},
                   {"mass", json::array()},
                   {"keys", json::array()},
                   {"heavy", json::array()}});
  }
  Overlaps overlaps(all.size());
  for (std::int64_t h = 0; h < h_q; ++h) {
    std::vector<Share> shares(all.size());
    std::array<double, kHeavy.size()> heavy{};
    for (std::size_t i = 0; i < at.size(); ++i) {
      const std::vector<double> p =
          probabilities(q.row(0, h, at[i]), k, h / group, at[i] + 1, double{c.scale});
      for (std::size_t e = 0; e < heavy.size(); ++e)
        heavy[e] += static_cast<double>(
            std::count_if(p.begin(), p.end(), [&](double x) { return x > kHeavy[e]; }));
      std::vector<const std::vector<std::int64_t>*> reads;
      for (std::size_t m = 0; m < all.size(); ++m) {
        reads.push_back(&all[m][static_cast<std::size_t>(h)][i]);
        shares[m].add(p, *reads.back());
      }
      overlaps.add(reads, at[i] + 1);
    }
    for (std::size_t m = 0; m < all.size(); ++m) {
      const double n = static_cast<double>(at.size());
      out[m]["mass"].push_back(shares[m].mass / n), out[m]["keys"].push_back(shares[m].keys / n);
      json found = json::array();
      for (std::size_t e = 0; e < heavy.size(); ++e)
        found.push_back(heavy[e] > 0 ? shares[m].heavy[e] / heavy[e] : 1.0);
      out[m]["heavy"].push_back(found);
    }
  }
  return {{"methods", out}, {"far_overlap", overlaps.means()}};
}

void Coverage::prepare() {
  if (model.model.empty()) throw cli::BadInput("--model is required");
  if (text.empty()) throw cli::BadInput("--text is required");
  if (ctx == 0) ctx = flags.quick ? 2048 : 8192;
  if (flags.quick) queries = std::min<std::int64_t>(queries, 16);
  host::check_count("ctx", ctx, 1024, 1 << 17);
  host::check_count("queries", queries, 1, ctx / 2);
  model.threads = flags.thread_count();
  model.check();
}

void Coverage::choose_layers(std::int64_t all) {
  const std::int64_t parts = flags.quick ? std::min<std::int64_t>(5, all) : all;
  if (layers.empty())  // from the first to the last
    for (std::int64_t i = 0; i < parts; ++i)
      layers.push_back(parts > 1 ? i * (all - 1) / (parts - 1) : 0);
  for (const std::int64_t l : layers) host::check_count("layer", l, 0, all - 1);
}

void Coverage::run() {
  prepare();
  const cli::Model loaded(model);
  choose_layers(loaded.layers());
  json settings = common_settings(flags, model.model);
  settings.update({{"experiment", "coverage"},
                   {"text", std::filesystem::path(text).filename().string()},
                   {"ctx", ctx},
                   {"budget", budget},
                   {"queries", queries}});
  for (const Candidate& m : methods()) settings["methods"].push_back(m.flags);
  Journal journal(flags.out, "coverage", settings, flags.fresh);
  journal.expect(layers.size());
  const std::vector<llama_token> read = read_tokens(loaded, text, ctx);
  const std::string hash = short_hash(std::as_bytes(std::span(read)));
  std::map<std::int64_t, Captured> inputs;  // read only where a row is missing
  const auto executor = make_executor(flags.thread_count());
  CoverageRows results{layers, {}};
  for (const std::int64_t l : layers) {
    const json& row = journal.row({{"layer", l}, {"tokens", hash}}, [&] {
      if (inputs.empty()) inputs = capture(loaded, read);
      return layer(inputs.at(l), *executor);
    });
    results.rows.push_back(row.at("row"));
  }
  std::string table = fmt::format(
      "Share of the attention mass and of its heavy entries that is read, mean over layers and "
      "heads, {} tokens, budget {}; mass also of the head that has least, in the median, and "
      "most:\n\n",
      ctx, budget);
  table += mass_table(results);
  table +=
      "\nOverlap (Jaccard) of the far keys that two methods read, those between the sinks and "
      "the window of top-k; columns are numbered in the order of the rows:\n\n";
  table += overlap_table(results);
  publish(journal, table, coverage_picture(results));
}

}  // namespace

void add_coverage(CLI::App& experiment) {
  auto args = std::make_shared<Coverage>();
  CLI::App* sub = experiment.add_subcommand(
      "coverage", "How much of a real model's attention each method reads");
  args->flags.add_to(*sub);
  sub->add_option("--model,-m", args->model.model, "GGUF model");
  sub->add_option("--text,-f", args->text, "Text file");
  sub->add_option("--ctx,-c", args->ctx, "Tokens (default: 8192, quick 2048)");
  sub->add_option("--budget", args->budget, "Keys that a query reads")->capture_default_str();
  sub->add_option("--queries", args->queries, "Queries looked at")->capture_default_str();
  sub->add_option("--layer", args->layers, "Layers (default: all, quick: five, evenly)")
      ->delimiter(',');
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::experiments
