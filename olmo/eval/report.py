"""What an evaluation on scenes found: counts of right answers, intervals, and where the mistakes are.

Plain numbers; knows nothing of models, pictures or printing. Source of the interval: E. B. Wilson, "Probable inference,
the law of succession, and statistical inference", 1927.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

Z_95 = 1.959964
"""Quantile of the normal distribution that leaves 5 % outside, both sides together."""


def wilson_interval(n_right: float, n: int, z: float = Z_95) -> tuple[float, float]:
    """Wilson score interval of a share.

    Args:
        n_right: number of successes, 0 to n; or the sum of n scores of 0 to 1, whose mean the interval then holds at
            least as surely, for no scores of 0 to 1 spread more than successes do.
        n: number of trials; 0 gives (0, 1), for nothing is known.
        z: quantile of the normal distribution; the default gives 95 %.

    Returns:
        Lower and upper end, each 0 to 1.
    """
    assert 0 <= n_right <= n, f"{n_right} of {n}"
    if n == 0:
        return 0.0, 1.0
    share, weight = n_right / n, z * z / n
    centre = (share + weight / 2) / (1 + weight)
    half = z * math.sqrt(share * (1 - share) / n + weight / (4 * n)) / (1 + weight)
    # At 0 and at n one end is exact; rounding must not push it outside.
    low = 0.0 if n_right == 0 else centre - half
    high = 1.0 if n_right == n else centre + half
    return low, high


@dataclass(frozen=True)
class TaskResult:
    """Right answers among those asked.

    Attributes:
        n: number of questions.
        n_right: number of right answers.
    """

    n: int
    n_right: int

    @property
    def accuracy(self) -> float | None:
        """Share of right answers, 0 to 1; None where nothing was asked."""
        return self.n_right / self.n if self.n else None

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the accuracy."""
        return wilson_interval(self.n_right, self.n)

    def asdict(self) -> dict[str, Any]:
        """Counts, accuracy and interval, rounded to a hundredth of a percent, fit for JSON."""
        accuracy = None if self.accuracy is None else round(self.accuracy, 4)
        low, high = self.interval
        return {"n": self.n, "n_right": self.n_right, "accuracy": accuracy, "interval": [round(low, 4), round(high, 4)]}


@dataclass(frozen=True)
class PointsResult:
    """Points of several answers, each measured by itself and then averaged, as the Molmo paper does.

    Attributes:
        n: number of answers.
        precision: mean share of the points of an answer that are right, 0 to 1.
        recall: mean share of the objects of a question that were pointed at, 0 to 1.
        f1: mean of the answers' F1, 0 to 1; not the F1 of the two means.
    """

    n: int
    precision: float
    recall: float
    f1: float

    @classmethod
    def mean(cls, scores: Sequence[Mapping[str, float]]) -> PointsResult:
        """The mean of one or more answers' `precision`, `recall` and `f1`."""
        means = {name: sum(s[name] for s in scores) / len(scores) for name in ("precision", "recall", "f1")}
        return cls(n=len(scores), **means)

    @property
    def interval(self) -> tuple[float, float]:
        """95 % interval of F1, on the wide side; see `wilson_interval`."""
        return wilson_interval(min(self.f1 * self.n, self.n), self.n)

    def asdict(self) -> dict[str, Any]:
        """Number, means and interval of F1, rounded to a hundredth of a percent, fit for JSON."""
        means = {name: round(getattr(self, name), 4) for name in ("precision", "recall", "f1")}
        return {"n": self.n, **means, "interval": [round(end, 4) for end in self.interval]}


@dataclass(frozen=True)
class Confusion:
    """A wrong name and how often it was given.

    Attributes:
        expected: what the thing is.
        answered: what the model said, normalised.
        n: how often.
    """

    expected: str
    answered: str
    n: int


@dataclass(frozen=True)
class ScenesReport:
    """Result of an evaluation on scenes.

    Attributes:
        n_scenes: number of pictures.
        is_blind: the pictures were replaced by grey.
        tasks: result by name of the task. `counting` and `pointing` are about things that are there, `counting_absent`
            and `pointing_absent` about things that are not; `pointing_near` and `pointing_several_near` count a point
            also when it is a little off its object.
        counting_by_count: result of counting by the true count, 1 and up.
        pointing_by_objects: result of pointing by the number of objects to point at, 1 and up.
        points: precision, recall and F1 of points, by name of the task. Here `pointing` is about all things, there or
            not: where there is nothing to point at, an answer without points is wholly right.
        confusions: wrong names, most frequent first.
    """

    n_scenes: int
    is_blind: bool
    tasks: dict[str, TaskResult]
    counting_by_count: dict[int, TaskResult] = field(default_factory=dict)
    pointing_by_objects: dict[int, TaskResult] = field(default_factory=dict)
    points: dict[str, PointsResult] = field(default_factory=dict)
    confusions: tuple[Confusion, ...] = ()

    def figure(self, name: str) -> float | None:
        """One figure of 0 to 1, or None where nothing was asked.

        Args:
            name: a task, for its accuracy, or a task that asks for points with `_f1` behind it.
        """
        if name.endswith("_f1"):
            points = self.points.get(name.removesuffix("_f1"))
            return None if points is None else points.f1
        return self.tasks[name].accuracy if name in self.tasks else None

    def asdict(self) -> dict[str, Any]:
        """Everything as numbers, strings, lists and dicts with string keys, fit for JSON."""
        return {
            "n_scenes": self.n_scenes,
            "is_blind": self.is_blind,
            "tasks": {name: result.asdict() for name, result in self.tasks.items()},
            "counting_by_count": {str(k): r.asdict() for k, r in self.counting_by_count.items()},
            "pointing_by_objects": {str(k): r.asdict() for k, r in self.pointing_by_objects.items()},
            "points": {name: result.asdict() for name, result in self.points.items()},
            "confusions": [{"expected": c.expected, "answered": c.answered, "n": c.n} for c in self.confusions],
        }
