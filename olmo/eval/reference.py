"""`Reference`: what is known to be right about one question. Plain values; knows no model and no source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from olmo.preprocessing.points import NO_POINTS, Point, from_pixels, parse


@dataclass(frozen=True)
class Reference:
    """The truth that an answer is measured against.

    Attributes:
        answers: answers that are right, one for each person who was asked; empty where there is no text to compare.
        options: choices of a multiple-choice question, in the order they were shown.
        answer_idx: index of the right option, or None.
        points: (x, y) of what was to be pointed at; None where the question is not about places.
        point_scale: value that stands for the full width and height (100 for percent); None: pixels of the picture.
        image_size: (width, height) of the first picture, px; needed for points in pixels.
        metadata: what the source says besides, for metrics that ask for more (`masks`, `count`, `is_human`, ...).
    """

    answers: tuple[str, ...] = ()
    options: tuple[str, ...] = ()
    answer_idx: int | None = None
    points: tuple[tuple[float, float], ...] | None = None
    point_scale: float | None = None
    image_size: tuple[int, int] | None = None
    metadata: Mapping[str, Any] = field(default_factory=dict)

    def seen_at(self, image_size: tuple[int, int] | None) -> Reference:
        """The same with the size of the picture filled in, where it was not known."""
        return self if image_size is None or self.image_size is not None else replace(self, image_size=image_size)

    def places(self) -> list[Point] | None:
        """What was to be pointed at, in percent: the given points, or else those written in the only answer.

        Returns:
            Points, none for "There are none."; None where the reference says nothing about places: no points, and an
            answer without any tag, or points in pixels of a picture of unknown size.
        """
        if self.points is not None:
            extent = self.image_size if self.point_scale is None else (self.point_scale, self.point_scale)
            return None if extent is None and self.points else from_pixels(self.points, *(extent or (1, 1)))
        answer = self.answers[0] if self.answers else ""
        says_none = answer.strip().rstrip(".").lower() == NO_POINTS.rstrip(".").lower()
        return [] if says_none else parse(answer) or None
