"""Precision, recall and F1 of points.

Source: the pointing evaluation of the Molmo paper: predicted points are paired with the true ones so that the total
distance is least, and a pair counts where the predicted point lies inside the mask of the object it was paired with.
Without masks a pair counts where it is near; that rule is this project's own, and its figures do not compare with
published ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from olmo.eval.metrics.assignment import cheapest_pairs
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.points import Point, parse

NEAR_PERCENT = 5.0
"""Without masks, a point this far from its true one still counts, in percent of the picture's width and height."""


def point_scores(
    prediction: str,
    truth: Sequence[Point],
    masks: Sequence[np.ndarray] | None = None,
    near_percent: float = NEAR_PERCENT,
) -> dict[str, float]:
    """Precision, recall and F1 of the points in an answer.

    Args:
        prediction: what the model wrote.
        truth: true points, in percent; none where there is nothing to point at.
        masks: for each true point the pixels of its object, bool `[H, W]`; None: nearness decides.
        near_percent: how near is near enough where there are no masks.

    Returns:
        `precision`, `recall` and `f1`, 0 to 1. Where there is nothing to point at, all are 1 without a point in the
        answer and 0 with one.

    Raises:
        OLMoInputError: not one mask for each point.
    """
    found = parse(prediction)
    return precision_recall_f1(n_matched(found, truth, masks, near_percent), len(found), len(truth))


def n_matched(
    found: Sequence[Point],
    truth: Sequence[Point],
    masks: Sequence[np.ndarray] | None = None,
    near_percent: float = NEAR_PERCENT,
) -> int:
    """How many of the points found are right; other arguments as `point_scores`.

    Args:
        found: points of an answer, in percent.
        truth: true points, in percent.
        masks: for each true point the pixels of its object.
        near_percent: how near is near enough where there are no masks.
    """
    if masks is not None and len(masks) != len(truth):
        raise OLMoInputError(f"{len(masks)} masks for {len(truth)} points; give one for each, in the same order")
    if not truth or not found:
        return 0
    here, there = (np.array([(p.x, p.y) for p in points]) for points in (found, truth))
    distances = _distances(here, there, None if masks is None else np.asarray(masks[0]).shape)
    return sum(
        bool(distances[i, j] <= near_percent) if masks is None else is_inside(found[i], np.asarray(masks[j]))
        for i, j in cheapest_pairs(distances)
    )


def precision_recall_f1(n_right: int, n_found: int, n_true: int) -> dict[str, float]:
    """`precision`, `recall` and `f1` of one answer; all 1 where nothing was to be found and nothing was."""
    if not n_found or not n_true:
        return dict.fromkeys(("precision", "recall", "f1"), float(n_found == n_true))
    precision, recall = n_right / n_found, n_right / n_true
    f1 = 2 * precision * recall / (precision + recall) if n_right else 0.0
    return {"precision": precision, "recall": recall, "f1": f1}


def is_inside(point: Point, mask: np.ndarray) -> bool:
    """Whether the pixel nearest to a point belongs to a mask `[H, W]`; a point on the far edge is outside."""
    height, width = mask.shape
    column, row = round(point.x / 100 * width), round(point.y / 100 * height)
    return column < width and row < height and bool(mask[row, column])


def _distances(here: np.ndarray, there: np.ndarray, shape: tuple[int, ...] | None) -> np.ndarray:
    """Distances `[n, m]` between points in percent: in pixels where the picture's shape is known, else in percent."""
    scale = np.ones(2) if shape is None else np.array([shape[1], shape[0]]) / 100
    return np.linalg.norm((here[:, None] - there[None]) * scale, axis=-1)
