#include "support/cases.h"

#include <algorithm>
#include <cmath>
#include <ostream>
#include <sstream>

#include "common/isa.h"
#include "common/views.h"

namespace prescore::test {
namespace {

float rounded(double x, bool bf16) {
  const auto f = static_cast<float>(x);
  return bf16 ? bf16_to_f32(f32_to_bf16(f)) : f;
}

double unit_roundoff(DType t) {
  switch (t) {
    case DType::kF32: return 0x1p-24;
    case DType::kF16: return 0x1p-11;
    case DType::kBF16: return 0x1p-9;
  }
  return 1;
}

// One row evaluated plainly in f32, or with inputs and weights rounded to bf16.
struct Row {
  std::vector<double> o;
  double lse = -INFINITY;
  double largest_value = 0;
};
Row plain_row(const double* q, std::span<const reference::Entry> entries, const Case& c,
              double scale, bool bf16) {
  const auto d = static_cast<std::size_t>(c.d), d_v = static_cast<std::size_t>(c.d_v);
  Row r{std::vector<double>(d_v), -INFINITY, 0};
  std::vector<float> s, o(d_v);
  float top = -INFINITY;
  for (const auto& e : entries) {
    float dot = 0;
    for (std::size_t i = 0; i < d; ++i) dot += rounded(q[i], bf16) * rounded(e.key[i], bf16);
    s.push_back(dot * static_cast<float>(scale) + static_cast<float>(e.log_weight));
    top = std::max(top, s.back());
  }
  if (top == -INFINITY) return r;
  float sum = 0;
  for (std::size_t j = 0; j < entries.size(); ++j) {
    const float p = std::exp(s[j] - top);
    sum += p;
    for (std::size_t i = 0; i < d_v; ++i) {
      r.largest_value = std::max(r.largest_value, std::abs(entries[j].value[i]));
      o[i] += rounded(p, bf16) * rounded(entries[j].value[i], bf16);
    }
  }
  for (std::size_t i = 0; i < d_v; ++i) {
    float x = o[i] / sum;
    store_element(&x, c.o_type, 0, x);
    r.o[i] = reference::load(&x, c.o_type, 0);
  }
  r.lse = top + std::log(sum);
  return r;
}

struct RowError {
  std::int64_t b, h, i;
  double plain_o, plain_lse, floor_o, floor_lse, got_o, got_lse;
};

}  // namespace

std::string to_string(DType t) {
  return t == DType::kF32 ? "f32" : t == DType::kF16 ? "f16" : "bf16";
}
std::string to_string(Method m) {
  constexpr const char* kNames[] = {"auto",   "dense", "window",         "topk",
                                    "routed", "hyper", "prescored_hyper"};
  return kNames[static_cast<int>(m)];
}
std::ostream& operator<<(std::ostream& s, const Case& c) {
  return s << "b " << c.b << " h_q " << c.h_q << " h_kv " << c.h_kv << " n_q " << c.n_q << " n_kv "
           << c.n_kv << " d " << c.d << " d_v " << c.d_v << " q " << to_string(c.q_type) << " kv "
           << to_string(c.kv_type) << " o " << to_string(c.o_type) << " order "
           << static_cast<int>(c.order) << " causal " << c.causal << " compute "
           << static_cast<int>(c.compute) << " peak " << c.peak << " seed " << c.seed << " isa "
           << name_of(chosen_isa());
}

Data::Data(const Case& c)
    : shape(c), q(c.q_type, {c.b, c.h_q, c.n_q, c.d}, c.order),
      k(c.kv_type, {c.b, c.h_kv, c.n_kv, c.d}, c.order),
      v(c.kv_type, {c.b, c.h_kv, c.n_kv, c.d_v}, c.order),
      o(c.o_type, {c.b, c.h_q, c.n_q, c.d_v}, c.order), lse(DType::kF32, {c.b, c.h_q, c.n_q, 1}) {
  std::mt19937_64 random(c.seed);
  q.fill_normal(random, c.peak);
  k.fill_normal(random);
  v.fill_normal(random);
}
Visibility Data::visibility() const {
  Visibility v_;
  v_.n_q = shape.n_q, v_.n_kv = shape.n_kv, v_.causal = shape.causal;
  return v_;
}
float Data::scale() const {
  return shape.scale != 0 ? static_cast<float>(shape.scale)
                          : 1 / std::sqrt(static_cast<float>(shape.d));
}
AttendInputs Data::inputs() const {
  return {q.view(), k.view(), v.view(), visibility(), scale(), nullptr, shape.compute};
}
PlanInputs Data::plan_inputs(int workers) const {
  PlanInputs p;
  p.q = q.view(), p.k = k.view(), p.visibility = visibility(), p.scale = scale();
  p.workers = workers;
  return p;
}
reference::Problem Data::problem() const {
  return {reference::load(q.view()), reference::load(k.view()), reference::load(v.view()),
          visibility(), double{scale()}};
}

bool uses_bf16(const Case& c) {
  if (c.compute == Compute::kF32) return false;
  return c.compute == Compute::kBF16 || c.kv_type != DType::kF32;
}

std::int64_t rows_outside_budget(Data& data, const VisitRows& visit, std::string& report) {
  const Case& c = data.shape;
  const bool bf16 = uses_bf16(c);
  const reference::Problem p = data.problem();
  std::vector<double> truth(static_cast<std::size_t>(c.d_v));
  std::vector<RowError> rows;
  std::int64_t outside = 0;
  std::vector<double> sum_o(static_cast<std::size_t>(c.b * c.h_q)), sum_lse = sum_o;
  visit(p, [&](std::int64_t b, std::int64_t h, std::int64_t i,
               std::span<const reference::Entry> entries) {
    const double* q = p.q.row(b, h, i);
    const double lse = reference::attend_row(q, entries, c.d, c.d_v, p.scale, truth.data());
    const double got_lse = data.lse.get(b, h, i, 0);
    if (lse == -INFINITY) {  // nothing was read: exactly that
      bool right = got_lse == -INFINITY;
      for (std::int64_t x = 0; x < c.d_v; ++x) right = right && data.o.get(b, h, i, x) == 0.0;
      if (!right) ++outside, report += "an empty row is not o = 0, lse = -inf\n";
      return;
    }
    const Row plain = plain_row(q, entries, c, p.scale, bf16);
    RowError e{b, h, i, 0, std::abs(plain.lse - lse), 0, 0, 0, std::abs(got_lse - lse)};
    double largest = 0, magnitude = 0, spread = 0;
    for (const auto& entry : entries) {
      double terms = std::abs(entry.log_weight), dot = 0;
      for (std::int64_t x = 0; x < c.d; ++x) {
        terms += std::abs(p.scale * q[x] * entry.key[x]);
        dot += q[x] * entry.key[x];
      }
      magnitude = std::max(magnitude, terms);
      const double weight = std::exp(p.scale * dot + entry.log_weight - lse);
      double off = 0;
      for (std::size_t x = 0; x < truth.size(); ++x) {
        off = std::max(off, std::abs(entry.value[x] - truth[x]));
      }
      spread += weight * off;
    }
    for (std::size_t x = 0; x < truth.size(); ++x) {
      const double got = data.o.get(b, h, i, static_cast<std::int64_t>(x));
      // NaN must not hide behind a maximum.
      const double error = std::isfinite(got) ? std::abs(got - truth[x]) : INFINITY;
      e.got_o = std::max(e.got_o, error);
      e.plain_o = std::max(e.plain_o, std::abs(plain.o[x] - truth[x]));
      largest = std::max(largest, std::abs(truth[x]));
    }
    if (!std::isfinite(got_lse)) e.got_lse = INFINITY;
    e.floor_o = c.parts * (unit_roundoff(c.o_type) * largest +
                           (bf16 ? 0x1p-11 : 0x1p-22) * plain.largest_value +
                           0x1p-22 * magnitude * spread);  // logits rounded in f32
    e.floor_lse = c.parts * (0x1p-22 * (1 + magnitude) + (bf16 ? 0x1p-11 : 0));
    const auto head = static_cast<std::size_t>(b * c.h_q + h);
    sum_o[head] += e.plain_o, sum_lse[head] += e.plain_lse;
    rows.push_back(e);
  });
  for (const RowError& e : rows) {
    const auto head = static_cast<std::size_t>(e.b * c.h_q + e.h);
    const double mean_o = sum_o[head] / static_cast<double>(c.n_q);
    const double mean_lse = sum_lse[head] / static_cast<double>(c.n_q);
    const double most_o = 2 * std::max(e.plain_o, mean_o) + e.floor_o;
    const double most_lse = 2 * std::max(e.plain_lse, mean_lse) + e.floor_lse;
    if (e.got_o <= most_o && e.got_lse <= most_lse) continue;
    if (++outside > 3) continue;
    std::ostringstream line;
    line << "row " << e.b << ' ' << e.h << ' ' << e.i << ": error of o " << e.got_o << ", allowed "
         << most_o << "; error of lse " << e.got_lse << ", allowed " << most_lse << '\n';
    report += line.str();
  }
  return outside;
}

void expect_near_oracle(Data& data, const VisitRows& visit) {
  std::string report;
  const std::int64_t outside = rows_outside_budget(data, visit, report);
  EXPECT_EQ(outside, 0) << "rows outside the error budget, " << data.shape << '\n' << report;
  expect_sentinels(data);
}

void expect_near_dense(Data& data) {
  expect_near_oracle(data, [](const reference::Problem& p, const reference::VisitRow& visit) {
    reference::for_each_row(p, visit);
  });
}
void expect_near_plan(Data& data, const Plan& plan, const KeyIndex* index) {
  expect_near_oracle(data, [&](const reference::Problem& p, const reference::VisitRow& visit) {
    reference::for_each_row(p, plan, index, visit);
  });
}
void expect_sentinels(const Data& data) {
  EXPECT_TRUE(data.o.sentinels_intact()) << "wrote around o, " << data.shape;
  EXPECT_TRUE(data.lse.sentinels_intact()) << "wrote around lse, " << data.shape;
}

Planned plan_all(const Data& data, const PlanOptions& options, const KeyIndex* index,
                 const std::vector<float>* scores) {
  PlanInputs in = data.plan_inputs();
  in.index = index;
  ScoreLevel level;
  if (scores != nullptr) {
    level = {0, scores->data(), in.visibility.n_kv};
    in.scores = {&level, 1};
  }
  const std::shared_ptr<const Planner> planner = make_planner(in, options);
  AttendInputs attend_in = data.inputs();
  attend_in.index = index;
  return {make_plan(attend_in, *planner, *make_serial_executor()), planner, planner->tile()};
}

std::vector<float> random_scores(const Case& c, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::uniform_int_distribution<int> score(0, 999);  // with ties
  std::vector<float> scores(static_cast<std::size_t>(c.b * c.h_kv * c.n_kv));
  for (float& s : scores) s = static_cast<float>(score(random));
  return scores;
}

PlanOptions small_plan(Method method, std::int64_t budget) {
  PlanOptions o;
  o.method = method;
  o.budget = budget;
  o.sinks = 4;
  o.window = 24;
  o.tile = 32;
  return o;
}
IndexOptions small_index() {
  IndexOptions o;
  o.segment = 64;
  o.cluster = 4;
  o.group = 16;
  o.sinks = 4;
  return o;
}

}  // namespace prescore::test
