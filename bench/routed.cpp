// Routed attention against the own dense kernel, whole operation (index, plan, attend), in one
// process, taking turns. 14 query heads on 2 key heads, d = 64, f16 unless asked otherwise.
//
//   routed [--n 32768,131072] [--repeats 5] [--threads 0] [--budgets 0,1024] [--dense-full 32768]
//          [--json FILE]
// Budget 0 is the default of PlanOptions. Above --dense-full keys dense is timed on 16 stretches of
// 256 queries spread over the sequence and scaled by the keys that all queries see.
#include <functional>
#include <string>
#include <vector>

#include "common/views.h"
#include "prescore/attention.h"
#include "support/data.h"
#include "support/measure.h"

namespace {

using namespace prescore;
using bench::Args;
using bench::Data;
using bench::Row;
using bench::Series;

constexpr std::int64_t kParts = 16, kStretch = 256;

/// Something that is timed again and again.
struct Case {
  std::string name, data_name;
  const Data* data = nullptr;
  Options options;
  bool sliced = false;
  Series wall, cpu, index, plan, attend;
  Counters last;
};

struct Output {
  std::vector<std::byte> bytes;
  State state;
  Output(const bench::Shape& s, std::int64_t n_q)
      : bytes(static_cast<std::size_t>(s.h_q * n_q * s.d * size_of(s.dtype))),
        state{MutTensor::contiguous(bytes.data(), s.dtype, 1, s.h_q, n_q, s.d), nullptr} {}
};

/// Mean over rows of |routed - dense| / |dense| at the slice's positions.
double difference(const Output& routed, const Output& dense, const bench::Slice& slice,
                  const bench::Shape& s) {
  const auto n = static_cast<std::int64_t>(slice.positions.size());
  double sum = 0;
  for (std::int64_t h = 0; h < s.h_q; ++h) {
    for (std::int64_t i = 0; i < n; ++i) {
      const std::int64_t p = slice.positions[static_cast<std::size_t>(i)];
      double error = 0, norm = 1e-30;
      for (std::int64_t c = 0; c < s.d; ++c) {
        const double a = load_element(routed.bytes.data(), s.dtype, (h * s.n + p) * s.d + c);
        const double b = load_element(dense.bytes.data(), s.dtype, (h * n + i) * s.d + c);
        error += (a - b) * (a - b), norm += b * b;
      }
      sum += std::sqrt(error / norm);
    }
  }
  return sum / static_cast<double>(s.h_q * n);
}

class Bench {
 public:
  Bench(const Args& args)
      : args_(args), executor_(make_executor(static_cast<int>(args.number("--threads", 0)))),
        repeats_(args.number("--repeats", 5)) {}

  void at(std::int64_t n);
  const std::vector<Row>& rows() const { return rows_; }

 private:
  void time(Case& c, const bench::Slice& slice, Output& whole, Output& part);
  void report(const Case& c, const Case& dense, double error);

  const Args& args_;
  std::unique_ptr<Executor> executor_;
  std::int64_t repeats_;
  std::vector<Row> rows_;
};

void Bench::time(Case& c, const bench::Slice& slice, Output& whole, Output& part) {
  const double wall = bench::now(), cpu = bench::cpu_now();
  if (c.sliced) {
    Visibility v;
    v.n_q = slice.q.shape[2], v.n_kv = c.data->shape().n, v.positions = slice.positions;
    c.last =
        attention(slice.q, c.data->k(), c.data->v(), v, nullptr, part.state, c.options, *executor_)
            .counters;
  } else {
    c.last = attention(c.data->q(), c.data->k(), c.data->v(), whole.state, c.options, *executor_)
                 .counters;
  }
  const double n = static_cast<double>(c.data->shape().n);
  const double all = n * (n + 1) / 2 * static_cast<double>(c.data->shape().h_q);
  const double factor = c.sliced ? all / static_cast<double>(c.last.visible) : 1;
  c.wall.add(factor * (bench::now() - wall)), c.cpu.add(factor * (bench::cpu_now() - cpu));
  c.index.add(c.last.index_s), c.plan.add(c.last.plan_s), c.attend.add(c.last.attend_s);
}

void Bench::at(std::int64_t n) {
  bench::Shape shape;
  shape.n = n;
  shape.d = args_.number("--d", 64);
  std::printf("%lld keys: making inputs\n", static_cast<long long>(n)), std::fflush(stdout);
  const Data topics = Data::topics(shape, *executor_);
  const Data gaussian = Data::gaussian(shape, *executor_);
  const bench::Spread spread = topics.spread();
  std::printf(
      "  attention: sinks %.0f %%; of the rest the best 1 %% of keys hold %.0f %%, "
      "the best 4 %% %.0f %%\n",
      100 * spread.sinks, 100 * spread.best_1pc, 100 * spread.best_4pc);
  const bench::Slice slice = take_slice(topics, kParts, kStretch);
  const bench::Slice gaussian_slice = take_slice(gaussian, kParts, kStretch);

  std::vector<Case> cases;
  const auto add = [&](const std::string& name, const Data& data, Method method,
                       std::int64_t budget, bool packed) -> Case& {
    Case& c = cases.emplace_back();
    c.name = name, c.data = &data, c.data_name = &data == &topics ? "topics" : "gaussian";
    c.options.plan.method = method;
    if (budget > 0) c.options.plan.budget = budget;
    c.options.index.packed = packed;
    return c;
  };
  add("dense", topics, Method::kDense, 0, false).sliced = n > args_.number("--dense-full", 32768);
  std::vector<std::int64_t> budgets;
  for (const std::string& text : args_.list("--budgets", "0,1024")) {
    const std::int64_t b = std::atoll(text.c_str());
    const std::int64_t budget = b > 0 ? b : PlanOptions{}.budget;
    if (std::find(budgets.begin(), budgets.end(), budget) == budgets.end())
      budgets.push_back(budget);
  }
  for (const bool packed : {false, true})
    for (const std::int64_t budget : budgets)
      add("routed", topics, Method::kRouted, budget, packed);
  add("routed", gaussian, Method::kRouted, budgets.front(), false);

  Output whole(shape, n), part(shape, slice.q.shape[2]);
  std::vector<double> errors(cases.size(), 0);
  for (std::int64_t r = 0; r < repeats_; ++r) {
    for (std::size_t j = 0; j < cases.size(); ++j) {
      const std::size_t i = r % 2 == 0 ? j : cases.size() - 1 - j;  // there and back
      bench::progress("  repeat %lld of %lld, %zu of %zu", static_cast<long long>(r + 1),
                      static_cast<long long>(repeats_), j + 1, cases.size());
      time(cases[i], slice, whole, part);
      if (r > 0 || i == 0) continue;
      // How near it is, once, against dense at the slice's queries.
      Case exact = cases[i];
      exact.options.plan.method = Method::kDense, exact.sliced = true;
      const bench::Slice& s = exact.data == &topics ? slice : gaussian_slice;
      time(exact, s, whole, part);
      errors[i] = difference(whole, part, s, shape);
    }
  }
  bench::progress("%s", "");
  for (std::size_t i = 0; i < cases.size(); ++i) report(cases[i], cases[0], errors[i]);
}

void Bench::report(const Case& c, const Case& dense, double error) {
  const double queries = static_cast<double>(c.last.queries);
  const double index_cpu = c.index.median() * executor_->width();
  const double selection = index_cpu + c.plan.median();
  const double share = selection / (selection + c.attend.median());
  const auto per_query = [&](std::int64_t x) { return static_cast<double>(x) / queries; };
  const bool routed = c.options.plan.method == Method::kRouted;
  Series gains;  // turn by turn
  for (std::size_t i = 0; i < c.wall.values.size(); ++i)
    gains.add(dense.wall.values[i] / c.wall.values[i]);

  Row row;
  row.add("part", "routed").add("name", c.name).add("data", c.data_name);
  row.add("n", c.data->shape().n).add("d", c.data->shape().d);
  row.add("h_q", c.data->shape().h_q).add("h_kv", c.data->shape().h_kv).add("dtype", "f16");
  row.add("isa", isa_name(c.options.compute, c.data->shape().dtype));
  row.add("threads", executor_->width());
  row.add_series("seconds", c.wall).add("cpu_seconds", c.cpu.median());
  row.add("scaled_from_slice", c.sliced);
  if (c.sliced)
    row.add("slice", std::to_string(kParts) + " stretches of " + std::to_string(kStretch) +
                         " queries, scaled by visible keys");
  row.add("keys_per_query", per_query(c.last.keys));
  if (routed) {
    row.add("budget", c.options.plan.budget).add("default_budget", PlanOptions{}.budget);
    row.add("packed", c.options.index.packed);
    row.add("standins_per_query", per_query(c.last.standins));
    row.add("products_per_query", per_query(c.last.products));
    row.add("index_seconds", c.index.median()).add("index_cpu_seconds", index_cpu);
    row.add("plan_cpu_seconds", c.plan.median()).add("attend_cpu_seconds", c.attend.median());
    row.add("selection_share", share).add("error_to_dense", error);
    row.add("speedup", dense.wall.median() / c.wall.median());
    row.add("speedup_min", gains.low()).add("speedup_max", gains.high());
  }
  rows_.push_back(row);

  if (!routed) {
    std::printf("  dense                          %8.3f s (%.3f .. %.3f)%s\n", c.wall.median(),
                c.wall.low(), c.wall.high(),
                c.sliced ? "  scaled from a slice of 4,096 queries" : "");
    return;
  }
  std::printf(
      "  routed %-8s %5lld%-7s    %8.3f s (%.3f .. %.3f)  %5.2fx (%.2f .. %.2f)  index %.3f "
      "plan %.3f attend %.3f cpu s, selection %.0f %%  %.0f keys %.0f stand-ins %.0f "
      "products a query, error %.3f\n",
      c.data_name.c_str(), static_cast<long long>(c.options.plan.budget),
      c.options.index.packed ? " packed" : "", c.wall.median(), c.wall.low(), c.wall.high(),
      dense.wall.median() / c.wall.median(), gains.low(), gains.high(), index_cpu, c.plan.median(),
      c.attend.median(), 100 * share, per_query(c.last.keys), per_query(c.last.standins),
      per_query(c.last.products), error);
}

}  // namespace

int main(int argc, char** argv) {
  const Args args(argc, argv);
  try {
    Bench bench(args);
    for (const std::string& n : args.list("--n", "32768,131072")) bench.at(std::atoll(n.c_str()));
    return bench::write_rows(args.text("--json", ""), bench.rows()) ? 0 : 1;
  } catch (const std::exception& e) {
    std::fprintf(stderr, "routed: %s\n", e.what());
    return 1;
  }
}
