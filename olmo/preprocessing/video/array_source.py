"""Videos that are in memory already: arrays, tensors, lists of pictures. No codec needed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import load_image
from olmo.preprocessing.video.source import VideoLimits, VideoSource
from olmo.preprocessing.video.timestamps import check_seconds, mean_fps

_CHANNELS = (1, 3, 4)


def is_array(value: Any) -> bool:
    """Whether this is an array or a tensor. Told by its shape, so that looking at files does not wait for torch."""
    return hasattr(value, "shape") and hasattr(value, "dtype")


class ArraySource(VideoSource):
    """Frames of one array.

    Args:
        frames: uint8 array or tensor `[T, H, W, C]`, `[T, C, H, W]` or gray `[T, H, W]`, with C 1 (gray), 3 or 4 (with
            alpha, which is put on white). Where both orders fit, channels are last.
        seconds: presentation times of the frames, strictly increasing; taken from the first one on.
        fps: frames a second, where there are no times.
        name: what messages call it.
        limits: what may be read.

    Raises:
        OLMoInputError: not such an array, no frames, or times that do not fit.
    """

    def __init__(
        self,
        frames: Any,
        *,
        seconds: Sequence[float] | np.ndarray | None = None,
        fps: float | None = None,
        name: str = "the video array",
        limits: VideoLimits | None = None,
    ) -> None:
        self.name = name
        self.limits = limits or VideoLimits()
        self._frames = _channels_last(frames, name)
        self.n_frames = len(self._frames)
        self.limits.check_count(self.n_frames, name)
        height, width = self._frames.shape[1:3]
        self.limits.check_size(width, height, name)
        self.size = (width, height)
        self.seconds = check_seconds(seconds, self.n_frames, name)
        self.fps = mean_fps(self.seconds, fps, name)

    def iter_frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """See `VideoSource`."""
        for index in np.unique(self.check_indices(indices)).tolist():
            yield index, load_image(np.asarray(self._frames[index]), self.limits.max_pixels)


class PictureListSource(VideoSource):
    """A list of pictures as frames: PIL images, arrays, paths or bytes, each as `load_image` takes it.

    Args:
        pictures: at least one; the first one gives the size.
        seconds: presentation times, strictly increasing.
        fps: frames a second, where there are no times.
        name: what messages call it.
        limits: what may be read.

    Raises:
        OLMoInputError: no pictures, a first one that cannot be read, or times that do not fit.
    """

    def __init__(
        self,
        pictures: Sequence[Any],
        *,
        seconds: Sequence[float] | np.ndarray | None = None,
        fps: float | None = None,
        name: str = "the list of frames",
        limits: VideoLimits | None = None,
    ) -> None:
        self.name = name
        self.limits = limits or VideoLimits()
        self._pictures = list(pictures)
        self.n_frames = len(self._pictures)
        if not self.n_frames:
            raise OLMoInputError(f"{name} is empty; a video has at least one frame")
        self.limits.check_count(self.n_frames, name)
        first = load_image(self._pictures[0], self.limits.max_pixels)
        self.size = (first.shape[1], first.shape[0])
        self.seconds = check_seconds(seconds, self.n_frames, name)
        self.fps = mean_fps(self.seconds, fps, name)

    def iter_frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """See `VideoSource`."""
        for index in np.unique(self.check_indices(indices)).tolist():
            try:
                frame = load_image(self._pictures[index], self.limits.max_pixels)
            except OLMoInputError:
                continue  # left out, as for every source
            yield index, frame


def _channels_last(frames: Any, name: str) -> np.ndarray:
    """The array as uint8 `[T, H, W, C]` or `[T, H, W]`."""
    array = frames.detach().cpu().numpy() if hasattr(frames, "detach") else np.asarray(frames)
    if array.ndim == 4 and array.shape[3] not in _CHANNELS and array.shape[1] in _CHANNELS:
        array = array.transpose(0, 2, 3, 1)  # [T, H, W, C]
    if array.ndim not in (3, 4) or (array.ndim == 4 and array.shape[3] not in _CHANNELS):
        hint = " A single picture is an image, not a video" if array.ndim == 2 else ""
        raise OLMoInputError(
            f"{name} has shape {list(array.shape)}; wanted frames [T, H, W, 3], [T, 3, H, W] or gray [T, H, W].{hint}"
        )
    if not len(array):
        raise OLMoInputError(f"{name} has shape {list(array.shape)}, so no frames; a video has at least one")
    if array.dtype != np.uint8:
        scale = " For values in 0..1 use (x * 255).round() first." if np.issubdtype(array.dtype, np.floating) else ""
        raise OLMoInputError(f"{name} has dtype {array.dtype}; wanted uint8 with values 0..255.{scale}")
    return array
