#include "common/profile_rule.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>

#include "ggml.h"
#include "prescore/attention.h"

namespace prescore::host {
namespace {

/// A row of any dtype as f32.
void read_row(const Tensor& t, std::int64_t head, std::int64_t row, std::vector<float>& out) {
  const std::int64_t d = t.shape[3];
  out.resize(static_cast<std::size_t>(d));
  const char* at = static_cast<const char*>(t.data) +
                   (head * t.stride[1] + row * t.stride[2]) * size_of(t.dtype);
  switch (t.dtype) {
    case DType::kF32: std::copy_n(reinterpret_cast<const float*>(at), d, out.data()); break;
    case DType::kF16:
      ggml_fp16_to_fp32_row(reinterpret_cast<const ggml_fp16_t*>(at), out.data(), d);
      break;
    case DType::kBF16:
      ggml_bf16_to_fp32_row(reinterpret_cast<const ggml_bf16_t*>(at), out.data(), d);
      break;
  }
}

double product(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) sum += static_cast<double>(a[i]) * b[i];
  return sum;
}

/// How far above its threshold the clearer of a head's scores is.
double clearness(double duplicate, double induction, const RuleOptions& rule) {
  return std::max(duplicate / rule.duplicate, induction / rule.induction);
}

}  // namespace

HeadScores::HeadScores(std::int64_t l, std::int64_t h)
    : layers(l), heads(h), duplicate(static_cast<std::size_t>(l * h)), induction(duplicate) {}

HeadScores& HeadScores::operator+=(const HeadScores& other) {
  if (layers != other.layers || heads != other.heads)
    throw Error("[profile] scores of heads, got two shapes, want one");
  for (std::size_t i = 0; i < duplicate.size(); ++i)
    duplicate[i] += other.duplicate[i], induction[i] += other.induction[i];
  return *this;
}

HeadScores& HeadScores::operator/=(double n) {
  for (double& x : duplicate) x /= n;
  for (double& x : induction) x /= n;
  return *this;
}

void score_copying(const Tensor& q, const Tensor& k, float scale, std::int64_t first,
                   std::int64_t period, double* duplicate, double* induction) {
  const std::int64_t h = q.shape[1], n = q.shape[2], d = q.shape[3];
  const std::int64_t repeated = n - first - period;
  if (k.shape[2] != n || repeated < 1 || repeated > period)
    throw Error("[profile] tokens of a probe, got " + std::to_string(n) + ", want up to " +
                std::to_string(first + 2 * period));
  // The operation itself gives what all keys weigh; the two keys wanted are then two products.
  std::vector<float> o(static_cast<std::size_t>(h * n * d)), lse(static_cast<std::size_t>(h * n));
  Options options;
  options.plan.method = Method::kDense;
  options.compute = Compute::kF32;
  options.scale = scale;
  const State state{MutTensor::contiguous(o.data(), DType::kF32, 1, h, n, d), lse.data()};
  attention(q, k, k, state, options, *make_serial_executor());

  std::vector<float> query, key;
  for (std::int64_t head = 0; head < h; ++head) {
    double same = 0, next = 0;
    for (std::int64_t i = first + period; i < n; ++i) {
      read_row(q, head, i, query);
      const auto share = [&](std::int64_t j) {
        read_row(k, head / (h / k.shape[1]), j, key);
        return std::exp(static_cast<double>(scale) * product(query, key) -
                        static_cast<double>(lse[static_cast<std::size_t>(head * n + i)]));
      };
      same += share(i - period), next += share(i - period + 1);
    }
    duplicate[head] = same / static_cast<double>(repeated);
    induction[head] = next / static_cast<double>(repeated);
  }
}

std::vector<CopyingHead> copying_heads(const HeadScores& scores, const RuleOptions& rule,
                                       std::int64_t layers) {
  const auto share = [](double x) { return x >= 0 && x <= 1; };
  if (!(rule.duplicate > 0) || !(rule.induction > 0) || !share(rule.most) ||
      !share(rule.prompt_layers))
    throw Error(
        "[profile] rule, got thresholds or a share out of range, want thresholds above 0 "
        "and shares from 0 to 1");
  std::vector<CopyingHead> found;
  const std::int64_t end = layers < 0 ? scores.layers : std::min(layers, scores.layers);
  for (std::int64_t i = 0; i < end * scores.heads; ++i) {
    const CopyingHead head{i / scores.heads, i % scores.heads,
                           scores.duplicate[static_cast<std::size_t>(i)],
                           scores.induction[static_cast<std::size_t>(i)]};
    if (clearness(head.duplicate, head.induction, rule) >= 1) found.push_back(head);
  }
  std::stable_sort(found.begin(), found.end(), [&](const CopyingHead& a, const CopyingHead& b) {
    return clearness(a.duplicate, a.induction, rule) > clearness(b.duplicate, b.induction, rule);
  });
  const auto most = static_cast<std::size_t>(
      std::floor(rule.most * static_cast<double>(scores.layers * scores.heads)));
  if (found.size() > most) found.resize(most);
  return found;
}

HeadProfile profile_by_rule(const ModelIdentity& model, const HeadScores& scores,
                            const RuleOptions& rule) {
  if (scores.layers != model.layers || scores.heads != model.heads)
    throw Error("[profile] scores of heads, got those of another shape, want the model's");
  HeadProfile p = plain_profile(model);
  const auto first =
      static_cast<std::int64_t>(std::ceil(rule.prompt_layers * static_cast<double>(scores.layers)));
  for (std::vector<std::string>* rows : {&p.prompt, &p.decode}) {
    if (rule.first_layer && !rows->empty() && !rows->front().empty())
      rows->front().assign(rows->front().size(), Need::kMany);
    for (const CopyingHead& head : copying_heads(scores, rule, rows == &p.prompt ? first : -1))
      (*rows)[static_cast<std::size_t>(head.layer)][static_cast<std::size_t>(head.head)] =
          Need::kDense;
  }
  return p;
}

std::string describe(const RuleOptions& rule) {
  char text[240];
  std::snprintf(text, sizeof text,
                "duplicate-token score from %g or induction score from %g: dense, at most %g %% of "
                "the heads, in prompts those of the first %g %% of the layers%s",
                rule.duplicate, rule.induction, 100 * rule.most, 100 * rule.prompt_layers,
                rule.first_layer ? "; the first layer: many keys" : "");
  return text;
}

}  // namespace prescore::host
