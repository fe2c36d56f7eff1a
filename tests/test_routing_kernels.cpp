// The kernels that routing searches with, every level against the definition in tile.h.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <vector>

#include "common/views.h"
#include "tile/tile.h"

namespace prescore::test {
namespace {

using tile::kLanes;

/// Scores of `n` nodes against `rows` queries as a product leaves them: [vec][row_pad][16].
struct Scores {
  Scores(int n_nodes, int n_rows, unsigned seed)
      : n(n_nodes), rows(n_rows), vecs((n + kLanes - 1) / kLanes), s_vec((rows + 3) * kLanes),
        s(vecs * s_vec), weight(static_cast<std::size_t>(vecs * kLanes), tile::kMasked) {
    std::mt19937 rng(seed);
    std::normal_distribution<float> normal(0.0f, 4.0f);
    for (std::int64_t i = 0; i < s.size(); ++i) s[i] = normal(rng);
    for (int j = 0; j < n; ++j) {
      count.push_back(static_cast<float>(1 + rng() % 60));
      weight[static_cast<std::size_t>(j)] = std::log2(count.back());
    }
  }
  float at(int node, int row) const {
    return s[node / kLanes * s_vec + row * kLanes + node % kLanes];
  }

  int n, rows, vecs;
  std::ptrdiff_t s_vec;
  Buffer<float> s;
  std::vector<float> weight, count;
  float scale = 0.7f;
};

unsigned below(std::mt19937& rng, unsigned n) { return static_cast<unsigned>(rng() % n); }

void for_all(const std::function<void(const tile::RowKernels&, const Scores&)>& test) {
  for (const tile::RowKernels* kernels : tile::all_row_kernels()) {
    for (const int n : {1, 15, 16, 17, 100, 333}) {
      for (const int rows : {1, 2, 16, 63}) {
        SCOPED_TRACE(testing::Message() << name_of(kernels->isa) << " n " << n << " rows " << rows);
        test(*kernels, Scores(n, rows, static_cast<unsigned>(n * 100 + rows)));
      }
    }
  }
}

/// log2 of the sum over the nodes of 2^(scale s + weight).
std::vector<float> totals(const Scores& x) {
  std::vector<float> total;
  for (int r = 0; r < x.rows; ++r) {
    double sum = 0;
    for (int j = 0; j < x.n; ++j)
      sum += std::exp2(double{x.scale} * x.at(j, r) + x.weight[static_cast<std::size_t>(j)]);
    total.push_back(static_cast<float>(std::log2(sum)));
  }
  return total;
}

TEST(RowKernels, EveryHalfIsReadAndWritten) {
  std::vector<std::uint16_t> halves(65536);
  std::vector<float> want;
  for (std::size_t i = 0; i < halves.size(); ++i) {
    halves[i] = static_cast<std::uint16_t>(i);
    want.push_back(f16_to_f32(halves[i]));
  }
  std::vector<float> wide{65504, 65519, 65520, 1e9f, -1e9f, 6e-8f, 2e-8f, 1e-30f};
  std::mt19937 rng(1);
  while (wide.size() < 5000) wide.push_back(std::normal_distribution<float>()(rng));
  wide.insert(wide.end(), want.begin(), want.end());
  for (const tile::RowKernels* kernels : tile::all_row_kernels()) {
    SCOPED_TRACE(name_of(kernels->isa));
    std::vector<float> got(halves.size());
    kernels->to_f32(halves.data(), DType::kF16, 65536, got.data());
    for (std::size_t i = 0; i < got.size(); ++i)
      ASSERT_TRUE(got[i] == want[i] || (std::isnan(got[i]) && std::isnan(want[i]))) << i;
    std::vector<std::uint16_t> narrow(wide.size());
    kernels->from_f32(wide.data(), static_cast<int>(wide.size()), DType::kF16, narrow.data());
    for (std::size_t i = 0; i < wide.size(); ++i) {
      const bool nan = std::isnan(wide[i]);
      ASSERT_EQ(std::isnan(f16_to_f32(narrow[i])), nan) << wide[i];
      if (nan) continue;
      ASSERT_EQ(narrow[i], f32_to_f16(wide[i])) << wide[i];
    }
  }
}

TEST(RoutingKernels, TotalsWithinThreePercent) {
  for_all([](const tile::RowKernels& k, const Scores& x) {
    Buffer<float> m(x.rows * kLanes), l(x.rows * kLanes);
    std::fill_n(m.data(), m.size(), tile::kEmptyMax);
    std::fill_n(l.data(), l.size(), 0.0f);
    for (int v = 0; v < x.vecs; v += 3)  // in pieces
      k.add_totals(x.s.data() + v * x.s_vec, x.s_vec, std::min(3, x.vecs - v), x.rows, x.scale,
                   x.weight.data() + v * kLanes, m.data(), l.data());
    const std::vector<float> want = totals(x);
    for (int r = 0; r < x.rows; ++r)
      EXPECT_NEAR(k.total(m.data() + r * kLanes, l.data() + r * kLanes),
                  want[static_cast<std::size_t>(r)], std::log2(1.031))
          << "row " << r;
  });
}

TEST(RoutingKernels, SumsAndSharesAreExact) {
  for_all([](const tile::RowKernels& k, const Scores& x) {
    Buffer<float> m(x.rows * kLanes), l(x.rows * kLanes);
    std::fill_n(m.data(), m.size(), tile::kEmptyMax);
    std::fill_n(l.data(), l.size(), 0.0f);
    Buffer<float> s(x.vecs * x.s_vec);
    std::copy_n(x.s.data(), x.vecs * x.s_vec, s.data());
    for (int j = x.n; j < x.vecs * kLanes; ++j)
      for (int r = 0; r < x.rows; ++r)
        s[j / kLanes * x.s_vec + r * kLanes + j % kLanes] = tile::kMasked;
    for (int v = 0; v < x.vecs; v += 3)  // in pieces
      k.add_log_sums(s.data() + v * x.s_vec, x.s_vec, std::min(3, x.vecs - v), x.rows, m.data(),
                     l.data());
    std::vector<float> total;
    std::vector<double> share(static_cast<std::size_t>(x.vecs * kLanes)), pieces = share;
    for (int r = 0; r < x.rows; ++r) {
      double sum = 0;
      for (int j = 0; j < x.n; ++j) sum += std::exp2(double{x.at(j, r)});
      total.push_back(k.total(m.data() + r * kLanes, l.data() + r * kLanes));
      EXPECT_NEAR(total.back(), std::log2(sum), 1e-5) << "row " << r;
    }
    k.add_shares(s.data(), x.s_vec, x.vecs, x.rows, total.data(), share.data());
    const int half = x.rows / 2;
    k.add_shares(s.data(), x.s_vec, x.vecs, half, total.data(), pieces.data());
    k.add_shares(s.data() + half * kLanes, x.s_vec, x.vecs, x.rows - half, total.data() + half,
                 pieces.data());
    EXPECT_EQ(share, pieces);
    for (int j = 0; j < x.vecs * kLanes; ++j) {
      double want = 0;
      for (int r = 0; r < x.rows && j < x.n; ++r)
        want += std::exp2(double{x.at(j, r)} - double{total[static_cast<std::size_t>(r)]});
      EXPECT_NEAR(share[static_cast<std::size_t>(j)], want, 1e-5 * want) << "node " << j;
    }
  });
}

TEST(RoutingKernels, RanksOrderByTheShareOfAKey) {
  for_all([](const tile::RowKernels& k, const Scores& x) {
    std::vector<float> total = totals(x);
    for (float& t : total) t += 1;  // something else is read too
    const auto lanes = static_cast<std::size_t>(x.vecs * kLanes);
    std::vector<float> share(lanes);
    std::vector<std::uint32_t> rank(lanes);
    k.rank_nodes(x.s.data(), x.s_vec, x.vecs, x.rows, x.scale, x.weight.data(), total.data(),
                 share.data(), rank.data());
    std::vector<double> want;
    for (int j = 0; j < x.n; ++j) {
      const auto i = static_cast<std::size_t>(j);
      double mean = 0;
      for (int r = 0; r < x.rows; ++r)
        mean +=
            std::exp2(double{x.scale} * x.at(j, r) - double{total[static_cast<std::size_t>(r)]}) /
            x.rows;
      want.push_back(mean);
      EXPECT_NEAR(share[i], mean * double{x.count[i]}, 0.031 * mean * double{x.count[i]});
      EXPECT_LT(rank[i], 1u << 22);
    }
    for (std::size_t i = want.size(); i < lanes; ++i) EXPECT_EQ(share[i], 0.0f);
    for (std::size_t i = 0; i < want.size(); ++i)
      for (std::size_t j = 0; j < want.size(); ++j)
        if (want[i] > want[j] * 1.07) {
          EXPECT_GT(rank[i], rank[j]);
        }
  });
}

TEST(RoutingKernels, NaNRanksLastAndOtherQueriesStillCount) {
  for (const tile::RowKernels* k : tile::all_row_kernels()) {
    Scores x(20, 2, 1);
    x.s[3] = x.s[kLanes + 3] = std::numeric_limits<float>::quiet_NaN();
    std::vector<float> total{0, std::numeric_limits<float>::quiet_NaN()}, share(32), clean(32);
    std::vector<std::uint32_t> rank(32), clean_rank(32);
    k->rank_nodes(x.s.data(), x.s_vec, x.vecs, 2, x.scale, x.weight.data(), total.data(),
                  share.data(), rank.data());
    k->rank_nodes(x.s.data(), x.s_vec, x.vecs, 1, x.scale, x.weight.data(), total.data(),
                  clean.data(), clean_rank.data());
    for (std::size_t j = 0; j < 20; ++j) {
      EXPECT_GE(rank[j], rank[3]) << name_of(k->isa);
      if (j != 3) {
        EXPECT_NEAR(share[j], clean[j] / 2, 1e-5f * clean[j]) << name_of(k->isa);
      }
    }
  }
}

TEST(RoutingKernels, ThresholdTakesTheBestThatFit) {
  for (const tile::RowKernels* k : tile::all_row_kernels()) {
    std::mt19937 rng(7);
    for (int round = 0; round < 300; ++round) {
      const int n = 1 + static_cast<int>(rng() % 150);
      const unsigned kinds = 1 + below(rng, 40);  // few: ties
      std::vector<std::uint32_t> rank;
      std::vector<float> count;
      float all = 0;
      for (int j = 0; j < n; ++j) {
        rank.push_back(below(rng, kinds) * (below(rng, 2) == 0 ? 1 : 100000));
        count.push_back(static_cast<float>(1 + rng() % 20));
        all += count.back();
      }
      const auto limit = static_cast<float>(rng() % static_cast<unsigned>(all + 10));
      const std::vector<std::uint32_t> before = rank;
      const std::uint32_t t = k->threshold(rank.data(), count.data(), n, limit);
      ASSERT_GT(t, 0u);
      float above = 0, from_below = 0, kept = 0;
      for (std::size_t j = 0; j < rank.size(); ++j) {
        above += before[j] >= t ? count[j] : 0;
        from_below += before[j] + 1 >= t ? count[j] : 0;
        kept += rank[j] >= t ? count[j] : 0;
        EXPECT_TRUE(rank[j] == before[j] || (before[j] + 1 == t && rank[j] == t));
      }
      EXPECT_LE(above, limit);
      EXPECT_LE(kept, limit);
      if (t > 1) {
        EXPECT_GT(from_below, limit) << "a lower threshold would fit";
      }
      float left = limit - above;  // ties: the first that fit
      for (std::size_t j = 0; j < rank.size(); ++j) {
        if (before[j] + 1 != t) continue;
        EXPECT_EQ(rank[j] == t, count[j] <= left) << name_of(k->isa);
        if (rank[j] == t) left -= count[j];
      }
    }
  }
}

TEST(RoutingKernels, PartitionKeepsTheOrder) {
  for (const tile::RowKernels* k : tile::all_row_kernels()) {
    std::mt19937 rng(3);
    for (int n = 0; n < 70; ++n) {
      std::vector<std::int32_t> node, kept(static_cast<std::size_t>(n) + 16),
          others(static_cast<std::size_t>(n) + 16), want_kept, want_others;
      std::vector<std::uint32_t> rank;
      std::vector<float> share;
      for (int j = 0; j < n; ++j) {
        node.push_back(j * 3);
        rank.push_back(below(rng, 9));
        share.push_back(static_cast<float>(rng() % 5) / 4);
        if (rank.back() >= 5)
          want_kept.push_back(j * 3);
        else if (share.back() > 0.5f)
          want_others.push_back(j * 3);
      }
      int n_kept = 0, n_others = 0;
      k->partition(node.data(), rank.data(), share.data(), n, 5, 0.5f, kept.data(), &n_kept,
                   others.data(), &n_others);
      kept.resize(static_cast<std::size_t>(n_kept));
      others.resize(static_cast<std::size_t>(n_others));
      EXPECT_EQ(kept, want_kept);
      EXPECT_EQ(others, want_others);
    }
  }
}

}  // namespace
}  // namespace prescore::test
