// Oracle of the stage score.
#include <cmath>
#include <numeric>

#include "reference/reference.h"

namespace prescore::reference {
namespace {

std::int64_t rows(std::span<const double> keys, std::int64_t d) {
  return static_cast<std::int64_t>(keys.size()) / d;
}

// Solves A x = y for a symmetric positive definite A [d, d] by Gaussian elimination with pivoting.
std::vector<double> solve(std::vector<double> a, std::vector<double> y) {
  const std::size_t d = y.size();
  for (std::size_t p = 0; p < d; ++p) {
    std::size_t best = p;
    for (std::size_t r = p + 1; r < d; ++r) {
      if (std::abs(a[r * d + p]) > std::abs(a[best * d + p])) best = r;
    }
    for (std::size_t c = 0; c < d; ++c) std::swap(a[p * d + c], a[best * d + c]);
    std::swap(y[p], y[best]);
    for (std::size_t r = p + 1; r < d; ++r) {
      const double f = a[r * d + p] / a[p * d + p];
      for (std::size_t c = p; c < d; ++c) a[r * d + c] -= f * a[p * d + c];
      y[r] -= f * y[p];
    }
  }
  for (std::size_t p = d; p-- > 0;) {
    for (std::size_t c = p + 1; c < d; ++c) y[p] -= a[p * d + c] * y[c];
    y[p] /= a[p * d + p];
  }
  return y;
}

}  // namespace

std::vector<double> key_norms(std::span<const double> keys, std::int64_t d) {
  std::vector<double> out;
  for (std::int64_t i = 0; i < rows(keys, d); ++i) {
    const double* k = keys.data() + i * d;
    out.push_back(std::sqrt(dot(k, k, d)));
  }
  return out;
}

std::vector<double> ridge_leverage(std::span<const double> keys, std::int64_t d, double ridge,
                                   std::int64_t fit) {
  const auto n = static_cast<std::size_t>(d);
  std::vector<double> gram(n * n);
  for (std::int64_t i = 0; i < fit; ++i) {
    const double* k = keys.data() + i * d;
    for (std::size_t r = 0; r < n; ++r) {
      for (std::size_t c = 0; c < n; ++c) gram[r * n + c] += k[r] * k[c];
    }
  }
  double trace = 0;
  for (std::size_t c = 0; c < n; ++c) trace += gram[c * n + c];
  for (std::size_t c = 0; c < n; ++c) gram[c * n + c] += ridge * trace / static_cast<double>(d);
  std::vector<double> out;
  for (std::int64_t i = 0; i < rows(keys, d); ++i) {
    const double* k = keys.data() + i * d;
    out.push_back(dot(k, solve(gram, {k, k + d}).data(), d));
  }
  return out;
}

std::vector<double> key_difference(std::span<const double> keys, std::int64_t d, std::int64_t fit) {
  std::vector<double> mean(static_cast<std::size_t>(d));
  const std::vector<double> norm = key_norms(keys, d);
  for (std::size_t i = 0; i < static_cast<std::size_t>(fit); ++i) {
    for (std::size_t c = 0; c < mean.size(); ++c) {
      if (norm[i] > 0) mean[c] += keys[i * mean.size() + c] / norm[i];
    }
  }
  const double length = std::sqrt(dot(mean.data(), mean.data(), d));
  std::vector<double> out;
  for (std::size_t i = 0; i < norm.size(); ++i) {
    const double both = norm[i] * length;
    out.push_back(both > 0 ? -dot(keys.data() + i * mean.size(), mean.data(), d) / both : 0.0);
  }
  return out;
}

std::vector<double> gaussian_norm(std::span<const double> keys, std::int64_t d, double sigma,
                                  std::int64_t fit) {
  std::vector<double> out = key_norms(keys, d);
  double variance = sigma * sigma;
  if (sigma == 0) variance = dot(out.data(), out.data(), fit) / static_cast<double>(fit);
  for (double& x : out) x = std::exp(-x * x / (2 * variance));
  return out;
}

std::vector<double> universal_bound(std::span<const double> keys, std::int64_t d, std::int64_t p,
                                    std::int64_t iterations, std::int64_t fit) {
  const auto width = static_cast<std::size_t>(d);
  const double power = 1 - 2 / static_cast<double>(p), half = static_cast<double>(p) / 2;
  std::vector<double> weight(static_cast<std::size_t>(fit), 1.0), a;
  const auto forms = [&] {
    std::vector<double> m(width * width);
    for (std::size_t j = 0; j < weight.size(); ++j)
      for (std::size_t r = 0; r < width; ++r)
        for (std::size_t c = 0; c < width; ++c)
          m[r * width + c] +=
              std::pow(weight[j], power) * keys[j * width + r] * keys[j * width + c];
    a.clear();
    for (std::int64_t i = 0; i < rows(keys, d); ++i) {
      const double* k = keys.data() + i * d;
      a.push_back(dot(k, solve(m, {k, k + d}).data(), d));
    }
  };
  forms();
  for (std::int64_t it = 0; it < iterations; ++it, forms())
    for (std::size_t i = 0; i < weight.size(); ++i) weight[i] = std::pow(weight[i], power) * a[i];
  const double total = std::accumulate(weight.begin(), weight.end(), 0.0);
  for (double& x : a) x = std::pow(x, half) * std::pow(total, half - 1);
  return a;
}

double largest_polynomial_share(std::span<const double> keys, std::int64_t d, std::int64_t i,
                                std::int64_t p) {
  const auto share = [&](const std::vector<double>& q) {
    double sum = 0;
    for (std::int64_t j = 0; j < rows(keys, d); ++j)
      sum += std::pow(std::abs(dot(q.data(), keys.data() + j * d, d)), static_cast<double>(p));
    const double own = std::abs(dot(q.data(), keys.data() + i * d, d));
    return sum > 0 ? std::pow(own, static_cast<double>(p)) / sum : 0.0;
  };
  // From the query that is best for p = 2, by small steps along each axis while they help.
  const auto width = static_cast<std::size_t>(d);
  std::vector<double> gram(width * width);
  for (std::int64_t j = 0; j < rows(keys, d); ++j)
    for (std::size_t r = 0; r < width; ++r)
      for (std::size_t c = 0; c < width; ++c)
        gram[r * width + c] += keys[static_cast<std::size_t>(j) * width + r] *
                               keys[static_cast<std::size_t>(j) * width + c];
  std::vector<double> q = solve(gram, {keys.data() + i * d, keys.data() + (i + 1) * d});
  double best = share(q), step = 0.5 * std::sqrt(dot(q.data(), q.data(), d));
  for (int round = 0; round < 60; ++round) {
    bool better = false;
    for (std::size_t c = 0; c < 2 * width; ++c) {
      std::vector<double> moved = q;
      moved[c / 2] += c % 2 == 0 ? step : -step;
      if (const double x = share(moved); x > best) best = x, q = moved, better = true;
    }
    if (!better) step /= 2;
  }
  return best;
}

std::vector<double> centred(std::span<const double> keys, std::int64_t d, std::int64_t fit) {
  const auto width = static_cast<std::size_t>(d), used = static_cast<std::size_t>(fit);
  std::vector<double> out(keys.begin(), keys.end());
  for (std::size_t c = 0; c < width; ++c) {
    double mean = 0;
    for (std::size_t i = 0; i < used; ++i) mean += keys[i * width + c] / static_cast<double>(fit);
    for (std::size_t i = c; i < out.size(); i += width) out[i] -= mean;
  }
  return out;
}

std::vector<double> expected_attention(std::span<const double> keys, std::int64_t d,
                                       std::span<const std::vector<double>> queries, double scale,
                                       std::int64_t fit) {
  const auto width = static_cast<std::size_t>(d);
  const std::size_t n = keys.size() / width;
  std::vector<double> out(n);
  for (const std::vector<double>& head : queries) {
    const std::size_t count = head.size() / width;
    std::vector<double> mean(width), covariance(width * width), weight(n);
    for (std::size_t i = 0; i < head.size(); ++i)
      mean[i % width] += head[i] / static_cast<double>(count);
    for (std::size_t i = 0; i < count; ++i)
      for (std::size_t r = 0; r < width; ++r)
        for (std::size_t c = 0; c < width; ++c)
          covariance[r * width + c] += (head[i * width + r] - mean[r]) *
                                       (head[i * width + c] - mean[c]) / static_cast<double>(count);
    double total = 0;
    for (std::size_t j = 0; j < n; ++j) {
      const double* k = keys.data() + j * width;
      double x = scale * dot(k, mean.data(), d);
      for (std::size_t r = 0; r < width; ++r)
        x += scale * scale / 2 * k[r] * dot(covariance.data() + r * width, k, d);
      weight[j] = std::exp(x);
      if (j < static_cast<std::size_t>(fit)) total += weight[j];
    }
    for (std::size_t j = 0; j < n; ++j)
      out[j] += weight[j] / total / static_cast<double>(queries.size());
  }
  return out;
}

std::vector<double> received_attention(const Problem& p, std::int64_t b, std::int64_t h_kv,
                                       std::int64_t until, std::int64_t stride,
                                       std::int64_t distance) {
  const std::int64_t group = p.q.shape[1] / p.k.shape[1], d = p.q.shape[3];
  std::vector<double> mass(static_cast<std::size_t>(p.k.shape[2])), rows(mass.size());
  for (std::int64_t h = h_kv * group; h < (h_kv + 1) * group; ++h)
    for (std::int64_t i = 0; i < p.q.shape[2]; ++i) {
      const std::int64_t end = p.visibility.end(i);
      if (end < 1 || end > until || (end - 1) % stride != 0) continue;
      std::vector<double> share;
      double total = 0;
      for (std::int64_t j = 0; j < end; ++j) {
        share.push_back(std::exp(p.scale * dot(p.q.row(b, h, i), p.k.row(b, h_kv, j), d)));
        total += share.back();
      }
      if (!std::isfinite(total)) continue;
      for (std::int64_t j = 0; j < end - distance; ++j) {
        const auto at = static_cast<std::size_t>(j);
        mass[at] += share[at] / total, rows[at] += 1;
      }
    }
  for (std::size_t j = 0; j < mass.size(); ++j) mass[j] = rows[j] > 0 ? mass[j] / rows[j] : 0;
  return mass;
}

}  // namespace prescore::reference
