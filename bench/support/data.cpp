#include "support/data.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>

#include "common/views.h"

namespace bench {
namespace {

using prescore::DType;

constexpr std::int64_t kTopics = 64, kWords = 2048, kRun = 50, kSinks = 16;
constexpr std::int64_t kCalibration = 8192, kSamples = 48;
constexpr double kBestShare = 0.85, kSinkShare = 0.25;
constexpr float kKeyNorm = 4;  // of a sink, in units of sqrt(d)

/// xoshiro128+-like quality is not needed: splitmix64 and the sum of four 16-bit uniforms, which is
/// Gaussian enough (Irwin-Hall) and fast.
class Random {
 public:
  explicit Random(std::uint64_t seed) : state_(seed * 0x9e3779b97f4a7c15u + 0x1234567u) {}
  std::uint64_t bits() {
    std::uint64_t z = (state_ += 0x9e3779b97f4a7c15u);
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
  }
  double uniform() { return static_cast<double>(bits() >> 11) * 0x1p-53; }
  std::int64_t below(std::int64_t n) {
    return std::min(n - 1, static_cast<std::int64_t>(uniform() * static_cast<double>(n)));
  }
  float normal() {  // mean 0, variance 1
    const std::uint64_t b = bits();
    const auto sum =
        static_cast<float>((b & 0xffff) + ((b >> 16) & 0xffff) + ((b >> 32) & 0xffff) + (b >> 48));
    return (sum - 131070.0f) * (1.7320508f / 65536.0f);
  }

 private:
  std::uint64_t state_;
};

class Zipf {
 public:
  explicit Zipf(std::int64_t n) : sums_(static_cast<std::size_t>(n)) {
    double sum = 0;
    for (std::size_t i = 0; i < sums_.size(); ++i)
      sums_[i] = sum += 1.0 / static_cast<double>(i + 1);
  }
  std::int64_t draw(Random& random) const {
    const double x = random.uniform() * sums_.back();
    return std::lower_bound(sums_.begin(), sums_.end(), x) - sums_.begin();
  }

 private:
  std::vector<double> sums_;
};

std::size_t at(std::int64_t i) { return static_cast<std::size_t>(i); }

/// Topic, run and word of every token; the same for all heads.
struct Text {
  std::vector<std::int32_t> topic, run, word, topic_of_run;
  std::vector<std::vector<std::int32_t>> tokens_of_topic;

  Text(std::int64_t n, std::uint64_t seed)
      : topic(at(n)), run(at(n)), word(at(n)), tokens_of_topic(at(kTopics)) {
    Random random(seed);
    const Zipf topics(kTopics), words(kWords);
    for (std::int64_t i = 0; i < n; ++i) {
      if (i == 0 || random.uniform() < 1.0 / kRun)
        topic_of_run.push_back(static_cast<std::int32_t>(topics.draw(random)));
      run[at(i)] = static_cast<std::int32_t>(topic_of_run.size()) - 1;
      topic[at(i)] = topic_of_run.back();
      word[at(i)] = static_cast<std::int32_t>(words.draw(random));
      tokens_of_topic[at(topic[at(i)])].push_back(static_cast<std::int32_t>(i));
    }
  }
};

/// Drifting centres: row r is the centre of run r's topic at that time.
std::vector<float> run_centres(const Text& text, std::int64_t d, std::uint64_t seed) {
  Random random(seed);
  std::vector<float> centre(at(kTopics * d)), out(text.topic_of_run.size() * at(d));
  for (float& x : centre) x = random.normal();
  constexpr float kDrift = 0.15f;
  const float keep = std::sqrt(1 - kDrift * kDrift);
  for (std::size_t r = 0; r < text.topic_of_run.size(); ++r) {
    float* c = centre.data() + text.topic_of_run[r] * d;
    for (std::int64_t j = 0; j < d; ++j) {
      c[j] = keep * c[j] + kDrift * random.normal();
      out[r * at(d) + at(j)] = c[j];
    }
  }
  return out;
}

/// Rotates the first half of the channels, channel j with j + d / 4.
class Rope {
 public:
  explicit Rope(std::int64_t d) : pairs_(d / 4) {
    for (std::int64_t j = 0; j < pairs_; ++j)
      frequency_.push_back(std::pow(1e4, -static_cast<double>(j) / static_cast<double>(pairs_)));
  }
  void apply(float* x, std::int64_t position) const {
    for (std::int64_t j = 0; j < pairs_; ++j) {
      const double angle = static_cast<double>(position) * frequency_[at(j)];
      const auto c = static_cast<float>(std::cos(angle)), s = static_cast<float>(std::sin(angle));
      const float a = x[j], b = x[j + pairs_];
      x[j] = a * c - b * s;
      x[j + pairs_] = a * s + b * c;
    }
  }

 private:
  std::int64_t pairs_;
  std::vector<double> frequency_;
};

/// Keys of one head before RoPE, without sinks, in float.
struct Content {
  std::vector<float> rows;  // [n, d]
  std::vector<float> u;     // [d], unit length, zero in the channels with RoPE
};

Content make_content(const Text& text, std::int64_t n, std::int64_t d, std::uint64_t seed) {
  Content out{std::vector<float>(at(n * d)), std::vector<float>(at(d), 0.0f)};
  Random random(seed);
  float norm = 0;
  for (std::int64_t j = d / 2; j < d; ++j) {
    out.u[at(j)] = random.normal();
    norm += out.u[at(j)] * out.u[at(j)];
  }
  for (float& x : out.u) x /= std::sqrt(norm);
  std::vector<float> words(at(kWords * d));
  for (float& x : words) x = random.normal();
  const std::vector<float> centres = run_centres(text, d, random.bits());
  for (std::int64_t i = 0; i < n; ++i) {
    float* x = out.rows.data() + i * d;
    const float* c = centres.data() + text.run[at(i)] * d;
    const float* w = words.data() + text.word[at(i)] * d;
    float along = 0;
    for (std::int64_t j = 0; j < d; ++j) {
      x[j] = (0.8f * c[j] + 0.6f * w[j] + 0.5f * random.normal()) * 0.894f;  // variance 1
      along += x[j] * out.u[at(j)];
    }
    for (std::int64_t j = 0; j < d; ++j) x[j] -= along * out.u[at(j)];
  }
  return out;
}

/// Which earlier key a query looks for. `last` is the one before: passages are read on.
std::int64_t pick_target(const Text& text, std::int64_t i, std::int64_t last, Random& random) {
  if (last >= 0 && random.uniform() < 0.7) return last + 1;
  // Distances are spread evenly on a logarithmic scale, among the keys of the topic or among all.
  const auto back = [&](std::int64_t n) {
    const double distance = std::exp(random.uniform() * std::log(static_cast<double>(n) + 1)) - 1;
    return n - 1 - std::clamp<std::int64_t>(static_cast<std::int64_t>(distance), 0, n - 1);
  };
  if (random.uniform() < 0.3) return back(i + 1);
  const auto& same = text.tokens_of_topic[at(text.topic[at(i)])];
  return same[at(back(std::upper_bound(same.begin(), same.end(), i) - same.begin()))];
}

struct Pull {
  float sharpness = 1, sinks = 0;
};

/// A query before it is scaled, after RoPE. `last` is its predecessor's target and becomes its own.
void make_query(const Text& text, const Content& content, const Rope& rope, std::int64_t d,
                std::int64_t i, std::int64_t& last, Random& random, float* x) {
  last = pick_target(text, i, last, random);
  const float* target = content.rows.data() + last * d;
  for (std::int64_t j = 0; j < d; ++j) x[j] = target[j] + 0.5f * random.normal();
  float along = 0;
  for (std::int64_t j = 0; j < d; ++j) along += x[j] * content.u[at(j)];
  for (std::int64_t j = 0; j < d; ++j) x[j] -= along * content.u[at(j)];
  rope.apply(x, i);
}

double dot(const float* a, const float* b, std::int64_t d) {
  double s = 0;
  for (std::int64_t j = 0; j < d; ++j) s += static_cast<double>(a[j]) * b[j];
  return s;
}

/// Share of the best `part` of the keys, and log of the sum, of logits sorted in falling order.
double share_of_best(const std::vector<double>& sorted, double sharpness, double part,
                     double& lse) {
  const auto best = static_cast<std::size_t>(part * static_cast<double>(sorted.size())) + 1;
  double sum = 0, head = 0;
  for (std::size_t i = 0; i < sorted.size(); ++i) {
    sum += std::exp(sharpness * (sorted[i] - sorted[0]));
    if (i + 1 == best) head = sum;
  }
  lse = sharpness * sorted[0] + std::log(sum);
  return (best <= sorted.size() ? head : sum) / sum;
}

/// On the first 8,192 tokens of head 0, so that every length has the same queries.
Pull calibrate(const Text& text, const Content& content, const Rope& rope, std::int64_t d) {
  const std::int64_t n = std::min(kCalibration, static_cast<std::int64_t>(text.topic.size()));
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  std::vector<float> keys(content.rows.begin(), content.rows.begin() + n * d);
  for (std::int64_t i = 0; i < n; ++i) rope.apply(keys.data() + i * d, i);
  Random random(7);
  std::vector<std::vector<double>> logits;
  std::vector<float> x(at(d));
  for (std::int64_t s = 0; s < kSamples; ++s) {
    const std::int64_t i = n - 1 - s * (n / 4 / kSamples);
    std::int64_t last = -1;
    make_query(text, content, rope, d, i, last, random, x.data());
    auto& row = logits.emplace_back();
    for (std::int64_t k = std::min(kSinks, i); k <= i; ++k)
      row.push_back(scale * dot(x.data(), keys.data() + k * d, d));
    std::sort(row.begin(), row.end(), std::greater<>());
  }
  double low = 0, high = 64, lse = 0;
  for (int step = 0; step < 30; ++step) {
    const double middle = 0.5 * (low + high);
    double share = 0;
    for (const auto& row : logits) share += share_of_best(row, middle, 0.04, lse) / kSamples;
    (share < kBestShare ? low : high) = middle;
  }
  double mean = 0;
  for (const auto& row : logits) {
    share_of_best(row, high, 0.04, lse);
    mean += lse / kSamples;
  }
  // The logit of one sink, such that sixteen of them hold their share of an average query.
  const double logit = mean + std::log(kSinkShare / (1 - kSinkShare) / kSinks);
  return {static_cast<float>(high),
          static_cast<float>(logit / kKeyNorm)};  // |sink| scale = kKeyNorm
}

}  // namespace

Data::Data(const Shape& shape) : shape_(shape) {
  const std::int64_t row = shape.n * shape.d * prescore::size_of(shape.dtype);
  q_.resize(at(shape.h_q * row)), k_.resize(at(shape.h_kv * row)), v_.resize(at(shape.h_kv * row));
}

Data Data::gaussian(const Shape& shape, prescore::Executor& executor, std::uint64_t seed) {
  Data out(shape);
  const std::int64_t heads = shape.h_q + 2 * shape.h_kv, size = shape.n * shape.d;
  executor.run(heads, [&](std::int64_t h, int) {
    Random random(seed * 1000 + static_cast<std::uint64_t>(h));
    std::vector<std::byte>& bytes = h < shape.h_q                ? out.q_
                                    : h < shape.h_q + shape.h_kv ? out.k_
                                                                 : out.v_;
    const std::int64_t first = (h < shape.h_q                ? h
                                : h < shape.h_q + shape.h_kv ? h - shape.h_q
                                                             : h - shape.h_q - shape.h_kv) *
                               size;
    for (std::int64_t i = 0; i < size; ++i)
      prescore::store_element(bytes.data(), shape.dtype, first + i, random.normal());
  });
  return out;
}

Data Data::topics(const Shape& shape, prescore::Executor& executor, std::uint64_t seed) {
  Data out(shape);
  const std::int64_t n = shape.n, d = shape.d, group = shape.h_q / shape.h_kv;
  // Longer than n where n is short: calibration always sees the same tokens.
  const Text text(std::max(n, kCalibration), seed);
  const Rope rope(d);
  Pull pull;
  for (std::int64_t kv = 0; kv < shape.h_kv; ++kv) {
    const auto head_seed = seed * 1000 + static_cast<std::uint64_t>(kv) * 50;
    const Content content = make_content(text, std::max(n, kCalibration), d, head_seed);
    if (kv == 0) pull = calibrate(text, content, rope, d);
    // One task for the keys, one for the values, one for each query head.
    executor.run(2 + group, [&](std::int64_t task, int) {
      Random random(head_seed + 1 + static_cast<std::uint64_t>(task));
      std::vector<float> x(at(d));
      if (task == 0) {
        for (std::int64_t i = 0; i < n; ++i) {
          std::copy_n(content.rows.data() + i * d, d, x.data());
          if (i < kSinks)
            for (std::int64_t j = 0; j < d; ++j)
              x[at(j)] = kKeyNorm * std::sqrt(static_cast<float>(d)) * content.u[at(j)];
          else
            rope.apply(x.data(), i);
          for (std::int64_t j = 0; j < d; ++j)
            prescore::store_element(out.k_.data(), shape.dtype, (kv * n + i) * d + j, x[at(j)]);
        }
      } else if (task == 1) {
        const std::vector<float> centres = run_centres(text, d, random.bits());
        for (std::int64_t i = 0; i < n; ++i)
          for (std::int64_t j = 0; j < d; ++j)
            prescore::store_element(
                out.v_.data(), shape.dtype, (kv * n + i) * d + j,
                0.7f * centres[at(text.run[at(i)] * d + j)] + 0.7f * random.normal());
      } else {
        const std::int64_t h = kv * group + task - 2;
        std::int64_t last = -1;
        for (std::int64_t i = 0; i < n; ++i) {
          make_query(text, content, rope, d, i, last, random, x.data());
          for (std::int64_t j = 0; j < d; ++j)
            prescore::store_element(out.q_.data(), shape.dtype, (h * n + i) * d + j,
                                    pull.sharpness * x[at(j)] + pull.sinks * content.u[at(j)]);
        }
      }
    });
  }
  return out;
}

Spread Data::spread() const {
  const std::int64_t n = shape_.n, d = shape_.d, group = shape_.h_q / shape_.h_kv;
  const double scale = 1 / std::sqrt(static_cast<double>(d));
  constexpr std::int64_t kQueries = 28;
  Spread out;
  std::vector<float> q(at(d)), k(at(d));
  for (std::int64_t s = 0; s < kQueries; ++s) {
    const std::int64_t h = s % shape_.h_q, i = n - 1 - s * (n / 4 / kQueries);
    for (std::int64_t j = 0; j < d; ++j)
      q[at(j)] = prescore::load_element(q_.data(), shape_.dtype, (h * n + i) * d + j);
    double sinks = 0;
    std::vector<double> rest;
    for (std::int64_t key = 0; key <= i; ++key) {
      for (std::int64_t j = 0; j < d; ++j)
        k[at(j)] = prescore::load_element(k_.data(), shape_.dtype, (h / group * n + key) * d + j);
      const double logit = scale * dot(q.data(), k.data(), d);
      if (key < kSinks)
        sinks += std::exp(logit);
      else
        rest.push_back(logit);
    }
    std::sort(rest.begin(), rest.end(), std::greater<>());
    double lse = 0;
    out.best_1pc += share_of_best(rest, 1, 0.01, lse) / kQueries;
    out.best_4pc += share_of_best(rest, 1, 0.04, lse) / kQueries;
    out.sinks += sinks / (sinks + std::exp(lse)) / kQueries;
  }
  return out;
}

Slice take_slice(const Data& data, std::int64_t parts, std::int64_t length) {
  const Shape& s = data.shape();
  Slice out;
  for (std::int64_t p = 0; p < parts; ++p) {
    // Whole tiles, whatever their size: stretches begin at multiples of 256.
    const std::int64_t first = ((2 * p + 1) * s.n / (2 * parts) - length / 2) / 256 * 256;
    for (std::int64_t i = 0; i < length; ++i)
      out.positions.push_back(static_cast<std::int32_t>(std::max<std::int64_t>(0, first) + i));
  }
  const auto n = static_cast<std::int64_t>(out.positions.size());
  const std::int64_t row = s.d * prescore::size_of(s.dtype);
  out.bytes.resize(at(s.h_q * n * row));
  const auto* from = static_cast<const std::byte*>(data.q().data);
  for (std::int64_t h = 0; h < s.h_q; ++h)
    for (std::int64_t i = 0; i < n; ++i)
      std::memcpy(out.bytes.data() + (h * n + i) * row,
                  from + (h * s.n + out.positions[at(i)]) * row, at(row));
  out.q = prescore::Tensor::contiguous(out.bytes.data(), s.dtype, 1, s.h_q, n, s.d);
  return out;
}

}  // namespace bench
