// Seconds of scoring 131,072 keys x 8 key heads, d = 128, scorer by scorer.
//
//   score [--n 131072] [--heads 8] [--d 128] [--threads 0] [--repeats 3] [--only kmeans,leverage]
//         [--json FILE]
//
// Scores that learn from queries are those of a causal prompt of as many queries as keys, one query
// head a key head: all levels of KeyScores. The oracle looks at every query, eight times as many as
// received attention: only where --only names it.
#include "prescore/score.h"

#include "support/data.h"
#include "support/measure.h"

namespace {

using namespace prescore;

struct Scorer {
  std::string name;
  ScoreOptions options;
  enum class Learns { kKeys, kValues, kQueries } from = Learns::kKeys;
};
using Learns = Scorer::Learns;

std::vector<Scorer> scorers() {
  std::vector<Scorer> all;
  const auto add = [&](const char* name, Score score, auto&& change, Learns from = Learns::kKeys) {
    ScoreOptions o;
    o.score = score;
    change(o);
    all.push_back({name, o, from});
  };
  const auto plain = [](ScoreOptions&) {};
  add("norm", Score::kKeyNorm, plain);
  add("gaussian_norm", Score::kGaussianNorm, plain);
  add("keydiff", Score::kKeyDiff, plain);
  add("random", Score::kRandom, plain);
  add("kmeans", Score::kKMeans, plain);
  add("kmedian", Score::kKMedian, plain);
  add("kernel_kmeans", Score::kKernelKMeans, plain);
  add("kernel_distance", Score::kKernelKMeans,
      [](ScoreOptions& o) { o.kernel = KernelKMeans::kDistance; });
  add("leverage", Score::kLeverage, plain);
  add("leverage_exact", Score::kLeverage, [](ScoreOptions& o) { o.leverage = Leverage::kExact; });
  add("leverage_sketched", Score::kLeverage,
      [](ScoreOptions& o) { o.leverage = Leverage::kSketched; });
  add("universal", Score::kUniversal, plain);
  add("value_norm", Score::kValueNorm, plain, Learns::kValues);
  add("expected", Score::kExpected, plain, Learns::kQueries);
  add("received", Score::kReceived, plain, Learns::kQueries);
  add("oracle", Score::kOracle, plain, Learns::kQueries);
  return all;
}

void score_once(const Scorer& s, const bench::Data& data, std::vector<float>& out,
                Executor& executor) {
  const std::int64_t n = data.shape().n;
  if (s.from != Learns::kQueries)
    return score_keys(s.from == Learns::kKeys ? data.k() : data.v(), n, s.options, out.data(),
                      executor);
  ScoreInputs in{
      data.q(), data.k(), data.v(), {}, 1 / std::sqrt(static_cast<float>(data.shape().d))};
  in.visibility.n_q = in.visibility.n_kv = n;
  KeyScores(s.options).extend(in, executor);
}

void run(const bench::Args& args) {
  bench::Shape shape;
  shape.n = args.number("--n", 131072);
  shape.h_q = shape.h_kv = args.number("--heads", 8);
  shape.d = args.number("--d", 128);
  const auto executor = make_executor(static_cast<int>(args.number("--threads", 0)));
  const bench::Data data = bench::Data::gaussian(shape, *executor);
  std::vector<float> out(static_cast<std::size_t>(shape.h_kv * shape.n)), exact;
  const std::vector<std::string> only = args.list("--only", "");
  std::string rows;
  for (const Scorer& s : scorers()) {
    const bool named = std::find(only.begin(), only.end(), s.name) != only.end();
    if (only.empty() ? s.name == "oracle" : !named) continue;
    bench::Series seconds;
    for (std::int64_t i = 0; i < args.number("--repeats", 3); ++i) {
      const double start = bench::now();
      score_once(s, data, out, *executor);
      seconds.add(bench::now() - start);
    }
    double error = 0;  // of a sketch, against exact
    if (s.name == "leverage_exact") exact = out;
    if (s.name == "leverage_sketched" && !exact.empty())
      for (std::size_t i = 0; i < out.size(); ++i)
        error = std::max(error, std::abs(double{out[i]} / double{exact[i]} - 1));
    std::printf("%-18s %8.3f s (%.3f to %.3f)", s.name.c_str(), seconds.median(), seconds.low(),
                seconds.high());
    if (error > 0) std::printf(", largest relative error %.3f", error);
    std::printf("\n");
    std::fflush(stdout);
    double square = 0;  // of k-means: what a key adds to the objective on average
    if (s.name == "kmeans")
      for (const float x : out) square += double{x} * double{x} / static_cast<double>(out.size());
    char row[256];
    std::snprintf(row, sizeof row,
                  "%s{\"scorer\": \"%s\", \"seconds\": %.6f, \"largest_error\": %.6f, "
                  "\"mean_square\": %.6f}",
                  rows.empty() ? "" : ", ", s.name.c_str(), seconds.median(), error, square);
    rows += row;
  }
  if (const std::string path = args.text("--json", ""); !path.empty())
    std::ofstream(path) << "{\"n\": " << shape.n << ", \"heads\": " << shape.h_kv
                        << ", \"d\": " << shape.d << ", \"threads\": " << executor->width()
                        << ", \"rows\": [" << rows << "]}\n";
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(bench::Args(argc, argv));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "score: %s\n", e.what());
    return 1;
  }
}
