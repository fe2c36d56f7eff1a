// Retrieval tasks after RULER (2404.06654), made from a seed.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace prescore::experiments {

enum class Needle : std::uint8_t {
  kSingle,         ///< one number, asked for by its key
  kMultiKey,       ///< one of many numbers, asked for by its key
  kMultiValue,     ///< all numbers of one key
  kMultiQuery,     ///< numbers of several keys
  kVariable,       ///< all variables that hold a value, through a chain of assignments
  kCommonWords,    ///< the ten words of a list that come most often
  kFrequentWords,  ///< the three most frequent words of a text with a Zipf distribution
};

inline constexpr Needle kNeedles[] = {
    Needle::kSingle,   Needle::kMultiKey,    Needle::kMultiValue,   Needle::kMultiQuery,
    Needle::kVariable, Needle::kCommonWords, Needle::kFrequentWords};
std::string name_of(Needle);

struct Task {
  std::string context;               ///< the text that holds the answers
  std::string question;              ///< follows it; ends where the answer begins
  std::vector<std::string> answers;  ///< all must be given
  std::string answer() const;        ///< as the model should write it
};

/// `size`: sentences or words of the context. `depth` from 0 to 1: where in it the needle of
/// kSingle and kMultiKey lies; the others are spread. Same arguments: same task.
Task make_task(Needle kind, std::uint64_t seed, std::int64_t size, double depth);

}  // namespace prescore::experiments
