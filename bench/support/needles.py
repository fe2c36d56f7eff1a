"""What to hide in a text and to ask for at its end, without a model.

`make_task`: the kinds of RULER (2404.06654) that `prescore experiment retrieval` has, the same tasks from the same seed.
`fit`: such a task in tokens, as large as a length allows. `texts`: seven-digit numbers to hide in any text.
"""
import bisect
import dataclasses

NAMES = ("harbour", "lantern", "orchard", "meadow", "compass", "anchor", "violin", "copper")
# In the order of experiments/needles.h: a seed's tasks depend on it.
KINDS = ("single", "multi-key", "multi-value", "multi-query", "variables", "common words", "frequent words")
SYLLABLES = "ba den fi gor hu kel la mi nor pu ra sel ti vo wen zu char bri stan mol".split()
WHO = ("The gardener", "A young teacher", "The old captain", "My neighbour", "The baker's daughter",
       "A travelling clerk", "The librarian", "Our cousin")
DID = ("walked to", "wrote a letter about", "remembered", "painted", "spoke at length of", "came back from", "dreamt of",
       "sold")
WHAT = ("the harbour", "a small red house", "the winter market", "an orchard", "the long bridge", "the clock tower",
        "a quiet valley", "the northern road")
WHEN = ("before the rain began", "on a bright morning", "while the others slept", "after supper",
        "for the third time that year", "without a word", "in the first days of autumn", "as the lamps were lit")


def texts(i):
    """Number i: the sentence that is hidden, the question and its answer."""
    name, number = f"{NAMES[i % len(NAMES)]} {i}", str(1234567 + 7654321 * (i + 1))[-7:]
    return (f"\nThe special magic number for {name} is {number}.\n",
            f"\nWhat is the special magic number for {name} mentioned in the text? The special magic number for {name} is",
            f" {number}")


@dataclasses.dataclass
class Task:
    context: str  #: the text that holds the answers
    question: str  #: follows it; ends where the answer begins
    answers: list  #: all must be given

    def answer(self):
        """As the model should write it."""
        return " " + ", ".join(self.answers)

    def given(self, text):
        """Share of the answers that a text holds."""
        return sum(answer in text for answer in self.answers) / len(self.answers)


@dataclasses.dataclass
class Prompt:
    """A task in tokens: lists of them, to be read one after the other."""
    task: Task
    context: list
    question: list
    answer: list


def fit(encode, kind, seed, depth, length):
    """The task whose tokens, answer included, nearly fill `length`; encode: a text's tokens as a list."""
    size, best, most = length // 4, None, 0
    for _ in range(8):  # tokens are nearly in proportion to sizes
        if size < 8:
            break
        task = make_task(kind, seed, size, depth)
        prompt = Prompt(task, *map(encode, (task.context, task.question, task.answer())))
        total = len(prompt.context) + len(prompt.question) + len(prompt.answer)
        if most < total <= length - 16:  # some room for answers that are longer
            best, most = prompt, total
        if 0.98 * length <= total <= length - 16:
            break
        size = size * (length - 32) // total
    if best:
        return best
    raise ValueError(f"[needles] length, got {length}, want more tokens for a task of {kind}")


def make_task(kind, seed, size, depth=0.5):
    """size: sentences or words of the context; depth, 0 to 1: where in it the needle of single and multi-key lies."""
    if kind not in KINDS:
        raise ValueError(f"[needles] kind, got {kind!r}, want one of {', '.join(KINDS)}")
    draw = Generator(seed * 31 + KINDS.index(kind))
    special = {"variables": _variables, "common words": _common_words, "frequent words": _frequent_words}
    return special[kind](draw, size) if kind in special else _numbers(kind, draw, size, depth)


class Generator:
    """Draws as experiments/needles.cpp does."""

    def __init__(self, seed):
        self.random, self.given = _Mt64(seed), set()
        self.pairs, self.left = 0, 20 ** 3  # of a word, 0: three syllables; words of so many that were not given

    def below(self, n):
        return self.random.next() % n

    def one_of(self, values):
        return values[self.below(len(values))]

    def number(self):
        return str(1000000 + self.below(9000000))

    def word(self):
        """One not given before: three syllables, then pairs of them joined by letters that are in none."""
        while True:
            w = self._syllables(2 if self.pairs else 3) + "".join("qu" + self._syllables(2) for _ in range(1, self.pairs))
            if w not in self.given:
                break
        self.given.add(w)
        self.left -= 1
        if self.left == 0:
            self.pairs = max(2, self.pairs + 1)
            self.left = 400 ** self.pairs
        return w

    def name(self):
        while True:
            v = "".join(chr(ord("A") + self.below(26)) for _ in range(5))
            if v not in self.given:
                self.given.add(v)
                return v

    def sentence(self):
        when, what, did = self.one_of(WHEN), self.one_of(WHAT), self.one_of(DID)  # from the last to the first
        return f"{self.one_of(WHO)} {did} {what} {when}."

    def shuffle(self, values):
        for i in range(len(values), 1, -1):
            j = self.below(i)
            values[i - 1], values[j] = values[j], values[i - 1]

    def _syllables(self, n):
        s = ""
        for _ in range(n):
            s = self.one_of(SYLLABLES) + s
        return s


def _hidden(draw, size, lines, places):
    """Sentences with lines[i] before number places[i], which ascend."""
    parts, next_line = [], 0
    for i in range(size + 1):
        upto = bisect.bisect_right(places, i)
        parts += lines[next_line:upto]
        next_line = max(next_line, upto)
        if i < size:
            parts.append(draw.sentence())
    return " ".join(parts) + " "


def _numbers(kind, draw, size, depth):
    n_keys = {"multi-key": 16, "multi-query": 4}.get(kind, 1)
    lines, keys, answers = [], [], []
    for i in range(n_keys):
        keys.append(draw.word())
        for _ in range(4 if kind == "multi-value" else 1):
            value = draw.number()
            lines.append(f"One of the special magic numbers for {keys[-1]} is: {value}.")
            if i == 0 or kind == "multi-query":
                answers.append(value)
    one = len(answers) == 1
    places = [int(depth * size) if one and i == 0 else draw.below(size + 1) for i in range(len(lines))]
    order = sorted(range(len(lines)), key=lambda i: places[i])
    context = ("Some special magic numbers are hidden within the following text. Make sure to memorize them. I will quiz you "
               "about the numbers afterwards.\n" + _hidden(draw, size, [lines[i] for i in order], sorted(places)))
    asked = ", ".join(keys if kind == "multi-query" else keys[:1])
    what = "is the special magic number" if one else "are all the special magic numbers"
    question = (f"\nWhat {what} for {asked} mentioned in the provided text? The special magic number{'' if one else 's'} for "
                f"{asked} mentioned in the provided text {'is' if one else 'are'}:")
    return Task(context, question, answers)


def _variables(draw, size):
    value = draw.number()[:5]
    places = sorted(draw.below(size) for _ in range(5))
    names = [draw.name() for _ in range(5)]
    lines = [f"VAR {name} = {'VAR ' + names[i - 1] if i else value}." for i, name in enumerate(names)]
    context = "Memorize and track the chain of variable assignments hidden in the following text.\n"
    question = (f"\nFind all variables that are assigned the value {value} in the text above. There are 5 variables that are "
                f"assigned the value {value}, they are:")
    return Task(context + _hidden(draw, size, lines, places), question, names)


def _common_words(draw, size):
    often, words, answers = max(3, size // 20), [], []
    for _ in range(10):
        answers.append(draw.word())
        words += [answers[-1]] * often
    while len(words) < size:
        words += [draw.word()] * min(3, often - 1)
    draw.shuffle(words)
    context = ("Below is a numbered list of words. In these words, some appear more often than others. Memorize the ones that "
               "appear most often.\n" + "".join(f"{i + 1}. {word} " for i, word in enumerate(words)))
    return Task(context, "\nWhat are the 10 most common words in the above list? The top 10 words that appear most often in the "
                "list are:", answers)


def _frequent_words(draw, size):
    """The k-th most frequent word comes in proportion to k^-2."""
    words, answers, k = [], [], 1
    while len(words) < size:
        word = draw.word()
        if k <= 3:
            answers.append(word)
        words += [word] * min(max(1, int(0.6 / (k * k) * size)), size - len(words))
        k += 1
    draw.shuffle(words)
    context = ("Read the following coded text and track the frequency of each coded word. Find the three most frequently appeared "
               "coded words.\n" + " ".join(words))
    return Task(context, "\nWhat are the three most frequently appeared words in the above coded text? The three most frequently "
                "appeared words are:", answers)


class _Mt64:
    """std::mt19937_64."""

    def __init__(self, seed):
        mask = (1 << 64) - 1
        self.state, self.at = [seed & mask], 312
        for i in range(1, 312):
            last = self.state[-1]
            self.state.append((6364136223846793005 * (last ^ (last >> 62)) + i) & mask)

    def next(self):
        s = self.state
        if self.at == 312:
            for i in range(312):
                x = (s[i] & 0xFFFFFFFF80000000) | (s[(i + 1) % 312] & 0x7FFFFFFF)
                s[i] = s[(i + 156) % 312] ^ (x >> 1) ^ (0xB5026F5AA96619E9 if x & 1 else 0)
            self.at = 0
        y = s[self.at]
        self.at += 1
        y ^= (y >> 29) & 0x5555555555555555
        y ^= (y << 17) & 0x71D67FFFEDA60000
        y ^= (y << 37) & 0xFFF7EEE000000000
        return y ^ (y >> 43)
