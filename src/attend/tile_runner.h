// Attention of one tile: lanes x gathered blocks of keys, online softmax.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/views.h"
#include "index/index_impl.h"
#include "prescore/attend.h"
#include "tile/tile.h"

namespace prescore {

/// Shapes, dtypes and sizes that go together. Throw Error.
void check_qkv(const Tensor& q, const Tensor& k, const Tensor& v);
void check_attend_inputs(const AttendInputs& in);
void check_attend_inputs(const AttendInputs& in, const State& out);

/// Scratch of one worker; memory O(lanes x d + block x d).
class TileRunner {
 public:
  TileRunner(const AttendInputs& in, const State& out, const tile::Kernels& kernels);

  /// Executes `plan` for the queries and heads of a tile (all of one group, so that they share
  /// keys), or for its lanes, and writes o and lse. Of parts after the first the softmax goes on
  /// from the o (f32) and lse that are there.
  void run(const Tile& tile, const TilePlan& plan);

  /// The same of any lanes of the group, to o [lanes][d_v] and lse [lanes].
  void run_lanes(std::int64_t batch, std::span<const Lane> lanes, const TilePlan& plan, float* o,
                 float* lse);

  /// Keys that the lanes of a tile read under a plan, and those visible to them.
  static void count(const Visibility& v, const Tile& tile, const TilePlan& plan,
                    Counters& counters);

  static std::int64_t bytes(std::int64_t lanes, std::int64_t d, std::int64_t d_v);

 private:
  void start(const Tile& tile);
  void load_lanes();
  void feed(const Tile& tile, const TilePlan& plan);
  void push(const void* k, const void* v, std::int32_t position, float weight);
  void resume();
  void add_zero_rows(float count);
  void flush();
  void flush_tiles(int n);
  void flush_rows(int n);
  void fill_bias(int n, int n_pad, int first_vec, int vecs);
  void finish(const Tile& tile);
  /// o [d_v] and lse of a lane.
  float finish_lane(std::int64_t lane, float* o) const;

  const AttendInputs& in_;
  const State& out_;
  const tile::Kernels& kernels_;
  const tile::RowKernels& rows_;
  std::int64_t d_, d_v_;
  int d_pad_, dv_pad_, block_;
  float scale_;            // scores to base-2 exponents
  float sign_;             // of the scale, moved into Q so that the maximum is a maximum
  int k_lines_, v_lines_;  // cache lines of a row

  std::vector<Lane> lanes_;
  bool by_rows_ = false;
  int vecs_ = 0;
  std::int64_t batch_ = 0;
  std::vector<const void*> q_row_;  // a lane
  Buffer<float> query_, score_, o_, bias_, row_o_;
  Buffer<std::byte> packed_q_, k_block_, v_block_, p_block_;
  Buffer<tile::LaneState> state_;
  Buffer<std::int32_t> lane_end_;

  int n_ = 0;  // keys in the block so far
  const void* k_row_[tile::kMaxBlock];
  const void* v_row_[tile::kMaxBlock];
  std::int32_t position_[tile::kMaxBlock];
  float weight_[tile::kMaxBlock];
  bool weighted_ = false;
};

}  // namespace prescore
