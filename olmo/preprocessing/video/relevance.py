"""Frames that matter to a question, chosen by scores that somebody else computed.

Source: Tang et al., Adaptive Keyframe Sampling for Long Video Understanding, CVPR 2025. Two things are our own: a part
is not halved further than leaves it a frame, and what rounding loses is topped up, so that exactly m frames come back.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.adaptive import spread

KEEP_ABOVE = 0.8
"""A part whose best frames stand out by more than this is not halved any more."""

MAX_DEPTH = 5
"""Halvings at most."""


def relevant_indices(scores: Sequence[float] | np.ndarray, m: int) -> np.ndarray:
    """Choose m of C candidates by relevance, without leaving whole parts of the video out.

    A part of the video whose best m frames stand out is kept whole, every other one is halved; each part then gives its
    best frames, fewer the more often it was halved.

    Args:
        scores: `[C]` finite relevance of each candidate, in order of time, of any scale.
        m: candidates wanted, at least 1; all of them where there are fewer.

    Returns:
        int64 `[min(m, C)]`, strictly increasing positions in `scores`. Equal scores, as an empty question gives them,
        are spread evenly.

    Raises:
        OLMoInputError: no scores, scores that are not finite, or m below 1.
    """
    s = np.asarray(scores, np.float64)
    if s.ndim != 1 or not s.size or not np.isfinite(s).all():
        raise OLMoInputError(
            f"relevance is a list of finite numbers, one for each candidate; got shape {list(s.shape)}"
        )
    if m < 1:
        raise OLMoInputError(f"the number of frames must be at least 1, got {m}")
    m = min(m, len(s))
    low, high = s.min(), s.max()
    if low == high:
        return spread(len(s), m)
    s = (s - low) / (high - low)
    chosen: set[int] = set()
    for start, stop, depth in _parts(s, m):
        order = start + np.argsort(-s[start:stop], kind="stable")
        chosen.update(order[: m >> depth].tolist())
    for index in np.argsort(-s, kind="stable").tolist():
        if len(chosen) >= m:
            break
        chosen.add(index)
    return np.array(sorted(chosen), np.int64)


def _parts(s: np.ndarray, m: int) -> list[tuple[int, int, int]]:
    """(start, stop, halvings) of the parts of a video, in order."""
    parts: list[tuple[int, int, int]] = []
    open_parts = [(0, len(s), 0)]
    while open_parts:
        start, stop, depth = open_parts.pop()
        part = s[start:stop]
        stands_out = np.sort(part)[-m:].mean() - part.mean() > KEEP_ABOVE
        if stands_out or depth >= MAX_DEPTH or m >> (depth + 1) == 0 or len(part) < 2:
            parts.append((start, stop, depth))
        else:
            middle = (start + stop) // 2
            open_parts += [(middle, stop, depth + 1), (start, middle, depth + 1)]
    return parts
