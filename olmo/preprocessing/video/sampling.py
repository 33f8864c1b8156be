"""Which frames of a video a model is shown: uniform, random within equal parts, or where something happens.

Lives here: the formulas on frame counts, and `sample_frames`, which applies one to a video. The choice by change is in
`adaptive`, the choice by relevance to a question in `relevance`; reading the chosen frames is in `clip`. Every strategy
returns exactly min(max_frames, frames there are) different frames in order of time, so nothing is shown twice.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np

from olmo.config import ConfigEnum
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.adaptive import adaptive_indices, candidate_indices, luma_changes, spread
from olmo.preprocessing.video.source import VideoSource
from olmo.preprocessing.video.timestamps import frame_seconds


class FrameSampling(ConfigEnum):
    """How frames are chosen."""

    uniform = "uniform"
    random = "random"
    adaptive = "adaptive"


@dataclass(frozen=True)
class FrameSelection:
    """Chosen frames.

    Attributes:
        indices: int64 `[m]`, strictly increasing frame numbers.
        seconds: float64 `[m]`, their times.
        part: frames that were there to choose from, as [first, one past the last]; None for the whole video.
    """

    indices: np.ndarray
    seconds: np.ndarray
    part: tuple[int, int] | None = None

    def __len__(self) -> int:
        return len(self.indices)


def sample_frames(
    source: VideoSource,
    strategy: FrameSampling | str = FrameSampling.uniform,
    *,
    max_frames: int = 16,
    max_fps: float | None = None,
    seed: int = 0,
    epoch: int = 0,
    example_id: str | int = "",
    start_s: float | None = None,
    end_s: float | None = None,
    absolute_time: bool = False,
) -> FrameSelection:
    """Choose the frames of a video that a model is shown.

    Only `adaptive` looks at pixels: at up to 512 frames, small and without colour.

    Args:
        source: the video.
        strategy: `uniform`, `random` (for training; epoch 0 for evaluation makes it fixed) or `adaptive`.
        max_frames: M, frames at most; fewer where the video has fewer.
        max_fps: frames at most for each second, as floor(duration * max_fps) + 1; None for no such limit.
        seed: of `random`, together with `epoch` and `example_id`, so that a restart draws the same frames.
        epoch: pass over the data, from 0.
        example_id: what tells this example from others of the data.
        start_s: take only frames from this time of the video on, in seconds; None from its beginning.
        end_s: take only frames before this time; None to its end.
        absolute_time: give times of the video rather than of the part from `start_s` on.

    Returns:
        min(max_frames, n) different frames, in order.

    Raises:
        OLMoConfigurationError: an unknown strategy.
        OLMoInputError: a count or rate below the allowed, or a part without frames.
    """
    how = FrameSampling.parse(strategy)
    seconds = frame_seconds(source, max_fps)
    first, n = _part(source, seconds, start_s, end_s)
    duration_s = _duration(source, seconds, first, n, start_s, end_s)
    m = frame_count(n, max_frames, duration_s, max_fps)
    if how is FrameSampling.random:
        chosen = random_indices(n, m, sampling_generator(seed, epoch, example_id))
    elif how is FrameSampling.adaptive:
        chosen = _adaptive(source, first, n, m, max_frames)
    else:
        chosen = spread(n, m)
    indices = first + chosen
    zero = 0.0 if absolute_time or not start_s else start_s
    return FrameSelection(indices, seconds[indices] - zero, (first, first + n))


def frame_count(n: int, max_frames: int, duration_s: float | None = None, max_fps: float | None = None) -> int:
    """How many frames are chosen.

    Args:
        n: frames there are, at least 1.
        max_frames: at most so many, at least 1.
        duration_s: length in seconds; used with `max_fps` only.
        max_fps: at most floor(duration_s * max_fps) + 1 frames; None for no such limit.

    Returns:
        A count from 1 to n.

    Raises:
        OLMoInputError: `max_frames` below 1, or `max_fps` not above 0.
    """
    if max_frames < 1:
        raise OLMoInputError(f"max_frames must be at least 1, got {max_frames}; 4 to 64 is usual")
    m = min(max_frames, n)
    if max_fps is not None:
        if not max_fps > 0:
            raise OLMoInputError(f"max_fps must be above 0, got {max_fps}; leave it out for no limit")
        if duration_s is not None:
            m = min(m, int(duration_s * max_fps + 1e-9) + 1)  # 0.1 * 30 is a hair under 3
    return m


def random_indices(n: int, m: int, generator: np.random.Generator) -> np.ndarray:
    """One frame at random from each of m equal parts of the video.

    Args:
        n: frames there are.
        m: frames wanted, 1 to n.
        generator: where the draws come from.

    Returns:
        int64 `[m]`, strictly increasing; the k-th in `[k * n // m, (k + 1) * n // m)`.
    """
    edges = np.arange(m + 1, dtype=np.int64) * n // m
    return generator.integers(edges[:-1], edges[1:])


def sampling_generator(seed: int, epoch: int, example_id: str | int) -> np.random.Generator:
    """The generator of one example in one epoch; equal arguments draw equal frames, on any machine.

    Raises:
        OLMoInputError: a negative seed or epoch.
    """
    if seed < 0 or epoch < 0:
        raise OLMoInputError(f"seed and epoch of frame sampling are 0 or more, got {seed} and {epoch}")
    digest = hashlib.sha256(str(example_id).encode()).digest()
    return np.random.default_rng([seed, epoch, int.from_bytes(digest[:8], "little")])


def _part(source: VideoSource, seconds: np.ndarray, start_s: float | None, end_s: float | None) -> tuple[int, int]:
    """First frame and number of frames of a part of the video. Both ends are compared with None: 0.0 is a time."""
    first = 0 if start_s is None else int(np.searchsorted(seconds, start_s, "left"))
    last = len(seconds) if end_s is None else int(np.searchsorted(seconds, end_s, "left"))
    if last <= first:
        raise OLMoInputError(
            f"{source.name} has no frame from {start_s or 0:g} s to {'its end' if end_s is None else f'{end_s:g} s'}; "
            f"its frames are shown from 0 to {seconds[-1]:g} s"
        )
    return first, last - first


def _duration(
    source: VideoSource, seconds: np.ndarray, first: int, n: int, start_s: float | None, end_s: float | None
) -> float | None:
    """Length of the part in seconds."""
    whole = source.duration_s
    if whole is None:
        whole = source.n_frames * float(seconds[1]) if source.n_frames > 1 else 0.0
    return min(whole, whole if end_s is None else end_s) - max(0.0, start_s or 0.0)


def _adaptive(source: VideoSource, first: int, n: int, m: int, max_frames: int) -> np.ndarray:
    """Numbers within the part, chosen by change."""
    if m == n:
        return np.arange(n, dtype=np.int64)  # nothing to choose, so nothing to decode
    candidates = candidate_indices(n, max_frames)
    seen, changes = luma_changes(source, first + candidates)
    return adaptive_indices(n, m, seen - first, changes)
