// Inputs that look like those of a language model's attention, and Gaussian ones.
//
// A made-up text runs through 64 topics: each run of about 50 tokens has one topic, topics are
// drawn with Zipf weights and drift from run to run, and every token is one of 2,048 words, Zipf
// again.
//   key    = 0.8 topic centre + 0.6 word + 0.5 noise, without its part along a direction u, and
//   then
//            RoPE by position on the first half of the channels (base 10,000);
//   sinks  = the first 16 keys: 4 sqrt(d) u, four times the norm of the others;
//   query  = the content of one earlier key + 0.5 noise, times `sharpness`, + `sink_pull` u, RoPE
//   by
//            its own position. The key is the one after its predecessor's (probability 0.7:
//            passages are read on), else one of the same topic (0.7) or any (0.3), distances
//            log-uniform;
//   value  = 0.7 topic value + 0.7 noise.
// `sharpness` is set so that at 8,192 keys the best 4 % of the keys of a query hold 85 % of its
// attention outside the sinks, `sink_pull` so that the sinks hold a quarter of all. u lies in the
// channels without RoPE. Every head has its own centres, words and targets; the same seed gives the
// same first n tokens at every length.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "prescore/executor.h"
#include "prescore/types.h"

namespace bench {

struct Shape {
  std::int64_t n = 0, h_q = 14, h_kv = 2, d = 64;
  prescore::DType dtype = prescore::DType::kF16;
};

/// How attention is spread over the keys, a mean over sampled queries of the last quarter.
struct Spread {
  double sinks = 0;     ///< share of the first 16 keys
  double best_1pc = 0;  ///< share of the best 1 % of the keys, of what is outside the sinks
  double best_4pc = 0;
};

/// Q [1, h_q, n, d], K and V [1, h_kv, n, d], owned.
class Data {
 public:
  static Data topics(const Shape& shape, prescore::Executor& executor, std::uint64_t seed = 1);
  static Data gaussian(const Shape& shape, prescore::Executor& executor, std::uint64_t seed = 1);

  prescore::Tensor q() const { return view(q_, shape_.h_q); }
  prescore::Tensor k() const { return view(k_, shape_.h_kv); }
  prescore::Tensor v() const { return view(v_, shape_.h_kv); }
  const Shape& shape() const { return shape_; }
  Spread spread() const;

 private:
  explicit Data(const Shape& shape);
  prescore::Tensor view(const std::vector<std::byte>& bytes, std::int64_t heads) const {
    return prescore::Tensor::contiguous(bytes.data(), shape_.dtype, 1, heads, shape_.n, shape_.d);
  }
  Shape shape_;
  std::vector<std::byte> q_, k_, v_;
};

/// Queries at chosen positions, gathered: what a slice of a long prompt reads.
struct Slice {
  std::vector<std::int32_t> positions;
  std::vector<std::byte> bytes;
  prescore::Tensor q;
};
/// `parts` stretches of `length` queries, one in the middle of each equal part of the sequence.
Slice take_slice(const Data& data, std::int64_t parts, std::int64_t length);

}  // namespace bench
