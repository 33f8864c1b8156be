"""ANLS, the score of questions about documents.

Source: A. F. Biten et al., "Scene Text Visual Question Answering", 2019, equation 1. Case does not matter, blanks do,
as the task's page says.
"""

from __future__ import annotations

from collections.abc import Sequence

from olmo.eval.metrics.short_answer import edit_distance, short_answer

THRESHOLD = 0.5
"""Answers that differ in this share of their characters or more score nothing."""


def anls(prediction: str, answers: Sequence[str], threshold: float = THRESHOLD) -> float:
    """Similarity of the short answer to the nearest of `answers`.

    Args:
        prediction: what the model wrote.
        answers: right answers.
        threshold: share of differing characters from which on a similarity counts as 0, 0 to 1.

    Returns:
        1 for equal, less for each differing character, 0 from the threshold on.
    """
    found = short_answer(prediction)
    return max((_similarity(found, answer, threshold) for answer in answers), default=0.0)


def _similarity(found: str, answer: str, threshold: float) -> float:
    longest = max(len(found), len(answer))
    if longest == 0:
        return 1.0
    # Lengths alone may say that nothing is left to gain; the distance costs their product.
    if abs(len(found) - len(answer)) >= threshold * longest:
        return 0.0
    share = edit_distance(found.lower(), answer.lower()) / longest
    return 1 - share if share < threshold else 0.0
