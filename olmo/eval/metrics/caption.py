"""Scores of long captions: cap-F1 with a judge of your choice, and plain overlap of words.

Source of cap-F1: the Molmo paper. What people said about a picture is broken into statements; recall is the share of
them that the caption makes. The caption is broken into statements too; precision is the share of those that agree with
what people said. Breaking up and agreeing take judgement, which here comes from outside: a person, a program, a model.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Protocol

_WORD = re.compile(r"[a-z0-9']+")


class CaptionJudge(Protocol):
    """What cap-F1 asks of a judge."""

    def statements(self, text: str) -> Sequence[str]:
        """The statements of a text, each as small as it can be."""

    def agreements(self, statements: Sequence[str], texts: Sequence[str]) -> Sequence[bool | None]:
        """For each statement whether `texts` say so: True, False, or None where it cannot be told."""


def cap_scores(caption: str, texts: Sequence[str], judge: CaptionJudge) -> dict[str, float]:
    """Recall and precision of a caption; `cap_f1` joins the means of both over a data set.

    Args:
        caption: what the model wrote.
        texts: what people said about the picture.
        judge: breaks up texts and compares.

    Returns:
        `recall` and `precision`, 0 to 1, and `n_statements` of the caption. A share of which nothing could be told is
        left out.
    """
    made, expected = list(judge.statements(caption)), [s for text in texts for s in judge.statements(text)]
    scores = {"n_statements": float(len(made))}
    for name, statements, among in (("recall", expected, [caption]), ("precision", made, list(texts))):
        told = [verdict for verdict in judge.agreements(statements, among) if verdict is not None]
        if told:
            scores[name] = sum(told) / len(told)
    return scores


def cap_f1(recall: float, precision: float) -> float:
    """Harmonic mean of a data set's mean recall and mean precision; 0 where either is."""
    return 2 * recall * precision / (recall + precision) if recall and precision else 0.0


def word_overlap(caption: str, texts: Sequence[str]) -> float:
    """F1 of the words of a caption against the nearest of `texts`, 0 to 1; a rough figure that needs no judge."""
    return max((_word_f1(caption, text) for text in texts), default=0.0)


def _word_f1(first: str, second: str) -> float:
    a, b = (Counter(_WORD.findall(text.lower())) for text in (first, second))
    n_common = (a & b).total()
    return 2 * n_common / (a.total() + b.total()) if n_common else 0.0
