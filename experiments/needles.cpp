#include "needles.h"

#include <fmt/format.h>

#include <algorithm>
#include <random>
#include <set>

namespace prescore::experiments {
namespace {

constexpr const char* kSyllables[] = {"ba",  "den", "fi",   "gor", "hu",   "kel", "la",
                                      "mi",  "nor", "pu",   "ra",  "sel",  "ti",  "vo",
                                      "wen", "zu",  "char", "bri", "stan", "mol"};

class Generator {
 public:
  explicit Generator(std::uint64_t seed) : random_(seed) {}

  std::int64_t below(std::int64_t n) {
    return static_cast<std::int64_t>(random_() % static_cast<std::uint64_t>(n));
  }
  template <std::size_t n>
  std::string one_of(const char* const (&list)[n]) {
    return list[below(static_cast<std::int64_t>(n))];
  }
  std::string number() { return fmt::format("{}", 1000000 + below(9000000)); }
  /// A word that was not given before: three syllables, and when all of these are given, pairs of
  /// them joined by letters that are in none, so that no word of three is part of a longer one. No
  /// syllable begins another: each choice of syllables is a word of its own.
  std::string word() {
    std::string w;
    do {
      w = syllables(pairs_ == 0 ? 3 : 2);
      for (int i = 1; i < pairs_; ++i) w += "qu" + syllables(2);
    } while (!words_.insert(w).second);
    if (--left_ == 0) {
      pairs_ = std::max(2, pairs_ + 1), left_ = 1;
      for (int i = 0; i < pairs_; ++i) left_ *= 20 * 20;
    }
    return w;
  }
  std::string name() {
    std::string v;
    do {
      v.clear();
      for (int i = 0; i < 5; ++i) v += static_cast<char>('A' + below(26));
    } while (!words_.insert(v).second);
    return v;
  }
  std::string sentence() {
    static constexpr const char* kWho[] = {
        "The gardener",         "A young teacher",    "The old captain", "My neighbour",
        "The baker's daughter", "A travelling clerk", "The librarian",   "Our cousin"};
    static constexpr const char* kDid[] = {
        "walked to",          "wrote a letter about", "remembered", "painted",
        "spoke at length of", "came back from",       "dreamt of",  "sold"};
    static constexpr const char* kWhat[] = {
        "the harbour",     "a small red house", "the winter market", "an orchard",
        "the long bridge", "the clock tower",   "a quiet valley",    "the northern road"};
    static constexpr const char* kWhen[] = {
        "before the rain began",        "on a bright morning",
        "while the others slept",       "after supper",
        "for the third time that year", "without a word",
        "in the first days of autumn",  "as the lamps were lit"};
    // Drawn from the last to the first, as syllables are.
    const std::string when = one_of(kWhen), what = one_of(kWhat), did = one_of(kDid);
    return one_of(kWho) + " " + did + " " + what + " " + when + ".";
  }
  /// Puts `lines` into sentences at places spread evenly, or the first at `depth`.
  std::string haystack(std::int64_t size, std::vector<std::string> lines, double depth,
                       bool first) {
    std::vector<std::pair<std::int64_t, std::string>> at;
    for (std::size_t i = 0; i < lines.size(); ++i) {
      const bool fixed = first && i == 0;
      at.emplace_back(
          fixed ? static_cast<std::int64_t>(depth * static_cast<double>(size)) : below(size + 1),
          lines[i]);
    }
    std::stable_sort(at.begin(), at.end(), [](auto& a, auto& b) { return a.first < b.first; });
    std::string text;
    std::size_t next = 0;
    for (std::int64_t i = 0; i <= size; ++i) {
      while (next < at.size() && at[next].first <= i) text += at[next++].second + " ";
      if (i < size) text += sentence() + " ";
    }
    return text;
  }

 private:
  // From the last to the first, as in the rows that are published.
  std::string syllables(int n) {
    std::string s;
    while (n-- > 0) s = one_of(kSyllables) + s;
    return s;
  }

  std::mt19937_64 random_;
  std::set<std::string> words_;
  int pairs_ = 0;                     // of a word; 0: three syllables
  std::int64_t left_ = 20 * 20 * 20;  // words of so many that were not given
};

std::string needle(const std::string& key, const std::string& value) {
  return fmt::format("One of the special magic numbers for {} is: {}.", key, value);
}

std::string joined(const std::vector<std::string>& words, const char* between) {
  std::string text;
  for (const std::string& w : words) text += (text.empty() ? "" : between) + w;
  return text;
}

constexpr char kMemorize[] =
    "Some special magic numbers are hidden within the following text. Make sure to memorize them. "
    "I will quiz you about the numbers afterwards.\n";

Task numbers(Needle kind, Generator& g, std::int64_t size, double depth) {
  Task t;
  std::vector<std::string> lines, keys;
  const int n_keys = kind == Needle::kMultiKey ? 16 : kind == Needle::kMultiQuery ? 4 : 1;
  const int values = kind == Needle::kMultiValue ? 4 : 1;
  for (int i = 0; i < n_keys; ++i) {
    keys.push_back(g.word());
    for (int j = 0; j < values; ++j) {
      const std::string value = g.number();
      lines.push_back(needle(keys.back(), value));
      if (i == 0 || kind == Needle::kMultiQuery) t.answers.push_back(value);
    }
  }
  if (kind != Needle::kMultiQuery) keys.resize(1);
  const bool one = t.answers.size() == 1;
  t.context = kMemorize + g.haystack(size, lines, depth, one);
  t.question = fmt::format(
      "\nWhat {0} for {1} mentioned in the provided text? The special magic number{2} for {1} "
      "mentioned in the provided text {3}:",
      one ? "is the special magic number" : "are all the special magic numbers", joined(keys, ", "),
      one ? "" : "s", one ? "is" : "are");
  return t;
}

// VAR A = 123, VAR B = VAR A, ...: in this order, so that reading once is enough.
Task variables(Generator& g, std::int64_t size) {
  Task t;
  const std::string value = g.number().substr(0, 5);
  std::vector<std::int64_t> places;
  for (int i = 0; i < 5; ++i) places.push_back(g.below(size));
  std::sort(places.begin(), places.end());
  std::vector<std::string> lines;
  for (int i = 0; i < 5; ++i) {
    t.answers.push_back(g.name());
    lines.push_back(i == 0 ? fmt::format("VAR {} = {}", t.answers[0], value)
                           : fmt::format("VAR {} = VAR {}", t.answers[static_cast<std::size_t>(i)],
                                         t.answers[static_cast<std::size_t>(i - 1)]));
  }
  t.context =
      "Memorize and track the chain of variable assignments hidden in the following text.\n";
  std::size_t next = 0;
  for (std::int64_t i = 0; i < size; ++i) {
    while (next < lines.size() && places[next] <= i) t.context += lines[next++] + ". ";
    t.context += g.sentence() + " ";
  }
  t.question = fmt::format(
      "\nFind all variables that are assigned the value {} in the text above. There are 5 "
      "variables "
      "that are assigned the value {}, they are:",
      value, value);
  return t;
}

Task common_words(Generator& g, std::int64_t size) {
  Task t;
  std::vector<std::string> list;
  const std::int64_t often = std::max<std::int64_t>(3, size / 20), seldom = 3;
  for (int i = 0; i < 10; ++i) {
    t.answers.push_back(g.word());
    for (std::int64_t j = 0; j < often; ++j) list.push_back(t.answers.back());
  }
  while (static_cast<std::int64_t>(list.size()) < size) {
    const std::string w = g.word();
    for (std::int64_t j = 0; j < std::min(seldom, often - 1); ++j) list.push_back(w);
  }
  for (std::size_t i = list.size(); i > 1; --i)
    std::swap(list[i - 1], list[static_cast<std::size_t>(g.below(static_cast<std::int64_t>(i)))]);
  t.context =
      "Below is a numbered list of words. In these words, some appear more often than others. "
      "Memorize the ones that appear most often.\n";
  for (std::size_t i = 0; i < list.size(); ++i) t.context += fmt::format("{}. {} ", i + 1, list[i]);
  t.question =
      "\nWhat are the 10 most common words in the above list? The top 10 words that appear most "
      "often in the list are:";
  return t;
}

// The k-th most frequent word comes in proportion to k^-2.
Task frequent_words(Generator& g, std::int64_t size) {
  Task t;
  std::vector<std::string> list;
  double share = 0.6;
  for (int k = 1; static_cast<std::int64_t>(list.size()) < size; ++k, share = 0.6 / (k * k)) {
    const std::string w = g.word();
    if (k <= 3) t.answers.push_back(w);
    const auto count =
        std::max<std::int64_t>(1, static_cast<std::int64_t>(share * static_cast<double>(size)));
    for (std::int64_t j = 0; j < count && static_cast<std::int64_t>(list.size()) < size; ++j)
      list.push_back(w);
  }
  for (std::size_t i = list.size(); i > 1; --i)
    std::swap(list[i - 1], list[static_cast<std::size_t>(g.below(static_cast<std::int64_t>(i)))]);
  t.context =
      "Read the following coded text and track the frequency of each coded word. Find the three "
      "most frequently appeared coded words.\n" +
      joined(list, " ");
  t.question =
      "\nWhat are the three most frequently appeared words in the above coded text? The three most "
      "frequently appeared words are:";
  return t;
}

}  // namespace

std::string name_of(Needle kind) {
  static constexpr const char* kNames[] = {"single",        "multi-key", "multi-value",
                                           "multi-query",   "variables", "common words",
                                           "frequent words"};
  return kNames[static_cast<int>(kind)];
}

std::string Task::answer() const { return fmt::format(" {}", joined(answers, ", ")); }

Task make_task(Needle kind, std::uint64_t seed, std::int64_t size, double depth) {
  Generator g(seed * 31 + static_cast<std::uint64_t>(kind));
  switch (kind) {
    case Needle::kVariable: return variables(g, size);
    case Needle::kCommonWords: return common_words(g, size);
    case Needle::kFrequentWords: return frequent_words(g, size);
    default: return numbers(kind, g, size, depth);
  }
}

}  // namespace prescore::experiments
