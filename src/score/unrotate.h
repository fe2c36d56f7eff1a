// Takes the rotation by position (RoPE, 2104.09864) off keys that come in the order of positions.
#pragma once

#include <cmath>
#include <cstdint>
#include <numbers>
#include <vector>

#include "prescore/score.h"

namespace prescore {

class Unrotate {
 public:
  explicit Unrotate(const Rotation& r) : rotation_(r), pairs_(r.dims / 2) {
    for (std::int64_t i = 0; i < pairs_; ++i) {
      const double step = angle(i, 1);
      turn_.push_back({1, 0}), step_.push_back({std::cos(step), std::sin(step)});
    }
  }

  /// Turns one row back. Angles are computed anew at multiples of kAnew and stepped between them,
  /// so that a key has the same bits wherever a range from such a multiple begins.
  void operator()(std::int64_t position, float* row) {
    if (pairs_ == 0) return;
    const bool anew = position % kAnew == 0 || position != next_;
    next_ = position + 1;
    const std::int64_t stride = rotation_.interleaved ? 1 : pairs_;
    for (std::int64_t i = 0; i < pairs_; ++i) {
      Turn& t = turn_[static_cast<std::size_t>(i)];
      if (anew)
        t = {std::cos(angle(i, position)), std::sin(angle(i, position))};
      else
        t = times(t, step_[static_cast<std::size_t>(i)]);
      float* x = row + (rotation_.interleaved ? 2 * i : i);
      const double a = double{x[0]}, b = double{x[stride]};
      x[0] = static_cast<float>(a * t.cos + b * t.sin);
      x[stride] = static_cast<float>(b * t.cos - a * t.sin);
    }
  }

 private:
  static constexpr std::int64_t kAnew = 64;
  struct Turn {
    double cos, sin;
  };
  static Turn times(const Turn& a, const Turn& b) {
    return {a.cos * b.cos - a.sin * b.sin, a.sin * b.cos + a.cos * b.sin};
  }
  double angle(std::int64_t pair, std::int64_t position) const {
    return static_cast<double>(position) * rotation_.position_scale *
           std::pow(rotation_.base,
                    -2 * static_cast<double>(pair) / static_cast<double>(rotation_.dims));
  }

  Rotation rotation_;
  std::int64_t pairs_, next_ = -1;
  std::vector<Turn> turn_, step_;
};

}  // namespace prescore
