#include "settings.h"

#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <fstream>
#include <thread>

#include "common/names.h"
#include "errors.h"
#include "files.h"
#include "score/scorer.h"
#include "session.h"

namespace prescore::cli {

MethodFlags::MethodFlags() {
  const PlanOptions plan;
  const IndexOptions index;
  budget = plan.budget, window = plan.window, sinks = plan.sinks, tile = plan.tile;
  open_groups = plan.open_groups, open_segments = plan.open_segments;
  route_stride = plan.route_stride, cluster = index.cluster;
}

void MethodFlags::add_to(CLI::App& app) {
  const auto group = "Method";
  const auto count = [&](const char* name, std::int64_t& value, const char* text) {
    app.add_option(name, value, text)->capture_default_str()->group(group);
  };
  count("--budget", budget, "Most keys that one query reads");
  count("--window", window, "Least number of recent keys that are always read");
  count("--sinks", sinks, "First keys, always read");
  app.add_option("--standins", standins, "What becomes of unread far keys: none, auto, nodes")
      ->capture_default_str()
      ->group(group);
  app.add_option("--standin-share", standin_share,
                 "Share of all attention from which an unread node stands in (auto)")
      ->capture_default_str()
      ->group(group);
  count("--tile", tile, "Queries of a prompt that choose together, a multiple of 16");
  count("--open-groups", open_groups, "Keys whose groups are opened into clusters, 0: by budget");
  count("--open-segments", open_segments,
        "Keys whose segments are opened into groups, 0: by budget");
  count("--cluster", cluster, "Keys of a cluster on average");
  count("--route-stride", route_stride, "Only every n-th query of a tile takes part in routing");
  app.add_flag("--heads-together,!--no-heads-together", choice.heads_together,
               "routed: the query heads of a key head choose together (default)")
      ->group(group);
  app.add_option(
         "--key-score", key_score,
         "topk, prescored_hyper: norm, leverage, kmeans, kmedian, kernel_kmeans, gaussian_norm, "
         "universal, keydiff, random, value_norm, expected, received, or oracle, which "
         "knows later queries")
      ->capture_default_str()
      ->group(group);
  add_scores(app);
  count("--hyper-projections", hyper.projections, "hyper: bits of a hash code");
  count("--hyper-block", hyper.block, "hyper: keys around the query's bucket");
  count("--hyper-samples", hyper.samples, "hyper: keys that stand for the rest of a span");
  count("--hyper-leaf", hyper.leaf,
        "hyper: keys of an exact leaf, a multiple of the tile, 0: from the budget, and then "
        "block : samples is the proportion of what is left");
  count("--hyper-selected", hyper.selected, "prescored_hyper: keys that the scores leave");
  app.add_flag("--hyper-centred,!--no-hyper-centred", hyper.centred,
               "hyper: hash keys around their mean (default)")
      ->group(group);
  app.add_option("--plan-seed", choice.seed,
                 "Of what is drawn: hash directions, samples, random scores, first centroids")
      ->capture_default_str()
      ->group(group);
  count("--dense-until", dense_until,
        "Tiles that see at most so many keys read them all, 0: the budget");
  app.add_option("--compute", compute, "Precision of the products: auto, f32, bf16")
      ->capture_default_str()
      ->group(group);
  app.add_flag("--packed", packed, "Keep a second copy of keys and values, in reading order")
      ->group(group);
}

void MethodFlags::add_scores(CLI::App& app) {
  const auto option = [&](const char* name, auto& value, const char* text) {
    app.add_option(name, value, text)->capture_default_str()->group("Scores");
  };
  const auto flag = [&](const char* name, bool& value, const char* text) {
    app.add_flag(name, value, text)->group("Scores");
  };
  option("--selection", selection, "Which scored keys are read: top, threshold, share, sample");
  option("--least-score", choice.least_score, "threshold: least score of a key that is read");
  option("--share", choice.share, "share: the best keys that hold this part of all scores");
  flag("--sample-weights", choice.sample_weights, "sample: keys stand for those not drawn");
  option("--adaptive", choice.adaptive, "Part of the far keys for which the key heads compete");
  app.add_option("--eps", eps,
                 "universal: LevAttention's set, the keys that can hold this share for some query; "
                 "short for --selection threshold --least-score")
      ->group("Scores");
  option("--cluster-score", cluster_score, "kmeans and its kin: distance, relative, nearness");
  option("--clusters", scoring.clusters, "kmeans and its kin: clusters, 0: head size + 1");
  option("--iterations", scoring.iterations,
         "kmeans and its kin: Lloyd iterations; universal: of the weights");
  option("--kernel", kernel,
         "kernel_kmeans: features (clusters of random Fourier features) or distance (plain "
         "clusters, the Gaussian of the distance)");
  option("--features", scoring.features,
         "kernel_kmeans: random features, up to 512, 0: twice the head size");
  option("--sigma", scoring.sigma,
         "kernel_kmeans, gaussian_norm: width of the Gaussian, 0: from the keys");
  option("--leverage", leverage,
         "leverage: ridge, exact, or sketched by a subsampled Hadamard transform");
  option("--ridge", scoring.ridge, "leverage ridge: share of the mean diagonal of the Gram matrix");
  option("--sketch-rows", scoring.sketch_rows,
         "leverage sketched: rows, 0: eight times the head size");
  option("--degree", scoring.degree, "universal: degree of polynomial attention, even");
  flag("--centred-keys", scoring.centred, "norm, leverage, universal: of the keys less their mean");
  flag("--pre-rope", pre_rope, "Score keys as they were before their rotation by position");
  flag("--value-weighted", scoring.value_weighted, "expected, received: times the value's norm");
  option("--score-segment", scoring.segment, "Far keys end at multiples of it");
  option("--score-growth", scoring.growth,
         "Keys of a fit over those of the one before, 0: by score");
  option("--query-stride", scoring.query_stride, "expected, received: every n-th query is used");
  option("--score-distance", scoring.distance,
         "received, oracle: only queries so many positions after a key count");
}

Options MethodFlags::options(const Model* model) const {
  Options o;
  o.plan.budget = budget, o.plan.window = window, o.plan.sinks = sinks, o.plan.tile = tile;
  o.plan.open_groups = open_groups, o.plan.open_segments = open_segments;
  o.plan.route_stride = route_stride, o.plan.standin_share = standin_share;
  o.plan.heads_together = choice.heads_together, o.plan.seed = choice.seed;
  o.score = scoring;
  if (pre_rope && model != nullptr) o.score.rotation = model->rotation();
  o.score.cluster_score = host::parse_cluster_score("--cluster-score", cluster_score);
  o.score.leverage = host::parse_leverage("--leverage", leverage);
  o.score.kernel = host::parse_kernel("--kernel", kernel);
  check_score_options(o.score);
  o.plan.selection = host::parse_selection("--selection", selection);
  o.plan.least_score = choice.least_score, o.plan.share = choice.share;
  if (eps) {
    if (!(*eps > 0)) throw BadInput(fmt::format("--eps, got {}, want a share above 0", *eps));
    o.plan.selection = Selection::kThreshold, o.plan.least_score = *eps;
  }
  o.plan.sample_weights = choice.sample_weights, o.plan.adaptive = choice.adaptive;
  o.plan.hyper = hyper, o.plan.dense_until = dense_until;
  o.plan.standins = host::parse_standins("--standins", standins);
  o.plan.score = o.score.score = host::parse_score("--key-score", key_score);
  o.compute = host::parse_compute("--compute", compute);
  o.index.sinks = sinks;
  o.index.packed = packed;
  host::check_count("cluster", cluster, 1, o.index.segment);
  o.index.cluster = cluster;
  o.index.group = std::max(o.index.group, cluster);
  host::check_plan(o.plan);
  return o;
}

void ModelFlags::add_to(CLI::App& app) {
  app.add_option("--model,-m", model, "GGUF model")->required();
  app.add_option("--threads,-t", threads, "Threads (default: all)");
  app.add_option("--yarn", yarn, "Stretch the trained context by this factor (YaRN)");
  app.add_flag("--verbose", verbose, "Show llama.cpp's own messages");
}

void ModelFlags::check() const {
  if (threads) host::check_count("threads", *threads, 1, host::kMostThreads);
  isa_name(Compute::kAuto, DType::kF16);  // a bad PRESCORE_ISA must not wait for the first layer
  if (!(yarn >= 1 && yarn <= 1024)) throw BadInput("--yarn, want a factor from 1 to 1024");
  check_gguf(model);
}

int ModelFlags::thread_count() const {
  return threads ? static_cast<int>(*threads) : machine_threads();
}

int machine_threads() {
  return static_cast<int>(std::max(1u, std::thread::hardware_concurrency()));
}

std::string machine_name() {
  std::ifstream in("/proc/cpuinfo");
  for (std::string line; std::getline(in, line);)
    if (line.rfind("model name", 0) == 0 && line.find(": ") != std::string::npos)
      return line.substr(line.find(": ") + 2);
#if defined(__x86_64__)
  return "x86-64";
#elif defined(__aarch64__)
  return "aarch64";
#else
  return "unknown";
#endif
}

}  // namespace prescore::cli
