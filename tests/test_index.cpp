// The index: a partition of the keys, good clusters, appendable, honest about rewritten caches.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>

#include "support/cases.h"

namespace prescore::test {
namespace {

constexpr DType kTypes[] = {DType::kF32, DType::kF16, DType::kBF16};

KeyIndex built(const Data& data, const IndexOptions& o) {
  KeyIndex index(o);
  index.extend(data.k.view(), data.v.view(), *make_serial_executor());
  return index;
}

Case cache(std::int64_t n, std::int64_t d, DType type) {
  Case c;
  c.b = 2, c.h_q = c.h_kv = 2, c.n_kv = n, c.d = d, c.d_v = d + 3, c.kv_type = type;
  c.order = Order::kTokens;
  return c;
}

// Everything that an index says about its nodes, as text of numbers to compare.
std::vector<std::vector<std::int64_t>> shape_of(const KeyIndex& index) {
  std::vector<std::vector<std::int64_t>> all;
  if (index.size() == 0) return all;
  const auto [b_, h_, nodes, d] = index.node_keys().shape;
  for (std::int64_t b = 0; b < b_; ++b) {
    for (std::int64_t h = 0; h < h_; ++h) {
      for (std::int64_t node = 0; node < nodes; ++node) {
        const auto members = index.members(b, h, node);
        std::vector<std::int64_t> row(members.begin(), members.end());
        const auto [first, last] = index.children(b, h, node);
        row.insert(row.end(), {index.count(b, h, node), first, last});
        all.push_back(row);
      }
    }
  }
  return all;
}
bool same_rows(const Tensor& a, const Tensor& b) {
  return a.shape == b.shape && reference::load(a).data == reference::load(b).data;
}

// Cluster of each key of a segment; the sinks have none.
std::vector<std::int64_t> clusters_of(const KeyIndex& index, std::int64_t b, std::int64_t h,
                                      std::int64_t segment) {
  std::vector<std::int64_t> cluster(static_cast<std::size_t>(index.options().segment), -1);
  for (std::int64_t c = 0; c < index.nodes_per_segment(0); ++c) {
    for (const std::uint16_t j : index.members(b, h, segment * index.nodes_per_segment() + c)) {
      cluster[j] = c;
    }
  }
  return cluster;
}

double objective(const Data& data, const KeyIndex& index, std::int64_t segment) {
  const reference::Array keys = reference::load(data.k.view());
  const std::vector<std::int64_t> cluster = clusters_of(index, 0, 0, segment);
  std::vector<double> points;
  std::vector<std::int64_t> label;
  for (std::size_t j = 0; j < cluster.size(); ++j) {
    if (cluster[j] < 0) continue;
    const double* row =
        keys.row(0, 0, segment * index.options().segment + static_cast<std::int64_t>(j));
    points.insert(points.end(), row, row + data.shape.d);
    label.push_back(cluster[j]);
  }
  return reference::kmeans_objective(points, data.shape.d, label);
}

TEST(Index, EveryLevelIsAPartitionWithItsMeans) {
  for (const DType type : kTypes) {
    for (const auto& [segment, cluster, group, sinks] :
         {std::array<std::int64_t, 4>{512, 8, 64, 16},
          {64, 4, 16, 4},
          {48, 5, 11, 0},
          {16, 1, 1, 16},
          {32, 32, 32, 3},
          {100, 3, 100, 1}}) {
      IndexOptions o;
      o.segment = segment, o.cluster = cluster, o.group = group, o.sinks = sinks;
      const Data data(cache(3 * segment + 7, 19, type));
      const KeyIndex index = built(data, o);
      ASSERT_EQ(index.size(), 3 * segment);
      const reference::Array keys = reference::load(data.k.view());
      const reference::Array values = reference::load(data.v.view());
      const reference::Array node_k = reference::load(index.node_keys());
      const reference::Array node_v = reference::load(index.node_values());
      const double unit = type == DType::kF32 ? 0x1p-20 : type == DType::kF16 ? 0x1p-9 : 0x1p-7;
      for (std::int64_t bh = 0; bh < 4; ++bh) {
        const std::int64_t b = bh / 2, h = bh % 2;
        EXPECT_EQ(static_cast<std::int64_t>(index.counts(b, h).size()),
                  3 * index.nodes_per_segment());
        for (std::int64_t s = 0; s < 3; ++s) {
          for (int level = 0; level < KeyIndex::kLevels; ++level) {
            std::vector<std::int64_t> seen;
            for (std::int64_t i = 0; i < index.nodes_per_segment(level); ++i) {
              const std::int64_t node = s * index.nodes_per_segment() + index.first_node(level) + i;
              const auto members = index.members(b, h, node);
              ASSERT_EQ(index.count(b, h, node), static_cast<std::int32_t>(members.size()));
              ASSERT_EQ(index.counts(b, h)[static_cast<std::size_t>(node)], members.size());
              seen.insert(seen.end(), members.begin(), members.end());
              if (level > 0) {  // the members of a node are those of its children
                const auto [first, last] = index.children(b, h, node);
                std::multiset<std::uint16_t> below;
                for (std::int32_t c = first; c < last; ++c) {
                  const auto m = index.members(b, h, s * index.nodes_per_segment() + c);
                  below.insert(m.begin(), m.end());
                }
                ASSERT_EQ(below, std::multiset<std::uint16_t>(members.begin(), members.end()));
              }
              for (std::int64_t x = 0; x < 22; ++x) {
                double mean_k = 0, mean_v = 0;
                for (const std::uint16_t j : members) {
                  if (x < 19) mean_k += keys.row(b, h, s * segment + j)[x];
                  mean_v += values.row(b, h, s * segment + j)[x];
                }
                const double n = std::max<double>(1, static_cast<double>(members.size()));
                if (x < 19) {
                  ASSERT_NEAR(node_k.row(b, h, node)[x], mean_k / n, 4 * unit);
                }
                ASSERT_NEAR(node_v.row(b, h, node)[x], mean_v / n, 4 * unit);
              }
            }
            std::ranges::sort(seen);
            std::vector<std::int64_t> want;
            for (std::int64_t j = s == 0 ? sinks : 0; j < segment; ++j) want.push_back(j);
            ASSERT_EQ(seen, want) << "level " << level << " segment " << s;
          }
        }
      }
    }
  }
}

TEST(Index, ObjectiveNeverRises) {
  for (const DType type : kTypes) {
    for (const std::int64_t d : {3, 32, 64}) {
      const Data data(cache(1024, d, type));
      double last[2] = {INFINITY, INFINITY};
      for (std::int64_t iterations = 1; iterations <= 6; ++iterations) {
        IndexOptions o;
        o.iterations = iterations;
        const KeyIndex index = built(data, o);
        for (std::int64_t s = 0; s < 2; ++s) {
          const double now = objective(data, index, s);
          // Products in bf16 may prefer the second nearest of two.
          EXPECT_LE(now, last[s] * (1 + (type == DType::kF32 ? 1e-6 : 3e-3)))
              << to_string(type) << " d " << d << " iteration " << iterations;
          last[s] = now;
        }
      }
    }
  }
}

// One blob a cluster, each met by the seeding once: Lloyd must keep them apart.
TEST(Index, SeparatedBlobsAreRecovered) {
  for (const DType type : kTypes) {
    IndexOptions o;
    o.sinks = 0, o.iterations = 3;
    Data data(cache(512, 16, type));
    std::mt19937_64 random(3);
    constexpr std::int64_t kBlobs = 64;
    std::vector<std::int64_t> blob(512);
    for (std::size_t j = 0; j < 512; ++j) {
      blob[j] = std::uniform_int_distribution<std::int64_t>(0, kBlobs - 1)(random);
    }
    for (std::int64_t c = 0; c < kBlobs; ++c) {
      blob[static_cast<std::size_t>(c * 511 / (kBlobs - 1))] = c;
    }
    data.k.fill_normal(random, 0.05);
    for (std::int64_t j = 0; j < 512; ++j) {
      for (std::int64_t bit = 0; bit < 6; ++bit) {  // corners of a cube
        const double corner = ((blob[static_cast<std::size_t>(j)] >> bit) & 1) != 0 ? 4 : -4;
        data.k.set(0, 0, j, bit, data.k.get(0, 0, j, bit) + corner);
      }
    }
    EXPECT_EQ(reference::adjusted_rand(clusters_of(built(data, o), 0, 0, 0), blob), 1.0);
  }
}

TEST(Index, EqualKeysLeaveEmptyClusters) {
  for (const DType type : kTypes) {
    for (const double x : {0.0, 1.5}) {
      Case c = cache(1024, 24, type);
      c.n_q = 1024;
      Data data(c);
      for (std::int64_t bh = 0; bh < 4; ++bh) {
        for (std::int64_t j = 0; j < 1024; ++j) data.k.fill_row(bh / 2, bh % 2, j, x);
      }
      const KeyIndex index = built(data, {});
      std::int64_t keys = 0, empty = 0;
      for (std::int64_t node = 0; node < index.nodes_per_segment(0); ++node) {
        keys += index.count(0, 0, node);
        empty += index.count(0, 0, node) == 0;
      }
      EXPECT_EQ(keys, 512 - 16);
      EXPECT_GT(empty, 0);
      // Empty nodes are never read and nothing is lost: with equal keys stand-ins are exact.
      Options o;
      o.plan.method = Method::kRouted, o.plan.budget = 800, o.plan.standins = StandIns::kNodes;
      attention(data.q.view(), data.k.view(), data.v.view(), data.state(), o);
      const reference::Result want = reference::dense(data.problem());
      for (std::int64_t i = 0; i < 1024; i += 100) {
        EXPECT_NEAR(data.lse.get(1, 1, i, 0), want.lse[static_cast<std::size_t>(3 * 1024 + i)],
                    0.02);
        EXPECT_NEAR(data.o.get(1, 1, i, 5), want.o.row(1, 1, i)[5], 0.02);
      }
    }
  }
}

TEST(Index, OneCallAndManyAreTheSame) {
  for (const DType type : kTypes) {
    for (const bool packed : {false, true}) {
      const Data data(cache(700, 21, type));
      IndexOptions o = small_index();
      o.packed = packed;
      const KeyIndex whole = built(data, o);
      for (std::uint64_t seed = 1; seed <= 5; ++seed) {
        std::mt19937_64 random(seed);
        KeyIndex grown(o);
        for (std::int64_t n = 1; n < 700;
             n += std::uniform_int_distribution<std::int64_t>(0, 150)(random)) {
          grown.extend(data.k.slice(0, n), data.v.slice(0, n), *make_serial_executor());
          ASSERT_EQ(grown.size(), n / 64 * 64);
        }
        grown.extend(data.k.view(), data.v.view(), *make_serial_executor());
        EXPECT_EQ(shape_of(whole), shape_of(grown)) << "seed " << seed;
        EXPECT_TRUE(same_rows(whole.node_keys(), grown.node_keys()));
        EXPECT_TRUE(same_rows(whole.node_values(), grown.node_values()));
      }
    }
  }
}

TEST(IndexThread, SameBitsForAnyNumberOfThreads) {
  const Data data(cache(2048, 33, DType::kF16));
  const KeyIndex one = built(data, {});
  for (const int threads : {2, 7}) {
    KeyIndex index;
    index.extend(data.k.view(), data.v.view(), *make_executor(threads));
    EXPECT_EQ(shape_of(one), shape_of(index));
    EXPECT_TRUE(same_rows(one.node_keys(), index.node_keys()));
    EXPECT_TRUE(same_rows(one.node_values(), index.node_values()));
  }
}

TEST(Index, TruncateAndExtendAgain) {
  Data data(cache(512, 16, DType::kF16));
  KeyIndex index = built(data, small_index());
  const auto before = shape_of(index);
  index.truncate(200);
  EXPECT_EQ(index.size(), 192);
  index.truncate(1000);
  EXPECT_EQ(index.size(), 192);
  index.extend(data.k.view(), data.v.view(), *make_serial_executor());
  EXPECT_EQ(shape_of(index), before);
  index.truncate(0);
  EXPECT_EQ(index.size(), 0);
  index.truncate(-5);
  EXPECT_EQ(index.size(), 0);
}

TEST(Index, ValidateFindsRewrittenCells) {
  for (const DType type : kTypes) {
    for (const std::int64_t d : {1, 2, 16, 64}) {
      for (const std::int64_t cell : {0, 63, 64, 300, 511}) {
        Data data(cache(520, d, type));
        KeyIndex index = built(data, small_index());
        EXPECT_EQ(index.validate(data.k.view()), 512);
        std::mt19937_64 random(5);
        data.k.fill_normal_rows(random, cell, cell + 1);
        EXPECT_EQ(index.validate(data.k.view()), cell / 64 * 64) << "cell " << cell << " d " << d;
        EXPECT_EQ(index.size(), cell / 64 * 64);
        index.extend(data.k.view(), data.v.view(), *make_serial_executor());
        EXPECT_EQ(index.validate(data.k.view()), 512);
        EXPECT_EQ(shape_of(index), shape_of(built(data, small_index())));
      }
    }
  }
}

TEST(Index, ValidateSeesAShiftedOrShorterCache) {
  Data data(cache(512, 32, DType::kF16));
  KeyIndex index = built(data, small_index());
  EXPECT_EQ(index.validate(data.k.slice(0, 300)), 256);
  index = built(data, small_index());
  EXPECT_EQ(index.validate(data.k.slice(1, 512)), 0);  // context shift by one
}

TEST(Index, BadKeysDoNotHangAndStayInTheirHead) {
  for (const DType type : kTypes) {
    for (const double bad : {std::nan(""), HUGE_VAL, -HUGE_VAL}) {
      const Data clean(cache(256, 16, type));
      Data dirty(cache(256, 16, type));
      dirty.k.fill_row(0, 1, 70, bad);
      dirty.v.fill_row(0, 1, 71, bad);
      const KeyIndex a = built(clean, small_index()), b = built(dirty, small_index());
      std::int64_t keys = 0;
      for (std::int64_t node = 0; node < 4 * b.nodes_per_segment(); ++node) {
        if (node % b.nodes_per_segment() < b.nodes_per_segment(0)) keys += b.count(0, 1, node);
        ASSERT_EQ(std::ranges::equal(a.members(1, 1, node), b.members(1, 1, node)), true);
        ASSERT_EQ(std::ranges::equal(a.members(0, 0, node), b.members(0, 0, node)), true);
      }
      EXPECT_EQ(keys, 256 - 4);
    }
  }
}

TEST(Index, BadInputIsAnError) {
  const auto serial = make_serial_executor();
  const auto with = [](auto change) {
    IndexOptions o;
    change(o);
    return o;
  };
  EXPECT_THROW(KeyIndex(with([](auto& o) { o.segment = 0; })), Error);
  EXPECT_THROW(KeyIndex(with([](auto& o) { o.segment = std::int64_t{1} << 40; })), Error);
  EXPECT_THROW(KeyIndex(with([](auto& o) { o.cluster = 0; })), Error);
  EXPECT_THROW(KeyIndex(with([](auto& o) { o.cluster = 1000; })), Error);
  EXPECT_THROW(KeyIndex(with([](auto& o) { o.group = 2; })), Error);
  EXPECT_THROW(KeyIndex(with([](auto& o) { o.iterations = 0; })), Error);
  EXPECT_THROW(KeyIndex(with([](auto& o) { o.sinks = -1; })), Error);
  const Data data(cache(512, 16, DType::kF16)), other(cache(512, 17, DType::kF16));
  const Data wide(cache(512, 16, DType::kF32));
  KeyIndex index = built(data, small_index());
  EXPECT_THROW(index.extend(other.k.view(), other.v.view(), *serial), Error);
  EXPECT_THROW(index.extend(wide.k.view(), wide.v.view(), *serial), Error);
  EXPECT_THROW(index.extend(data.k.slice(0, 100), data.v.slice(0, 100), *serial), Error);
  EXPECT_THROW(index.extend(data.k.view(), data.v.slice(0, 100), *serial), Error);
  EXPECT_THROW(index.extend(Tensor{}, data.v.view(), *serial), Error);
  EXPECT_EQ(index.size(), 512) << "an error leaves the index as it was";
}

}  // namespace
}  // namespace prescore::test
