"""Texts that end with a copy of something far back, as an agent's context does that opens a file again.

    before      other files, for contexts that are longer than planned
    original    the beginning of a file
    between     other files: at least 60 % of the context
    copy        the original with two or three identifiers renamed ("edit"); or the changes as a diff, and
                the original with them applied ("re-read")

The text ends with the copy, so that the last tokens of a context that is taken from its end (`ppl --from-end`) are the
copy's. For a context of N tokens the copy must have the tokens that are scored, and the last N must begin before the
original: `make` counts them by the model's own tokenizer and leaves some room at both ends.
"""
import dataclasses
import difflib
import re

LEAST_BETWEEN = 0.6  # of the context
COPY = 1.08  # of the tail: some tokens more than are scored
FREE = 0.05  # of the context, before the original


@dataclasses.dataclass
class CopiedText:
    before: str
    original: str
    between: str
    note: str  #: the diff
    copy: str

    def __str__(self):
        return self.before + self.original + self.between + self.note + self.copy


def tail_of(context):
    """Tokens to score: 2,048, or what fits twice beside 60 % of other files."""
    return min(2048, context // 8)


def make(file, others, context, change, tokens):
    """file, others: texts; change(original): the note and the copy; tokens(text): how many it has. Raises ValueError."""
    original, _ = split(file, COPY * tail_of(context), tokens)
    note, copy = change(original)
    if tokens(copy) < tail_of(context):
        raise ValueError(f"[texts] copy, got {tokens(copy)} tokens, want at least {tail_of(context)}")
    room = (1 - FREE) * context - tokens(original) - tokens(note) - tokens(copy)
    if room < LEAST_BETWEEN * context:
        raise ValueError(f"[texts] between, got {room / context:.0%} of {context} tokens, want at least {LEAST_BETWEEN:.0%}")
    between, rest = split(others, room, tokens)
    before, _ = split(rest, 0.4 * context, tokens)
    return CopiedText(before, original, between, note, copy)


def split(text, wanted, tokens):
    """The first lines that have so many tokens, and the others."""
    lines = text.splitlines(keepends=True)
    low, high = 0, min(len(lines), int(wanted) + 1)  # a line has a token or more
    if tokens("".join(lines[:high])) < wanted:
        raise ValueError(f"[texts] lines, got {len(lines)} of fewer tokens, want {wanted:.0f} tokens of them")
    while low < high:
        middle = (low + high) // 2
        if tokens("".join(lines[:middle])) < wanted:
            low = middle + 1
        else:
            high = middle
    return "".join(lines[:low]), "".join(lines[low:])


def renamed(names):
    """A change: identifiers get other names, {old: new}."""
    def change(text):
        for old, new in names.items():
            times = len(re.findall(rf"\b{old}\b", text))
            if times < 3 or re.search(rf"\b{new}\b", text):
                raise ValueError(f"[texts] renaming, got {old} {times} times, want 3 or more, and no {new} yet")
            text = re.sub(rf"\b{old}\b", new, text)
        return "", text
    return change


def patched(text):
    """A change: of the lines with words each 24th is, by turns, gone, below the next one, or a copy of the 12th before."""
    old = text.splitlines(keepends=True)
    new, filled, turn, at = [], 0, 0, 0
    while at < len(old):
        filled += bool(old[at].strip())
        if filled < 24 or at + 1 == len(old):
            new.append(old[at])
        else:
            filled, turn = 0, turn + 1
            if turn % 3 == 2:
                new += [old[at + 1], old[at]]
                at += 1
            elif turn % 3 == 0:
                new.append(old[at - 12])
        at += 1
    note = "".join(difflib.unified_diff(old, new, "a/file", "b/file", n=1))
    return note, "".join(new)
