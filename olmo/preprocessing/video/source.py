"""What a video is here: frames by number, with their presentation times.

Lives here: the interface that every source has (`VideoSource`), and the limits that keep reading from hanging or
filling the memory (`VideoLimits`). Knows no file format; see `open_video` for what can be opened.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
from PIL import Image

from olmo.exceptions import OLMoInputError

_SHOWN_INDICES = 8  # of a list of frames, in a message


@dataclass(frozen=True, kw_only=True)
class VideoLimits:
    """What reading a video may cost. Beyond a limit an error says which one and what to do; nothing hangs."""

    max_pixels: int = 8192 * 4320
    """Pixels of a frame; larger ones are refused before they are decoded."""

    max_frames: int = 1_000_000
    """Frames (in a file: packets) that are counted when a video is opened."""

    max_walk: int = 100_000
    """Frames that one request may decode, those on the way to a wanted frame included."""

    max_bytes: int = 4 * 2**30
    """Memory for the pixels of one request: a `get`, or a `read_frames` that keeps whole frames."""

    timeout_s: float = 120.0
    """Time for opening, and for each request, in seconds."""

    def __post_init__(self) -> None:
        for name in ("max_pixels", "max_frames", "max_walk", "max_bytes", "timeout_s"):
            if not getattr(self, name) > 0:
                raise OLMoInputError(f"VideoLimits.{name} must be positive, got {getattr(self, name)!r}")

    def check_size(self, width: int, height: int, name: str) -> None:
        """Refuse frames without pixels, and too large ones.

        Raises:
            OLMoInputError: naming `name`.
        """
        if width < 1 or height < 1:
            raise OLMoInputError(f"{name} has frames without pixels ({width}x{height}); write it again")
        if width * height > self.max_pixels:
            raise OLMoInputError(
                f"{name} has frames of {width}x{height} = {width * height:,} pixels, over the limit of "
                f"{self.max_pixels:,}; make them smaller, or raise VideoLimits.max_pixels if you trust the file"
            )

    def check_count(self, n_frames: int, name: str) -> None:
        """Refuse videos of too many frames.

        Raises:
            OLMoInputError: naming `name`.
        """
        if n_frames > self.max_frames:
            raise OLMoInputError(
                f"{name} has more than {self.max_frames:,} frames; cut it into shorter videos, or raise "
                "VideoLimits.max_frames"
            )


class Deadline:
    """Stops a loop over packets or frames that takes longer than `VideoLimits.timeout_s`.

    Args:
        limits: where the time is from.
        name: the video in messages.
    """

    def __init__(self, limits: VideoLimits, name: str) -> None:
        self._timeout_s = limits.timeout_s
        self._end = time.monotonic() + limits.timeout_s
        self._name = name

    def check(self) -> None:
        """Do nothing while there is time.

        Raises:
            OLMoInputError: the time is over.
        """
        if time.monotonic() > self._end:
            raise OLMoInputError(
                f"reading {self._name} took longer than {self._timeout_s:g} s; make it shorter or smaller, write it "
                "with a keyframe every second or two, or raise VideoLimits.timeout_s"
            )


class VideoSource(ABC):
    """Frames by number, in presentation order, each as it is displayed: upright, 8-bit RGB.

    Attributes:
        name: the video in messages, such as `video 'clip.mp4'`.
        n_frames: number of frames, at least 1. Counted, never taken from a header.
        seconds: float64 `[n_frames]` presentation times from 0, strictly increasing; None where nothing tells them.
        fps: frames a second, on average where the rate varies; None where unknown.
        size: (width, height) of a frame as displayed, in pixels.
        limits: what a request may cost.
    """

    name: str
    n_frames: int
    seconds: np.ndarray | None
    fps: float | None
    size: tuple[int, int]
    limits: VideoLimits

    @property
    def duration_s(self) -> float | None:
        """Length in seconds, from the first frame to the end of the last one; None where unknown."""
        if self.seconds is None:
            return None if not self.fps else self.n_frames / self.fps
        if self.n_frames == 1:
            return 1.0 / self.fps if self.fps else 0.0
        return float(self.seconds[-1] + np.median(np.diff(self.seconds)))

    @abstractmethod
    def iter_frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """The frames of these numbers that can be decoded, one at a time, by rising number.

        Args:
            indices: frame numbers in `[0, n_frames)`, in any order; a repeated one comes once.

        Yields:
            (number, uint8 `[H, W, 3]`). A frame that cannot be decoded is left out.

        Raises:
            OLMoInputError: a number out of range, or a limit that is passed.
        """

    def iter_luma(self, indices: Sequence[int] | np.ndarray, side: int) -> Iterator[tuple[int, np.ndarray]]:
        """As `iter_frames`, but brightness alone and squeezed to a small square: cheap to compare.

        Args:
            indices: as for `iter_frames`.
            side: of the square, in pixels.

        Yields:
            (number, uint8 `[side, side]`).
        """
        for index, frame in self.iter_frames(indices):
            gray = Image.fromarray(frame).convert("L").resize((side, side), Image.Resampling.BOX)
            yield index, np.asarray(gray)

    def get(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Exactly these frames, in the order asked for; a number may repeat.

        Args:
            indices: k frame numbers in `[0, n_frames)`.

        Returns:
            uint8 `[k, H, W, 3]`.

        Raises:
            OLMoInputError: a number out of range, a frame that cannot be decoded (`read_frames` takes its neighbour),
                or a limit that is passed.
        """
        wanted = self.check_indices(indices)
        self.check_bytes(len(wanted))
        width, height = self.size
        frames = np.empty((len(wanted), height, width, 3), np.uint8)
        missing = set(wanted.tolist())
        for index, frame in self.iter_frames(wanted):
            if frame.shape != frames.shape[1:]:
                raise OLMoInputError(
                    f"frame {index} of {self.name} is {frame.shape[1]}x{frame.shape[0]}, the others are "
                    f"{width}x{height}; make them one size, or take them one by one with iter_frames"
                )
            frames[wanted == index] = frame
            missing.discard(index)
        if missing:
            raise OLMoInputError(
                f"{list_indices(sorted(missing))} of {self.name} cannot be decoded; the file is damaged there. "
                "read_frames takes the nearest readable neighbours instead"
            )
        return frames

    def close(self) -> None:
        """Let go of the file; nothing can be read any more. Closing twice is fine."""
        return

    def check_indices(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """The numbers of frames as int64 `[k]`.

        Raises:
            OLMoInputError: not whole numbers, or out of range.
        """
        wanted = np.asarray(indices)
        if wanted.ndim != 1 or (wanted.size and not np.issubdtype(wanted.dtype, np.integer)):
            raise OLMoInputError(f"frame numbers are a list of whole numbers, got {indices!r:.100}")
        outside = wanted[(wanted < 0) | (wanted >= self.n_frames)]
        if outside.size:
            raise OLMoInputError(
                f"{self.name} has frames 0 to {self.n_frames - 1}; there is no {list_indices(outside.tolist())}"
            )
        return wanted.astype(np.int64)

    def check_bytes(self, n_frames: int) -> None:
        """Refuse to hold the pixels of so many frames at once where they take too much memory.

        Raises:
            OLMoInputError: they pass `limits.max_bytes`.
        """
        width, height = self.size
        n_bytes = n_frames * width * height * 3
        if n_bytes > self.limits.max_bytes:
            raise OLMoInputError(
                f"{n_frames} frames of {width}x{height} of {self.name} take {n_bytes / 2**30:.1f} GiB, over the limit "
                f"of {self.limits.max_bytes / 2**30:.1f} GiB; ask for fewer at a time, take them one by one with "
                "iter_frames, or raise VideoLimits.max_bytes"
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def list_indices(indices: Sequence[int]) -> str:
    """Frame numbers as they stand in a message: `frame 3`, or `frames 3, 4 and 12 more`."""
    shown = ", ".join(str(i) for i in indices[:_SHOWN_INDICES])
    hidden = len(indices) - _SHOWN_INDICES
    return f"frame{'s' if len(indices) > 1 else ''} {shown}" + (f" and {hidden} more" if hidden > 0 else "")
