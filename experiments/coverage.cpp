// What the methods read of real attention: heavy entries and mass, by layer and head, and how much
// their choices have in common.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>

#include "chart.h"
#include "common/names.h"
#include "errors.h"
#include "experiment.h"
#include "files.h"
#include "measure.h"
#include "prescore/attention.h"
#include "reference/reference.h"

namespace prescore::experiments {
namespace {

using nlohmann::json;

const std::vector<Candidate>& methods() {
  static const std::vector<Candidate> all = {
      {"window", "window"},
      {"top-k random", "topk --key-score random"},
      {"top-k norm", "topk --key-score norm"},
      {"top-k value norm", "topk --key-score value_norm"},
      {"top-k key difference", "topk --key-score keydiff"},
      {"top-k k-means", "topk --key-score kmeans"},
      {"top-k k-medians", "topk --key-score kmedian"},
      {"top-k kernel k-means", "topk --key-score kernel_kmeans"},
      {"top-k leverage", "topk --key-score leverage"},
      {"top-k universal set", "topk --key-score universal"},
      {"top-k expected", "topk --key-score expected"},
      {"top-k received", "topk --key-score received"},
      {"top-k oracle", "topk --key-score oracle"},
      {"top-k received, from afar",
       "topk --key-score received --score-segment 64 --score-distance 64 --score-growth 1 "
       "--query-stride 2"},
      {"HyperAttention", "hyper"},
      {"prescored Hyper, leverage", "prescored_hyper"},
      {"prescored Hyper, k-means", "prescored_hyper --key-score kmeans"},
      {"routed", "routed"},
  };
  return all;
}

constexpr double kEps[] = {0.001, 0.01, 0.1};

/// Q, K and V of one layer, owned.
struct Captured {
  std::vector<std::byte> q, k, v;
  Tensor tq, tk, tv;
  float scale = 1;
};

Tensor own(const Tensor& t, std::vector<std::byte>& bytes) {
  const std::int64_t size = size_of(t.dtype), d = t.shape[3];
  bytes.resize(static_cast<std::size_t>(t.shape[1] * t.shape[2] * d * size));
  for (std::int64_t h = 0; h < t.shape[1]; ++h)
    for (std::int64_t i = 0; i < t.shape[2]; ++i)
      std::memcpy(
          bytes.data() + (h * t.shape[2] + i) * d * size,
          static_cast<const std::byte*>(t.data) + (h * t.stride[1] + i * t.stride[2]) * size,
          static_cast<std::size_t>(d * size));
  return Tensor::contiguous(bytes.data(), t.dtype, 1, t.shape[1], t.shape[2], d);
}

/// What each sampled query reads: [head][query] sets of keys.
using Reads = std::vector<std::vector<std::vector<bool>>>;

struct Coverage {
  Flags flags;
  cli::ModelFlags model;
  std::string text;
  std::vector<std::int64_t> layers;
  std::int64_t ctx = 0, budget = 512, queries = 64;

  void run();
  std::map<std::int64_t, Captured> capture(const cli::Model& loaded);
  std::vector<std::int32_t> positions() const;
  Reads reads(const Captured& c, const Candidate& m, Executor& executor) const;
  json layer(const Captured& c, Executor& executor) const;
};

std::map<std::int64_t, Captured> Coverage::capture(const cli::Model& loaded) {
  const std::vector<llama_token> tokens = loaded.tokenize(cli::read_file(text), ctx);
  if (static_cast<std::int64_t>(tokens.size()) < ctx)
    throw cli::BadInput(
        fmt::format("{} has {} tokens, want at least {}", text, tokens.size(), ctx));
  cli::Session session(loaded, model, ctx, ctx, 1);
  Options dense;
  dense.plan.method = Method::kDense;
  session.host().runner().set_options(dense);
  std::map<std::int64_t, Captured> all;
  session.host().runner().on_inputs([&](const std::string& cache, const Tensor& q, const Tensor& k,
                                        const Tensor& v, const Visibility&, float scale) {
    const std::int64_t layer = host::layer_of_cache(cache);
    if (std::find(layers.begin(), layers.end(), layer) == layers.end()) return;
    Captured& c = all[layer];
    c.tq = own(q, c.q), c.tk = own(k, c.k), c.tv = own(v, c.v), c.scale = scale;
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

// Strict choices, as a token makes them that is generated there.
Reads Coverage::reads(const Captured& c, const Candidate& m, Executor& executor) const {
  Options o = options_of(m, budget);
  o.plan.routing = Routing::kStrict;
  o.index.sinks = o.plan.sinks;
  Visibility whole;
  whole.n_q = whole.n_kv = ctx;
  KeyScores scores(score_options(o));
  KeyIndex index(o.index);
  PlanInputs in{c.tq, c.tk, whole, c.scale};
  in.workers = executor.width();
  if (o.plan.method == Method::kTopK || o.plan.method == Method::kPrescoredHyper) {
    scores.extend({c.tq, c.tk, c.tv, whole, c.scale}, executor);
    in.scores = scores.levels(), in.score_segment = o.score.segment;
  } else if (o.plan.method == Method::kRouted) {
    index.extend(c.tk, c.tv, executor);
    in.index = &index;
  }
  const std::vector<std::int32_t> at = positions();
  std::vector<std::byte> picked;
  const std::int64_t h_q = c.tq.shape[1], n = static_cast<std::int64_t>(at.size()),
                     d = c.tq.shape[3];
  const std::int64_t row = d * size_of(c.tq.dtype);
  picked.resize(static_cast<std::size_t>(h_q * n * row));
  for (std::int64_t h = 0; h < h_q; ++h)
    for (std::int64_t i = 0; i < n; ++i)
      std::memcpy(picked.data() + (h * n + i) * row,
                  c.q.data() + (h * ctx + at[static_cast<std::size_t>(i)]) * row,
                  static_cast<std::size_t>(row));
  in.q = Tensor::contiguous(picked.data(), c.tq.dtype, 1, h_q, n, d);
  in.visibility.n_q = n, in.visibility.positions = at;
  const auto planner = make_planner(in, o.plan);
  AttendInputs attend_in{in.q, c.tk, c.tv, in.visibility, c.scale, in.index, o.compute};
  const Plan plan = make_plan(attend_in, *planner, executor);

  Reads out(static_cast<std::size_t>(h_q),
            std::vector<std::vector<bool>>(static_cast<std::size_t>(n),
                                           std::vector<bool>(static_cast<std::size_t>(ctx))));
  const std::int64_t group = h_q / c.tk.shape[1];
  const auto mark = [&](std::int64_t h, std::int64_t i, const TilePlan& p) {
    const std::int64_t end = at[static_cast<std::size_t>(i)] + 1;
    for (const std::int64_t j : reference::reads_of(p, end).keys)
      out[static_cast<std::size_t>(h)][static_cast<std::size_t>(i)][static_cast<std::size_t>(j)] =
          true;
  };
  for (std::size_t t = 0; t < plan.tiles.size(); ++t) {
    const Tile& tile = plan.tiles[t];
    for (std::int64_t i = tile.first; i < tile.last; ++i) {
      if (tile.lanes != nullptr) {
        mark(tile.lanes[i].head, tile.lanes[i].query, plan.reads[t]);
        continue;
      }
      for (std::int64_t g = 0; g < (planner->shared_by_group() ? group : 1); ++g)
        mark(tile.head + g, i, plan.reads[t]);
    }
  }
  return out;
}

// For each method by head: mass and heavy entries covered, keys read; and overlaps of all pairs.
json Coverage::layer(const Captured& c, Executor& executor) const {
  const reference::Array q = reference::load(c.tq), k = reference::load(c.tk);
  const std::vector<std::int32_t> at = positions();
  const std::int64_t h_q = q.shape[1], group = h_q / k.shape[1], d = q.shape[3];
  std::vector<Reads> all;
  for (const Candidate& m : methods()) all.push_back(reads(c, m, executor));
  json out = json::array();
  std::vector<std::vector<double>> overlap(all.size(), std::vector<double>(all.size()));
  for (std::size_t m = 0; m < all.size(); ++m)
    out.push_back({{"method", methods()[m].name},
                   {"mass", json::array()},
                   {"keys", json::array()},
                   {"heavy", json::array()}});
  for (std::int64_t h = 0; h < h_q; ++h) {
    std::vector<double> mass(all.size()), keys(all.size());
    std::vector<std::array<double, 3>> found(all.size());
    std::array<double, 3> heavy{};
    for (std::size_t i = 0; i < at.size(); ++i) {
      const std::int64_t end = at[i] + 1;
      std::vector<double> p(static_cast<std::size_t>(end));
      double most = -1e300, total = 0;
      for (std::int64_t j = 0; j < end; ++j) {
        double dot = 0;
        for (std::int64_t x = 0; x < d; ++x)
          dot += q.row(0, h, at[i])[x] * k.row(0, h / group, j)[x];
        p[static_cast<std::size_t>(j)] = double{c.scale} * dot;
        most = std::max(most, p[static_cast<std::size_t>(j)]);
      }
      for (double& x : p) total += x = std::exp(x - most);
      for (double& x : p) x /= total;
      for (std::size_t e = 0; e < 3; ++e)
        for (const double x : p) heavy[e] += x > kEps[e];
      for (std::size_t m = 0; m < all.size(); ++m) {
        const std::vector<bool>& read = all[m][static_cast<std::size_t>(h)][i];
        for (std::size_t j = 0; j < p.size(); ++j) {
          if (!read[j]) continue;
          mass[m] += p[j], ++keys[m];
          for (std::size_t e = 0; e < 3; ++e) found[m][e] += p[j] > kEps[e];
        }
        for (std::size_t o = 0; o < m; ++o) {
          const std::vector<bool>& other = all[o][static_cast<std::size_t>(h)][i];
          double both = 0, either = 0;
          for (std::size_t j = 0; j < p.size(); ++j)
            both += read[j] && other[j], either += read[j] || other[j];
          overlap[m][o] +=
              both / either / static_cast<double>(at.size() * static_cast<std::size_t>(h_q));
        }
      }
    }
    for (std::size_t m = 0; m < all.size(); ++m) {
      const double n = static_cast<double>(at.size());
      out[m]["mass"].push_back(mass[m] / n), out[m]["keys"].push_back(keys[m] / n);
      json shares = json::array();
      for (std::size_t e = 0; e < 3; ++e)
        shares.push_back(heavy[e] > 0 ? found[m][e] / heavy[e] : 1.0);
      out[m]["heavy"].push_back(shares);
    }
  }
  for (std::size_t m = 0; m < all.size(); ++m)
    for (std::size_t o = 0; o < m; ++o) overlap[o][m] = overlap[m][o];
  for (std::size_t m = 0; m < all.size(); ++m) overlap[m][m] = 1;
  return {{"methods", out}, {"overlap", overlap}};
}

double mean_of(const json& list) {
  double sum = 0;
  for (const json& x : list) sum += x.get<double>();
  return sum / static_cast<double>(list.size());
}

void Coverage::run() {
  if (model.model.empty()) throw cli::BadInput("--model is required");
  if (text.empty()) throw cli::BadInput("--text is required");
  if (ctx == 0) ctx = flags.quick ? 2048 : 8192;
  if (flags.quick) queries = std::min<std::int64_t>(queries, 16);
  host::check_count("ctx", ctx, 1024, 1 << 17);
  host::check_count("queries", queries, 1, ctx / 2);
  model.threads = flags.thread_count();
  model.check();
  const cli::Model loaded(model);
  if (layers.empty())
    for (const int part : {0, 1, 2, 3, 4})
      layers.push_back(std::min<std::int64_t>(loaded.layers() - 1, part * loaded.layers() / 4));
  for (const std::int64_t l : layers) host::check_count("layer", l, 0, loaded.layers() - 1);
  json settings = common_settings(flags);
  settings.update({{"experiment", "coverage"},
                   {"model", std::filesystem::path(model.model).filename().string()},
                   {"text", std::filesystem::path(text).filename().string()},
                   {"ctx", ctx},
                   {"budget", budget},
                   {"queries", queries}});
  Journal journal(flags.out, "coverage", settings, flags.fresh);
  journal.expect(layers.size());
  std::map<std::int64_t, Captured> inputs;  // read only where a row is missing
  const auto executor = make_executor(flags.thread_count());
  std::vector<json> results;
  for (const std::int64_t l : layers)
    results.push_back(journal
                          .row({{"layer", l}},
                               [&] {
                                 if (inputs.empty()) inputs = capture(loaded);
                                 return layer(inputs.at(l), *executor);
                               })
                          .at("row"));

  std::vector<std::vector<std::string>> rows;
  HeatMap mass{"mass read, by layer", {}, {}, {}, 0, 1},
      overlap{"overlap (Jaccard)", {}, {}, {}, 0, 1};
  for (const std::int64_t l : layers) mass.columns.push_back(std::to_string(l));
  for (std::size_t m = 0; m < methods().size(); ++m) {
    double total = 0, keys = 0;
    std::array<double, 3> heavy{};
    mass.rows.push_back(methods()[m].name);
    mass.values.emplace_back();
    for (const json& r : results) {
      const json& own = r.at("methods")[m];
      mass.values.back().push_back(mean_of(own.at("mass")));
      total += mass.values.back().back(), keys += mean_of(own.at("keys"));
      for (std::size_t e = 0; e < 3; ++e)
        for (const json& head : own.at("heavy"))
          heavy[e] += head[e].get<double>() / static_cast<double>(own.at("heavy").size());
    }
    const double n = static_cast<double>(results.size());
    rows.push_back(
        {methods()[m].name, fmt::format("{:.0f}", keys / n), fmt::format("{:.3f}", total / n)});
    for (const double x : heavy) rows.back().push_back(fmt::format("{:.3f}", x / n));
    overlap.rows.push_back(methods()[m].name);
    overlap.columns.push_back(std::to_string(m + 1));
    overlap.values.emplace_back();
    for (std::size_t o = 0; o < methods().size(); ++o) {
      double sum = 0;
      for (const json& r : results) sum += r.at("overlap")[m][o].get<double>();
      overlap.values.back().push_back(sum / n);
    }
  }
  std::vector<std::string> header{"method", "keys", "mass"};
  for (const double e : kEps) header.push_back(fmt::format("p > {:g}", e));
  publish(
      journal,
      fmt::format("Share of the attention mass and of its heavy entries that is read, mean over "
                  "layers and heads, {} tokens, budget {}:\n\n",
                  ctx, budget) +
          markdown(header, rows),
      heat_maps("Coverage of real attention", {mass, overlap}));
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
  sub->add_option("--layer", args->layers, "Layers (default: five, evenly)")->delimiter(',');
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::experiments
