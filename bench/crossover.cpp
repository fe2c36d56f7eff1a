// From how many keys on routed beats dense: causal prefill, all levels of the dispatch, f16.
//
//   crossover [--n 1024,...,32768] [--isa avx2,amx-bf16] [--budget 0] [--repeats 3] [--threads 0]
//             [--json FILE]
// All are timed on 8 stretches of queries spread over the sequence and scaled: dense by the keys
// seen, plan and attend of routed and auto by the queries. The index is built whole every time.
// 4,096, 9,472 and 24,832 keys lie just beyond crossovers of auto, where it has only just begun to
// route.
#include <string>
#include <vector>

#include "common/isa.h"
#include "prescore/attention.h"
#include "support/data.h"
#include "support/measure.h"

namespace {

using namespace prescore;
using bench::Args;

constexpr std::int64_t kParts = 8, kStretch = 256;
constexpr std::int64_t kScalarKeys = 8192;  // no more without vectors: it would take hours

struct Timing {
  double dense = 0, routed = 0, automatic = 0, index = 0;
};

/// Median seconds for all queries.
Timing measure(const bench::Data& data, std::int64_t budget, std::int64_t repeats,
               Executor& executor) {
  const bench::Shape& s = data.shape();
  const bool whole = s.n <= 2 * kParts * kStretch;
  const bench::Slice slice = take_slice(data, kParts, kStretch);
  const Tensor q = whole ? data.q() : slice.q;
  Visibility v;
  v.n_q = q.shape[2], v.n_kv = s.n;
  if (!whole) v.positions = slice.positions;
  std::vector<std::byte> bytes(static_cast<std::size_t>(s.h_q * v.n_q * s.d * size_of(s.dtype)));
  const State out{MutTensor::contiguous(bytes.data(), s.dtype, 1, s.h_q, v.n_q, s.d)};
  const auto n = static_cast<double>(s.n);
  const double all = n * (n + 1) / 2 * static_cast<double>(s.h_q);

  bench::Series dense, routed, automatic, build;
  for (std::int64_t r = 0; r < repeats; ++r) {
    Options options;
    if (budget > 0) options.plan.budget = budget;
    options.plan.method = Method::kDense;
    double begin = bench::now();
    const Counters c =
        attention(q, data.k(), data.v(), v, nullptr, out, options, executor).counters;
    dense.add((bench::now() - begin) * all / static_cast<double>(c.visible));
    options.plan.method = Method::kRouted;
    begin = bench::now();
    KeyIndex index(options.index);
    index.extend(data.k(), data.v(), executor);
    const double built = bench::now() - begin;
    begin = bench::now();
    attention(q, data.k(), data.v(), v, &index, out, options, executor);
    routed.add(built + (bench::now() - begin) * n / static_cast<double>(v.n_q));
    build.add(built);
    options.plan.method = Method::kAuto;
    begin = bench::now();
    const Counters a =
        attention(q, data.k(), data.v(), v, nullptr, out, options, executor).counters;
    const double rest = bench::now() - begin - a.index_s;
    automatic.add(a.index_s + rest * n / static_cast<double>(v.n_q));
  }
  return {dense.median(), routed.median(), automatic.median(), build.median()};
}

void run(const Args& args) {
  const auto executor = make_executor(static_cast<int>(args.number("--threads", 0)));
  std::string levels;
  for (const Isa isa : available_isas())
    levels = std::string(name_of(isa)) + (levels.empty() ? "" : ",") + levels;
  const std::int64_t budget = args.number("--budget", 0);
  const std::int64_t shown = budget > 0 ? budget : PlanOptions{}.budget;
  std::vector<bench::Row> rows;
  std::printf(
      "budget %lld, seconds for a whole causal prefill of one layer\n%-12s %4s %2s %6s %10s "
      "%10s %10s %10s %8s %8s\n",
      static_cast<long long>(shown), "isa", "d", "G", "keys", "dense s", "routed s", "auto s",
      "index s", "gain", "auto");
  for (const std::string& isa : args.list("--isa", levels)) {
    set_isa_for_testing(isa.c_str());
    for (const std::int64_t d : {64, 128}) {
      for (const std::int64_t group : {7, 1}) {
        std::int64_t first = 0, below = 0;  // least n from which on routed always won
        for (const std::string& text :
             args.list("--n", "1024,2048,2688,4096,8192,9472,16384,24832,32768")) {
          bench::Shape shape;
          shape.n = std::atoll(text.c_str()), shape.d = d;
          shape.h_kv = group == 1 ? 2 : 1, shape.h_q = shape.h_kv * group;
          if (isa == "scalar" && shape.n > kScalarKeys) continue;
          const bench::Data data = bench::Data::topics(shape, *executor);
          const Timing t = measure(data, budget, args.number("--repeats", 3), *executor);
          const double gain = t.dense / t.routed;
          if (gain <= 1)
            first = 0, below = shape.n;
          else if (first == 0)
            first = shape.n;
          rows.push_back(bench::Row()
                             .add("isa", isa)
                             .add("d", d)
                             .add("group", group)
                             .add("n", shape.n)
                             .add("budget", shown)
                             .add("threads", executor->width())
                             .add("dense_s", t.dense)
                             .add("routed_s", t.routed)
                             .add("auto_s", t.automatic)
                             .add("index_s", t.index)
                             .add("gain", gain)
                             .add("auto_gain", t.dense / t.automatic));
          std::printf("%-12s %4lld %2lld %6lld %10.4f %10.4f %10.4f %10.4f %8.2f %8.2f\n",
                      isa.c_str(), static_cast<long long>(d), static_cast<long long>(group),
                      static_cast<long long>(shape.n), t.dense, t.routed, t.automatic, t.index,
                      gain, t.dense / t.automatic);
          std::fflush(stdout);
        }
        if (first > 0)
          std::printf("%-12s %4lld %2lld routed wins from %lld keys on%s\n", isa.c_str(),
                      static_cast<long long>(d), static_cast<long long>(group),
                      static_cast<long long>(first),
                      below > 0 ? (", not yet at " + std::to_string(below)).c_str() : "");
        else
          std::printf("%-12s %4lld %2lld routed never wins here\n", isa.c_str(),
                      static_cast<long long>(d), static_cast<long long>(group));
      }
    }
  }
  if (!bench::write_rows(args.text("--json", ""), rows))
    throw std::runtime_error("cannot write " + args.text("--json", ""));
}

}  // namespace

int main(int argc, char** argv) {
  try {
    run(Args(argc, argv));
    return 0;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "crossover: %s\n", e.what());
    return 1;
  }
}
