"""Retrieval tasks of the GPU's benchmarks: bench/support/needles.py, without a model."""
import collections
import pathlib
import re
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).parents[2] / "bench/support"))
import needles  # noqa: E402

# Of context, question and answer, by tests/host/test_experiments.cpp too.
HASHES = {"single": "a0e4cc21e404dd4e", "multi-key": "e56bc72279468f03", "multi-value": "f2a99b0cdc882b8a",
          "multi-query": "674b212432fb0f16", "variables": "c3a7fa56781af6a3", "common words": "28f558aeb92447da",
          "frequent words": "8f88e24118780e70"}


def fnv(text):
    h = 0xCBF29CE484222325
    for byte in text.encode():
        h = (h ^ byte) * 0x100000001B3 % 2**64
    return f"{h:016x}"


def test_draws_are_those_of_the_standard_library():
    random = needles._Mt64(5489)
    assert [random.next() for _ in range(10000)][-1] == 9981545732273789042  # as the C++ standard demands


@pytest.mark.parametrize("kind", needles.KINDS)
def test_tasks_are_those_of_the_command(kind):
    task = needles.make_task(kind, 5, 700, 0.25)
    assert fnv(task.context + task.question + task.answer()) == HASHES[kind]


@pytest.mark.parametrize("kind", needles.KINDS)
@pytest.mark.parametrize("length", [900, 6000])
def test_a_task_fills_its_length(kind, length):
    encode = lambda text: re.findall(r"\w{1,5}|\W", text)
    prompt = needles.fit(encode, kind, 3, 0.5, length)
    total = len(prompt.context) + len(prompt.question) + len(prompt.answer)
    assert 0.9 * length <= total <= length - 16
    assert "".join(prompt.context) == prompt.task.context and "".join(prompt.answer) == prompt.task.answer()
    for answer in prompt.task.answers:
        assert answer in prompt.task.context and answer not in prompt.task.question
    assert prompt.task.given(prompt.task.answer()) == 1 and prompt.task.given(prompt.task.question) == 0


def test_kinds_are_what_they_say():
    answers = {kind: needles.make_task(kind, 0, 300).answers for kind in needles.KINDS}
    assert [len(a) for a in answers.values()] == [1, 1, 4, 4, 5, 10, 3]
    context = needles.make_task("variables", 0, 300).context
    places = [context.index(f"VAR {b} = VAR {a}.") for a, b in zip(answers["variables"], answers["variables"][1:])]
    assert places == sorted(places)
    for kind in ("common words", "frequent words"):
        times = collections.Counter(re.findall(r"\b[a-z]+\b", needles.make_task(kind, 0, 300).context.split("\n")[1]))
        assert {w for w, _ in times.most_common(len(answers[kind]))} == set(answers[kind])
    for depth in (0.0, 0.5, 1.0):
        task = needles.make_task("single", 1, 300, depth)
        assert task.context.index(task.answers[0]) / len(task.context) == pytest.approx(depth, abs=0.06)


def test_what_cannot_be_made_is_one_sentence():
    with pytest.raises(ValueError, match="got 'magic', want one of single"):
        needles.make_task("magic", 0, 300)
    with pytest.raises(ValueError, match="length, got 30"):
        needles.fit(str.split, "single", 0, 0.5, 30)
