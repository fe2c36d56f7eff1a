"""Texts that end with a copy of something far back: scripts/copied_texts.py on small files."""
import pathlib
import re
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "scripts"))
import copied_texts  # noqa: E402

CONTEXT = 1600
NAMES = {"total": "sum_of_all", "item": "each"}
FILE = "".join(f"def f{i}(items):\n    total = {i}\n    for item in items:\n        total += item\n    return total\n\n"
               for i in range(100))
OTHERS = "".join(f"other line {i} of another file\n" for i in range(1000))


def tokens(text):
    return len(re.findall(r"\w+|[^\w\s]", text))


def made(change, file=FILE):
    return copied_texts.make(file, OTHERS, CONTEXT, change, tokens)


@pytest.mark.parametrize("change", [copied_texts.renamed(NAMES), copied_texts.patched], ids=["edit", "re-read"])
def test_the_copy_is_last_and_far_from_its_original(change):
    text = made(change)
    whole, tail = str(text), copied_texts.tail_of(CONTEXT)
    assert whole.endswith(text.copy) and tokens(text.copy) >= tail == 200
    assert FILE.startswith(text.original) and text.between in OTHERS and text.before in OTHERS
    assert tokens(text.between) >= 0.6 * CONTEXT
    # A context of so many tokens from the end begins before the original, and soon has it.
    kept = tokens(whole) - tokens(text.before)
    assert 0.9 * CONTEXT < kept <= CONTEXT < tokens(whole)
    assert str(made(change)) == whole, "the same each time"


def test_an_edit_renames_and_does_nothing_else():
    text = made(copied_texts.renamed(NAMES))
    back = text.copy
    for old, new in NAMES.items():
        assert not re.search(rf"\b{old}\b", text.copy)
        back = re.sub(rf"\b{new}\b", old, back)
    assert back == text.original and not text.note
    assert "items" in text.copy, "only whole words"


def test_a_diff_is_what_leads_to_the_copy():
    text = made(copied_texts.patched)
    old, new = text.original.splitlines(), text.copy.splitlines()
    assert 0 < len(set(enumerate(old)) ^ set(enumerate(new)))
    added = [line[1:] for line in text.note.splitlines()[2:] if line.startswith("+")]
    gone = [line[1:] for line in text.note.splitlines()[2:] if line.startswith("-")]
    assert sorted(old + added) == sorted(new + gone) and added and gone
    assert len(added) + len(gone) < len(old) / 8


@pytest.mark.parametrize("file, others, names, says", [
    (FILE, OTHERS, {"absent": "x"}, "got absent 0 times"),
    (FILE, OTHERS, {"total": "items"}, "no items yet"),
    (FILE[:100], OTHERS, NAMES, "lines, got"),
    (FILE, OTHERS[:1000], NAMES, "lines, got"),
])
def test_what_cannot_be_made_is_one_sentence(file, others, names, says):
    with pytest.raises(ValueError, match=says):
        copied_texts.make(file, others, CONTEXT, copied_texts.renamed(names), tokens)


def test_a_change_that_leaves_no_room_is_refused():
    with pytest.raises(ValueError, match="between, got"):
        made(lambda text: ("", text * 3))
    with pytest.raises(ValueError, match="copy, got 5 tokens"):
        made(lambda text: ("", "one two three four five"))
