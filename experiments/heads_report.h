// What the experiment heads says: the damage of single heads beside what might predict it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <vector>

namespace prescore::experiments {

/// One number a head, [layers, heads]; NaN where it was not measured.
struct HeadValues {
  std::string name;
  std::vector<double> values, errors;  ///< errors: one standard error each, or empty

  HeadValues(std::string name_, std::size_t heads, bool with_errors = false)
      : name(std::move(name_)), values(heads, std::numeric_limits<double>::quiet_NaN()),
        errors(with_errors ? values : std::vector<double>{}) {}
};

struct HeadRows {
  std::int64_t layers = 0, heads = 0;  ///< of the model
  std::vector<HeadValues> predictors, damages;

  std::string name(std::size_t head) const;
};

/// Mean of paired differences and its standard error.
struct Difference {
  double mean = 0, error = 0;
};
/// Of a - b; both of one size, at least 2.
Difference difference(std::span<const double> a, std::span<const double> b);

/// Rank correlation (Spearman) over the heads for which both are finite; equal values share the
/// mean of their ranks. NaN below three heads, or where one of both is constant.
double spearman(std::span<const double> a, std::span<const double> b);

/// How many of the heads for which both are finite are among the `share` of them that are highest
/// in a and in b, at least one.
struct Overlap {
  std::size_t both = 0, of = 0;
};
Overlap worst_overlap(std::span<const double> a, std::span<const double> b, double share);

/// The heads that lose most by any damage, `most` of them, with everything that is known of them.
std::string worst_heads(const HeadRows&, std::size_t most);
/// Each predictor against each damage: rank correlation, and overlap of the worst 2 %.
std::string agreement(const HeadRows&);
/// Maps of layers by heads: damages, then copying scores.
std::string heads_picture(const std::string& title, const HeadRows&);

}  // namespace prescore::experiments
