"""The pixels of chosen frames; a frame that is damaged gives way to its nearest readable neighbour."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.sampling import FrameSelection
from olmo.preprocessing.video.source import VideoSource
from olmo.preprocessing.video.timestamps import frame_seconds

SEARCH_RADII = (2, 8, 32)
"""A damaged frame's neighbours are tried in rings up to these distances; beyond the last one the frame is dropped."""

_PROBE_SIDE = 8  # neighbours are tried small: only whether they can be decoded counts


@dataclass(frozen=True)
class Clip:
    """Frames as a model is shown them.

    Attributes:
        frames: uint8 `[H, W, 3]` each, or what `each` made of them, in order of time; of one size, except in lists and
            folders of pictures.
        indices: int64 `[k]`, strictly increasing numbers of the frames that are there.
        seconds: float64 `[k]`, their times.
        n_replaced: frames whose neighbour stands in for them.
        n_dropped: chosen frames for which there is no readable neighbour.
    """

    frames: list[np.ndarray]
    indices: np.ndarray
    seconds: np.ndarray
    n_replaced: int = 0
    n_dropped: int = 0

    def __len__(self) -> int:
        return len(self.frames)


def read_frames(
    source: VideoSource, selection: FrameSelection, each: Callable[[np.ndarray], np.ndarray] | None = None
) -> Clip:
    """Decode chosen frames.

    Args:
        source: the video.
        selection: from `sample_frames`.
        each: makes of a frame, uint8 `[H, W, 3]`, what is kept of it, as soon as it is decoded; a smaller one saves the
            memory of many large frames. None keeps it as it is.

    Returns:
        As many frames, fewer only where the video is damaged. Numbers and times are those of the frames that are there.

    Raises:
        OLMoInputError: no chosen frame and none near one can be decoded, or a limit is passed.
    """
    if each is None:
        source.check_bytes(len(selection))
    found = _decoded(source, selection.indices, each)
    missing = [i for i in selection.indices.tolist() if i not in found]
    n_replaced = 0
    if missing:
        instead = _neighbours(source, missing, set(selection.indices.tolist()), selection.part or (0, source.n_frames))
        found.update(_decoded(source, instead, each))
        n_replaced = len(found) - (len(selection) - len(missing))
    if not found:
        raise OLMoInputError(
            f"none of the {len(selection)} chosen frames of {source.name} can be decoded, nor any near them; copy or "
            "download it again"
        )
    indices = np.array(sorted(found), np.int64)
    times = frame_seconds(source)
    zero = times[selection.indices[0]] - selection.seconds[0]
    seconds = times[indices] - zero if missing else selection.seconds
    frames = [found[i] for i in indices.tolist()]
    return Clip(frames, indices, seconds, n_replaced, len(selection) - len(found))


def _decoded(
    source: VideoSource, indices: Sequence[int] | np.ndarray, each: Callable[[np.ndarray], np.ndarray] | None
) -> dict[int, np.ndarray]:
    return {i: frame if each is None else each(frame) for i, frame in source.iter_frames(indices)}


def _neighbours(source: VideoSource, missing: Sequence[int], taken: set[int], part: tuple[int, int]) -> list[int]:
    """A readable frame of the part for each missing one, the nearest that nobody has; none where all are damaged."""
    readable: set[int] = set()
    tried = set(taken)
    open_ones, used = list(missing), []
    for radius in SEARCH_RADII:
        ring = {i + step for i in open_ones for step in range(-radius, radius + 1)}
        ring = {i for i in ring if part[0] <= i < part[1]} - tried
        tried |= ring
        readable |= {i for i, _ in source.iter_luma(sorted(ring), _PROBE_SIDE)} if ring else set()
        still_open = []
        for i in open_ones:
            near = [j for j in readable if abs(j - i) <= radius]
            if near:
                used.append(min(near, key=lambda j, i=i: (abs(j - i), j)))  # type: ignore[misc]
                readable.remove(used[-1])
            else:
                still_open.append(i)
        open_ones = still_open
        if not open_ones:
            break
    return used
