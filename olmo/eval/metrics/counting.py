"""Reading a count out of an answer. Source: the evaluation of the released Molmo models, which count by pointing."""

from __future__ import annotations

import re

from olmo.preprocessing.points import parse

_WORDS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
)
_NUMBER_OF_WORD = {word: number for number, word in enumerate(_WORDS.split())} | {"no": 0, "none": 0}
_TOTAL = re.compile(r"\ba total of (\d{1,9})")
_NONE = re.compile(r"\b(?:none|no)\b")
_TAG = re.compile(r"<[^<>]*>?")
_NUMBER = re.compile(r"(?<![\d.])\d{1,9}(?![\d]*\.\d)(?!\d)")


def read_count(text: str) -> int | None:
    """The number a text states.

    In this order: `a total of 5`; the last word, in digits or as a word up to twenty; the only whole number outside
    point tags; "none"; the number of points, where the answer is nothing but points.

    Returns:
        The number, or None where the text states none.
    """
    plain = " ".join(_TAG.sub(" ", text).lower().split())
    if total := _TOTAL.search(plain):
        return int(total.group(1))
    words = plain.rstrip(".!, ").split()
    if words:
        last = words[-1].strip(".,!?:;()\"'")
        if re.fullmatch(r"\d{1,9}", last):
            return int(last)
        if last in _NUMBER_OF_WORD:
            return _NUMBER_OF_WORD[last]
    numbers = {int(n) for n in _NUMBER.findall(plain)}
    if len(numbers) == 1:
        return numbers.pop()
    if not numbers and _NONE.search(plain):
        return 0
    points = parse(text)
    return len(points) if points and not numbers else None


def count_scores(prediction: str, count: int) -> dict[str, float]:
    """How right a count is.

    Returns:
        `correct` (exact), `close` (at most 1 off) and `valid` (a number was stated), each 0 or 1, and
        `correct_at_<count>`, which equals `correct` and gives the accuracy by true count.
    """
    found = read_count(prediction)
    correct = float(found == count)
    close = float(found is not None and abs(found - count) <= 1)
    return {"correct": correct, "close": close, "valid": float(found is not None), f"correct_at_{count}": correct}
