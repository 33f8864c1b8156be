"""Relaxed accuracy: numbers read off a chart may be a little off.

Source: A. Masry et al., "ChartQA", 2022, section 5.1.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from olmo.eval.metrics.short_answer import short_answer

TOLERANCE = 0.05
"""Largest error of a number that counts as right, as a share of the true number."""


def relaxed_accuracy(prediction: str, answers: Sequence[str], tolerance: float = TOLERANCE) -> float:
    """1 where the short answer is one of `answers`, or a number within the tolerance of one, else 0.

    A percentage is its hundredth on both sides: `5%` is 0.05, and not 5. About a true 0 no relative error can be
    stated, so it must be met to the letter.
    """
    found = short_answer(prediction)
    return float(any(_is_right(found, answer.strip(), tolerance) for answer in answers))


def _is_right(found: str, answer: str, tolerance: float) -> bool:
    number, truth = _number(found), _number(answer)
    if number is not None and truth:
        return abs(number - truth) / abs(truth) <= tolerance
    return found.lower() == answer.lower()


def _number(text: str) -> float | None:
    is_percent = text.endswith("%")
    try:
        number = float(text.rstrip("%"))
    except ValueError:
        return None
    if not math.isfinite(number):
        return None
    return number / 100 if is_percent else number
