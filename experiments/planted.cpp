// The planted-subspace model of 2505.11040: a few heavy keys along their own directions, the rest
// noise. Does a score find the heavy keys, and what does attention lose that reads only the best?
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>
#include <map>
#include <memory>
#include <numeric>
#include <random>
#include <set>

#include "chart.h"
#include "common/names.h"
#include "experiment.h"
#include "prescore/attention.h"

namespace prescore::experiments {
namespace {

using nlohmann::json;

/// Keys of one head: `copies` heavy keys along each of `directions` orthogonal axes, at distance
/// `strength` from the origin, among noise of norm `noise` and a mean common to all keys.
struct Model {
  std::int64_t n = 4096, d = 64, directions = 8, copies = 1;
  double strength = 8, noise = 1, mean = 0;
};

struct Case {
  const char* name;
  const char* what;
  Model model;
};

// The claim is that k-means with d + 1 clusters isolates the heavy keys: it needs noise that forms
// few tight clusters and heavy keys that are few and far from it.
const Case kCases[] = {
    {"claim", "heavy keys far from tight noise", {4096, 64, 8, 1, 8, 1, 0}},
    {"copies", "8 copies of each heavy key: clusters of their own", {4096, 64, 8, 8, 8, 1, 0}},
    {"many", "32 copies each", {4096, 64, 8, 32, 8, 1, 0}},
    {"weak", "heavy keys as long as the noise", {4096, 64, 8, 1, 4, 4, 0}},
    {"loud", "noise longer than the heavy keys", {4096, 64, 8, 1, 4, 8, 0}},
    {"mean", "a mean common to all keys, as behind RoPE", {4096, 64, 8, 1, 8, 1, 20}},
    {"wide", "d = 128", {4096, 128, 8, 1, 8, 1, 0}},
};

struct Planted {
  std::vector<float> q, k, v;
  std::set<std::int64_t> heavy;
};

// Noise is spread over all dimensions with norm about model.noise; each query points at one heavy
// direction. Every heavy key sits at a random place.
Planted plant(const Model& m, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::normal_distribution<double> normal;
  Planted p;
  const auto size = static_cast<std::size_t>(m.n * m.d);
  p.k.resize(size), p.v.resize(size);
  const double deviation = m.noise / std::sqrt(static_cast<double>(m.d));
  for (float& x : p.k) x = static_cast<float>(deviation * normal(random));
  for (float& x : p.v) x = static_cast<float>(normal(random));
  std::vector<std::int64_t> places(static_cast<std::size_t>(m.n));
  std::iota(places.begin(), places.end(), std::int64_t{0});
  std::shuffle(places.begin(), places.end(), random);
  for (std::int64_t i = 0; i < m.directions * m.copies; ++i) {
    const std::int64_t at = places[static_cast<std::size_t>(i)];
    p.heavy.insert(at);
    for (std::int64_t c = 0; c < m.d; ++c) {
      float& x = p.k[static_cast<std::size_t>(at * m.d + c)];
      x = static_cast<float>(0.05 * m.strength * normal(random) /
                             std::sqrt(static_cast<double>(m.d)));
      if (c == i % m.directions) x += static_cast<float>(m.strength);
    }
  }
  for (std::int64_t i = 0; i < m.n; ++i)
    p.k[static_cast<std::size_t>(i * m.d + m.d - 1)] += static_cast<float>(m.mean);
  const std::int64_t n_q = 128;
  p.q.resize(static_cast<std::size_t>(n_q * m.d));
  for (std::int64_t i = 0; i < n_q; ++i)
    for (std::int64_t c = 0; c < m.d; ++c)
      p.q[static_cast<std::size_t>(i * m.d + c)] =
          static_cast<float>(0.3 * normal(random) + (c == i % m.directions ? 8 : 0));
  return p;
}

const std::vector<Candidate>& scorers() {
  static const std::vector<Candidate> all = {
      {"random", "--key-score random"},
      {"norm", "--key-score norm"},
      {"Gaussian norm", "--key-score gaussian_norm"},
      {"key difference", "--key-score keydiff"},
      {"k-means", "--key-score kmeans"},
      {"k-means relative", "--key-score kmeans --cluster-score relative"},
      {"k-means nearness", "--key-score kmeans --cluster-score nearness"},
      {"k-means, d/4 clusters", "--key-score kmeans --clusters 16"},
      {"k-means, 4d clusters", "--key-score kmeans --clusters 256"},
      {"k-medians", "--key-score kmedian"},
      {"kernel k-means", "--key-score kernel_kmeans"},
      {"leverage", "--key-score leverage"},
      {"leverage, centred", "--key-score leverage --centred-keys"},
      {"universal set", "--key-score universal"},
  };
  return all;
}

const std::vector<Candidate>& methods() {
  static const std::vector<Candidate> all = {
      {"window", "window"},
      {"top-k k-means", "topk --key-score kmeans"},
      {"top-k leverage", "topk --key-score leverage"},
      {"HyperAttention", "hyper"},
      {"prescored Hyper", "prescored_hyper --key-score leverage"},
      {"routed", "routed"},
  };
  return all;
}

struct Mean {
  double sum = 0, squares = 0, count = 0;
  void add(double x) { sum += x, squares += x * x, ++count; }
  double mean() const { return sum / count; }
  double error() const {
    return count > 1 ? std::sqrt(std::max(0.0, squares / count - mean() * mean()) / (count - 1))
                     : 0;
  }
};

struct Run {
  Flags flags;
  std::int64_t seeds = 5;

  void run();
  json recovery(const Case& c, const Candidate& scorer) const;
  json error(const Case& c, const Candidate& method, std::int64_t budget) const;
};

// Share of the heavy keys among the best |heavy| and the best 2 |heavy|.
json Run::recovery(const Case& c, const Candidate& scorer) const {
  const auto executor = make_executor(flags.thread_count());
  const Options o = options_of({scorer.name, "topk " + scorer.flags}, 512);
  Mean once, twice;
  for (std::int64_t seed = 0; seed < (flags.quick ? 2 : seeds); ++seed) {
    const Planted p = plant(c.model, static_cast<std::uint64_t>(seed));
    ScoreOptions options = score_options(o);
    options.seed = static_cast<std::uint64_t>(seed);
    std::vector<float> score(static_cast<std::size_t>(c.model.n));
    score_keys(Tensor::contiguous(p.k.data(), DType::kF32, 1, 1, c.model.n, c.model.d), c.model.n,
               options, score.data(), *executor);
    std::vector<std::int64_t> order(score.size());
    std::iota(order.begin(), order.end(), std::int64_t{0});
    std::stable_sort(order.begin(), order.end(), [&](std::int64_t a, std::int64_t b) {
      return score[static_cast<std::size_t>(a)] > score[static_cast<std::size_t>(b)];
    });
    double found = 0;
    for (std::size_t i = 0; i < 2 * p.heavy.size(); ++i) {
      found += p.heavy.contains(order[i]);
      if (i + 1 == p.heavy.size()) once.add(found / static_cast<double>(p.heavy.size()));
    }
    twice.add(found / static_cast<double>(p.heavy.size()));
  }
  return {{"recall", once.mean()}, {"error", once.error()}, {"recall_2", twice.mean()}};
}

// Relative error of the output, not causal, nothing read for its place but by the window.
json Run::error(const Case& c, const Candidate& method, std::int64_t budget) const {
  const auto executor = make_executor(flags.thread_count());
  Mean error, keys;
  for (std::int64_t seed = 0; seed < (flags.quick ? 1 : 3); ++seed) {
    const Planted p = plant(c.model, static_cast<std::uint64_t>(seed));
    const auto tensor = [&](const std::vector<float>& x) {
      return Tensor::contiguous(x.data(), DType::kF32, 1, 1,
                                static_cast<std::int64_t>(x.size()) / c.model.d, c.model.d);
    };
    const auto attend = [&](Options o, std::vector<float>& out) {
      o.causal = false;
      o.plan.seed = static_cast<std::uint64_t>(seed);
      out.resize(p.q.size());
      State state{MutTensor::contiguous(out.data(), DType::kF32, 1, 1, 128, c.model.d), nullptr};
      return attention(tensor(p.q), tensor(p.k), tensor(p.v), state, o, *executor).counters;
    };
    std::vector<float> want, got;
    attend(options_of({"", "dense"}, budget), want);
    std::string text = method.flags + " --sinks 0 --window 1";
    if (method.flags.find("hyper") != std::string::npos) text += " --hyper-selected 1024";
    keys.add(keys_per_query(attend(options_of({"", text}, budget), got)));
    double difference = 0, whole = 0;
    for (std::size_t i = 0; i < want.size(); ++i) {
      difference += std::pow(double{got[i]} - double{want[i]}, 2);
      whole += double{want[i]} * double{want[i]};
    }
    error.add(std::sqrt(difference / whole));
  }
  return {{"error", error.mean()}, {"spread", error.error()}, {"keys", keys.mean()}};
}

void Run::run() {
  json settings = common_settings(flags);
  settings.update({{"experiment", "planted"}, {"seeds", seeds}});
  Journal journal(flags.out, "planted", settings, flags.fresh);
  const std::vector<std::int64_t> budgets =
      flags.quick ? std::vector<std::int64_t>{64, 256}
                  : std::vector<std::int64_t>{32, 64, 128, 256, 512, 1024};
  journal.expect(std::size(kCases) * (scorers().size() + methods().size() * budgets.size()));

  std::vector<std::string> header{"scorer"};
  std::vector<std::vector<std::string>> rows;
  for (const Case& c : kCases) header.push_back(c.name);
  for (const Candidate& s : scorers()) {
    rows.push_back({s.name});
    for (const Case& c : kCases) {
      const json row =
          journal.row({{"case", c.name}, {"scorer", s.flags}}, [&] { return recovery(c, s); })
              .at("row");
      rows.back().push_back(fmt::format("{:.2f} ±{:.2f}", row.at("recall").get<double>(),
                                        row.at("error").get<double>()));
    }
  }
  std::string table =
      "Share of the heavy keys among as many best-scored keys:\n\n" + markdown(header, rows) + "\n";
  for (const Case& c : kCases)
    table += fmt::format(
        "- `{}`: {} (n {}, d {}, {} directions x {} keys, strength {}, noise {}, "
        "mean {})\n",
        c.name, c.what, c.model.n, c.model.d, c.model.directions, c.model.copies, c.model.strength,
        c.model.noise, c.model.mean);

  header = {"case", "method"};
  for (const std::int64_t b : budgets) header.push_back(std::to_string(b));
  rows.clear();
  std::vector<Panel> panels;
  for (const Case& c : kCases) {
    panels.push_back({c.what, "keys read per query", "relative error", {}, true, false});
    for (const Candidate& m : methods()) {
      rows.push_back({c.name, m.name});
      panels.back().series.push_back({m.name, {}, m.name == "window"});
      for (const std::int64_t b : budgets) {
        const json row = journal
                             .row({{"case", c.name}, {"method", m.flags}, {"budget", b}},
                                  [&] { return error(c, m, b); })
                             .at("row");
        rows.back().push_back(fmt::format("{:.3f}", row.at("error").get<double>()));
        panels.back().series.back().points.emplace_back(row.at("keys"), row.at("error"));
      }
    }
  }
  table += "\nRelative error of the output against budget (keys read by each query):\n\n" +
           markdown(header, rows);
  publish(journal, table,
          line_chart("Planted subspaces: error of attention against keys read", panels));
}

}  // namespace

void add_planted(CLI::App& experiment) {
  auto args = std::make_shared<Run>();
  CLI::App* sub = experiment.add_subcommand(
      "planted", "Heavy keys along a few directions: which score finds them");
  args->flags.add_to(*sub);
  sub->add_option("--seeds", args->seeds, "Draws of the model")->capture_default_str();
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::experiments
