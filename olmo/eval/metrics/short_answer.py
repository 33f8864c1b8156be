"""The short answer in a longer text, and comparing short answers letter by letter.

Source: the evaluation of the released Molmo models, which cleans every answer this way before it scores it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

_MARK = "Answer:"


def short_answer(text: str) -> str:
    """What a model means by a text.

    What follows the first `Answer:`, where there is one; else of several lines the one that comes most often (the first
    of those, where none does); blanks are collapsed.
    """
    text = text.strip()
    if _MARK in text:
        return text.split(_MARK)[1].strip()
    lines = [" ".join(line.split()) for line in text.split("\n")]
    return Counter(lines).most_common(1)[0][0]


def exact_match(prediction: str, answers: Sequence[str]) -> float:
    """1 where the short answer equals one of `answers`, upper and lower case alike, else 0."""
    found = short_answer(prediction).lower()
    return float(any(found == answer.strip().lower() for answer in answers))


def contains(prediction: str, answers: Sequence[str]) -> float:
    """1 where one of `answers` stands anywhere in the text, upper and lower case alike, else 0."""
    return float(any(answer.strip().lower() in prediction.lower() for answer in answers if answer.strip()))


def edit_distance(first: str, second: str) -> int:
    """Levenshtein distance: fewest insertions, deletions and changes of one character that make one text the other."""
    before = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        here = [i]
        for j, b in enumerate(second, start=1):
            here.append(min(before[j] + 1, here[-1] + 1, before[j - 1] + (a != b)))
        before = here
    return before[-1]
