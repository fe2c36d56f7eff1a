// Does a score find planted heavy keys, and what does attention lose that reads only the best?
// Each property of the model varies alone, from one base.
#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <cmath>
#include <memory>

#include "chart.h"
#include "common/names.h"
#include "experiment.h"
#include "planted_model.h"

namespace prescore::experiments {
namespace {

using nlohmann::json;

/// A point of a sweep: a model, and the clusters of the k-means family for head size d.
struct Point {
  std::string label;
  PlantedModel model;
  std::int64_t clusters = 0;  ///< 0: d + 1
};
struct Sweep {
  std::string title;
  std::vector<Point> points;
  bool clusters_only = false;  ///< other scores do not depend on it
};

std::vector<Sweep> sweeps(bool quick) {
  PlantedModel base;
  if (quick) base.n = 512;
  const std::size_t step = quick ? 2 : 1;
  const auto sweep = [&](const char* title, auto PlantedModel::*member,
                         const std::vector<double>& values) {
    Sweep s{title, {}};
    for (std::size_t i = 0; i < values.size(); i += step) {
      s.points.push_back({fmt::format("{:g}", values[i]), base});
      using T = std::remove_reference_t<decltype(base.*member)>;
      s.points.back().model.*member = static_cast<T>(values[i]);
    }
    return s;
  };
  std::vector<Sweep> all{
      sweep("norm of the noise", &PlantedModel::noise, {0.5, 1, 2, 4, 8, 16}),
      sweep("norm of the heavy keys", &PlantedModel::strength, {0.5, 1, 2, 4, 8, 16}),
      sweep("dimension d", &PlantedModel::d, {16, 32, 64, 128, 256}),
      {"clusters", {}, true},
      sweep("heavy directions", &PlantedModel::directions, {2, 4, 8, 16, 32, 64}),
      sweep("copies of each heavy key", &PlantedModel::copies, {1, 2, 4, 8, 32}),
      sweep("common mean of all keys", &PlantedModel::mean, {0, 5, 20}),
  };
  const std::pair<const char*, std::int64_t> numbers[] = {{"d/4", base.d / 4},
                                                          {"d/2", base.d / 2},
                                                          {"d + 1", base.d + 1},
                                                          {"2d", 2 * base.d},
                                                          {"4d", 4 * base.d}};
  for (std::size_t i = 0; i < std::size(numbers); i += step)
    all[3].points.push_back({numbers[i].first, base, numbers[i].second});
  return all;
}

struct Scorer {
  const char* name;
  const char* flags;
  bool clusters = false;  ///< a k-means of some kind
  double times_d = 0;     ///< clusters over d, where it has its own number of them
  bool isolates = false;  ///< not a score: whether k-means isolates the heavy keys
};

constexpr Scorer kScorers[] = {
    {"isolated by k-means", "--key-score kmeans", true, 0, true},
    {"random", "--key-score random"},
    {"norm", "--key-score norm"},
    {"Gaussian norm", "--key-score gaussian_norm"},
    {"value norm", "--key-score value_norm"},
    {"key difference", "--key-score keydiff"},
    {"k-means", "--key-score kmeans", true},
    {"k-means relative", "--key-score kmeans --cluster-score relative", true},
    {"k-means nearness", "--key-score kmeans --cluster-score nearness", true},
    {"k-means, d/4 clusters", "--key-score kmeans", true, 0.25},
    {"k-means, 4d clusters", "--key-score kmeans", true, 4},
    {"k-medians", "--key-score kmedian", true},
    {"k-medians nearness", "--key-score kmedian --cluster-score nearness", true},
    {"kernel k-means", "--key-score kernel_kmeans", true},
    {"kernel distance", "--key-score kernel_kmeans --kernel distance", true},
    {"leverage, ridge", "--key-score leverage"},
    {"leverage, exact", "--key-score leverage --leverage exact"},
    {"leverage, sketched", "--key-score leverage --leverage sketched"},
    {"leverage, centred", "--key-score leverage --centred-keys"},
    {"universal set", "--key-score universal"},
    {"expected", "--key-score expected"},
    {"received", "--key-score received"},
    {"oracle", "--key-score oracle"},
};

// HyperAttention pre-scored to a quarter of n keys.
std::vector<Candidate> methods(std::int64_t n) {
  std::vector<Candidate> all = {
      {"window", "window"},
      {"top-k k-means", "topk --key-score kmeans"},
      {"top-k k-means nearness", "topk --key-score kmeans --cluster-score nearness"},
      {"top-k leverage", "topk --key-score leverage"},
      {"top-k received", "topk --key-score received"},
      {"top-k oracle", "topk --key-score oracle"},
      {"HyperAttention", "hyper"},
      {"prescored Hyper", "prescored_hyper --key-score leverage"},
      {"routed", "routed"},
      {"routed, no stand-ins", "routed --standins none"},
  };
  for (Candidate& c : all) c = keeping_a_quarter(c, n);
  return all;
}

// Where attention is compared: the base and what changes it most.
std::vector<Point> cases(bool quick) {
  PlantedModel base;
  if (quick) base.n = 512;
  std::vector<Point> all;
  const auto add = [&](const char* label, auto&& change) {
    all.push_back({label, base});
    change(all.back().model);
  };
  add("base", [](PlantedModel&) {});
  add("noise 8", [](PlantedModel& m) { m.noise = 8; });
  add("d = 128", [](PlantedModel& m) { m.d = 128; });
  add("64 directions", [](PlantedModel& m) { m.directions = 64; });
  add("8 copies", [](PlantedModel& m) { m.copies = 8; });
  add("mean 20", [](PlantedModel& m) { m.mean = 20; });
  if (quick) all.resize(2);
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
  std::int64_t draws = 0;

  void run();
  json recovered(const Point&, const Scorer&, std::int64_t clusters) const;
  json error(const Point&, const Candidate&, std::int64_t budget) const;
  std::string recovery_tables(Journal&, std::vector<HeatMap>&) const;
  std::string error_table(Journal&, std::vector<Panel>&) const;
  std::vector<std::int64_t> budgets() const {
    return flags.quick ? std::vector<std::int64_t>{64, 256}
                       : std::vector<std::int64_t>{32, 64, 128, 256, 512, 1024};
  }
};

json Run::recovered(const Point& point, const Scorer& scorer, std::int64_t clusters) const {
  const auto executor = make_executor(flags.thread_count());
  ScoreOptions o = score_options(options_of({"", std::string("topk ") + scorer.flags}, 512));
  o.clusters = clusters;
  Mean recall;
  for (std::int64_t draw = 0; draw < draws; ++draw) {
    o.seed = static_cast<std::uint64_t>(draw);
    const Planted p(point.model, o.seed);
    recall.add(scorer.isolates ? isolated(p, o, *executor) : recovery(p, o, *executor));
  }
  return {{"recall", recall.mean()}, {"error", recall.error()}};
}

json Run::error(const Point& point, const Candidate& method, std::int64_t budget) const {
  const auto executor = make_executor(flags.thread_count());
  Options o = options_of({"", method.flags + " --sinks 0 --window 1"}, budget);
  Mean error, keys, standins;
  for (std::int64_t draw = 0; draw < draws; ++draw) {
    o.plan.seed = static_cast<std::uint64_t>(draw);
    const AttentionError e = attention_error(Planted(point.model, o.plan.seed), o, *executor);
    error.add(e.error), keys.add(e.keys), standins.add(e.standins);
  }
  return {{"error", error.mean()},
          {"spread", error.error()},
          {"keys", keys.mean()},
          {"standins", standins.mean()}};
}

std::string Run::recovery_tables(Journal& journal, std::vector<HeatMap>& maps) const {
  std::string text = fmt::format(
      "Share of the heavy keys among as many best-scored keys, mean of {} draws and its standard "
      "error. The first row is not a score: it is the share of the heavy keys whose cluster holds "
      "no noise.\n",
      draws);
  for (const Sweep& s : sweeps(flags.quick)) {
    std::vector<std::string> header{s.title};
    std::vector<std::vector<std::string>> rows;
    HeatMap map{s.title, {}, {}, {}, 0, 1};
    for (const Point& p : s.points) header.push_back(p.label), map.columns.push_back(p.label);
    for (const Scorer& scorer : kScorers) {
      if (s.clusters_only && (!scorer.clusters || scorer.times_d > 0)) continue;
      rows.push_back({scorer.name});
      map.rows.emplace_back(scorer.name);
      map.values.emplace_back();
      for (const Point& p : s.points) {
        const std::int64_t clusters =
            scorer.times_d > 0
                ? static_cast<std::int64_t>(scorer.times_d * static_cast<double>(p.model.d))
                : p.clusters;
        const json key = {{"model", p.model.to_json()},
                          {"scorer", scorer.isolates ? "isolated" : scorer.flags},
                          {"clusters", clusters == p.model.d + 1 ? 0 : clusters}};
        const json row = journal.row(key, [&] { return recovered(p, scorer, clusters); }).at("row");
        const double recall = row.at("recall");
        map.values.back().push_back(recall);
        rows.back().push_back(fmt::format("{:.2f} ±{:.2f}", recall, row.at("error").get<double>()));
      }
    }
    text += "\n" + markdown(header, rows);
    maps.push_back(std::move(map));
  }
  return text;
}

// "0.073 (30 + 12)": the error, keys and stand-ins that a query read.
std::string error_cell(double error, double keys, double standins) {
  const std::string more = standins > 0 ? fmt::format(" + {:.0f}", standins) : "";
  return fmt::format("{:.3f} ({:.0f}{})", error, keys, more);
}

std::string Run::error_table(Journal& journal, std::vector<Panel>& panels) const {
  std::vector<std::string> header{"case", "method"};
  for (const std::int64_t b : budgets()) header.push_back(std::to_string(b));
  std::vector<std::vector<std::string>> rows;
  for (const Point& c : cases(flags.quick)) {
    panels.push_back(
        {c.label, "keys and stand-ins read per query", "relative error", {}, true, true});
    for (const Candidate& m : methods(c.model.n)) {
      rows.push_back({c.label, m.name});
      panels.back().series.push_back({m.name, {}, m.name == "window"});
      for (const std::int64_t b : budgets()) {
        const json key = {{"model", c.model.to_json()}, {"method", m.flags}, {"budget", b}};
        const json row = journal.row(key, [&] { return error(c, m, b); }).at("row");
        const double e = row.at("error"), keys = row.at("keys"), standins = row.at("standins");
        rows.back().push_back(error_cell(e, keys, standins));
        panels.back().series.back().points.emplace_back(keys + standins, e);
      }
    }
  }
  return fmt::format(
             "\nRelative error of the output by budget, in brackets the keys and the stand-ins "
             "that a query reads, means of {} draws:\n\n",
             draws) +
         markdown(header, rows);
}

void Run::run() {
  if (draws == 0) draws = flags.quick ? 2 : 5;
  host::check_count("draws", draws, 1, 1000);
  json settings = common_settings(flags);
  settings.update({{"experiment", "planted"}, {"draws", draws}, {"standins", "counted"}});
  Journal journal(flags.out, "planted", settings, flags.fresh);
  const PlantedModel base = cases(flags.quick)[0].model;
  std::size_t expected = cases(flags.quick).size() * methods(base.n).size() * budgets().size();
  for (const Sweep& s : sweeps(flags.quick))
    for (const Scorer& scorer : kScorers)
      if (!s.clusters_only || (scorer.clusters && scorer.times_d == 0)) expected += s.points.size();
  journal.expect(expected);
  std::string table = fmt::format(
      "Where nothing else is said: n {}, d {}, {} heavy directions of {} key, norm of the heavy "
      "keys {:g}, of the noise {:g}, no common mean, d + 1 clusters.\n\n",
      base.n, base.d, base.directions, base.copies, base.strength, base.noise);
  std::vector<HeatMap> maps;
  std::vector<Panel> panels;
  table += recovery_tables(journal, maps);
  table += error_table(journal, panels);
  publish(
      journal, table,
      heat_maps("Planted subspaces: share of the heavy keys that a score finds", maps),
      {{"error", line_chart("Planted subspaces: error of attention against rows read", panels)}});
}

}  // namespace

void add_planted(CLI::App& experiment) {
  auto args = std::make_shared<Run>();
  CLI::App* sub = experiment.add_subcommand(
      "planted", "Heavy keys along a few directions: which score finds them");
  args->flags.add_to(*sub);
  sub->add_option("--draws", args->draws, "Draws of the model (default: 5, quick 2)");
  sub->callback([args] { args->run(); });
}

}  // namespace prescore::experiments
