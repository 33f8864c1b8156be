"""Presentation times: checked, counted from zero, and made up where a video has none."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.source import VideoSource

DEFAULT_FPS = 2.0
"""Assumed where neither times nor a rate are known and no `max_fps` is given."""


def frame_seconds(source: VideoSource, max_fps: float | None = None) -> np.ndarray:
    """Times of all frames, also where the video tells none.

    Args:
        source: the video.
        max_fps: rate to assume where the video has neither times nor a rate; None assumes `DEFAULT_FPS`.

    Returns:
        float64 `[n_frames]`, strictly increasing from 0.
    """
    if source.seconds is not None:
        return source.seconds
    fps = source.fps
    if not fps:
        fps = max_fps or DEFAULT_FPS
        warnings.warn(
            f"{source.name} tells no times and no rate, so {fps:g} frames a second are assumed; give fps= or seconds= "
            "to open_video",
            stacklevel=2,
        )
    return np.arange(source.n_frames) / fps


def check_seconds(seconds: Sequence[float] | np.ndarray | None, n_frames: int, name: str) -> np.ndarray | None:
    """Times that somebody gave, counted from the first one.

    Args:
        seconds: one time for each frame, strictly increasing; None stays None.
        n_frames: frames of the video.
        name: the video in messages.

    Returns:
        float64 `[n_frames]` from 0, or None.

    Raises:
        OLMoInputError: not one for each frame, not finite, or not increasing.
    """
    if seconds is None:
        return None
    times = np.asarray(seconds, np.float64)
    if times.shape != (n_frames,):
        raise OLMoInputError(f"{name} has {n_frames} frames and {times.size} times; give one time for each frame")
    if not np.isfinite(times).all() or (np.diff(times) <= 0).any():
        raise OLMoInputError(f"the times of {name} are not strictly increasing finite seconds; sort the frames by time")
    return times - times[0]


def repaired_ticks(ticks: Sequence[int | None]) -> np.ndarray | None:
    """Times of decoded frames where some are missing, repeated or run backwards.

    Args:
        ticks: one for each frame in order, None where the decoder told none.

    Returns:
        int64 of the same length, strictly increasing: what is wrong stands one usual step after the frame before it.
        None where fewer than half of the times are right, so that they tell nothing.
    """
    known = [t for t in ticks if t is not None]
    steps = sorted(b - a for a, b in pairwise(ticks) if a is not None and b is not None and b > a)
    if not known or 2 * (len(steps) + 1) < len(ticks) or (len(ticks) > 1 and not steps):
        return None
    usual = steps[(len(steps) - 1) // 2] if steps else 1
    times: list[int] = []
    for t in ticks:
        before = times[-1] if times else None
        if before is None:
            times.append(known[0] if t is None else t)
        else:
            times.append(t if t is not None and t > before else before + usual)
    return np.array(times, np.int64)


def mean_fps(seconds: np.ndarray | None, fps: float | None, name: str) -> float | None:
    """The rate that was given, or the mean one of the times; None where there is neither.

    Raises:
        OLMoInputError: a rate that is not a positive number.
    """
    if fps is not None:
        if not (math.isfinite(fps) and fps > 0):
            raise OLMoInputError(f"fps of {name} must be a positive number, got {fps!r}; leave it out where unknown")
        return float(fps)
    if seconds is None or len(seconds) < 2:
        return None
    return float((len(seconds) - 1) / seconds[-1])
