"""Animated GIF, WebP and PNG as videos, through Pillow. No video codec needed."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence

import numpy as np
from PIL import Image

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import load_image
from olmo.preprocessing.video.source import Deadline, VideoLimits, VideoSource

FORMATS = ("GIF", "WEBP", "PNG")

SHORTEST_S = 0.1
"""How long a frame without a duration is shown, in seconds; browsers do the same."""


class AnimationSource(VideoSource):
    """The frames of an animated picture, put together and on white as a viewer shows them.

    Args:
        animation: bytes of a file, or an opened Pillow picture (which moves to other frames, and is not closed).
        name: what messages call it.
        limits: what may be read.

    Raises:
        OLMoInputError: not such a file, no frame that can be read, or a limit that is passed.
    """

    def __init__(self, animation: bytes | Image.Image, *, name: str, limits: VideoLimits | None = None) -> None:
        self.name = name
        self.limits = limits or VideoLimits()
        self._is_ours = isinstance(animation, bytes)
        self._image = self._opened(animation) if isinstance(animation, bytes) else animation
        self._is_open = True
        self.size = self._image.size
        self.limits.check_size(*self.size, name)
        durations = self._durations()
        self.n_frames = len(durations)
        ends = np.cumsum(durations)
        self.seconds = ends - durations
        self.seconds[0] = 0.0
        self.fps = float(self.n_frames / ends[-1])
        self._last_s = durations[-1]

    @property
    def duration_s(self) -> float:
        """Length in seconds; the last frame's own duration is known here."""
        assert self.seconds is not None, "an animation has times"
        return float(self.seconds[-1] + self._last_s)

    def close(self) -> None:
        """See `VideoSource`."""
        self._is_open = False
        if self._is_ours:
            self._image.close()

    def iter_frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """See `VideoSource`. Every frame builds on those before it, so all up to the last wanted one are decoded."""
        wanted = np.unique(self.check_indices(indices)).tolist()
        if not self._is_open:
            raise OLMoInputError(f"{self.name} is closed; open it again with open_video")
        deadline = Deadline(self.limits, self.name)
        for index in wanted:
            try:
                for step in range(min(self._image.tell(), index), index + 1):
                    deadline.check()
                    self._image.seek(step)
                frame = load_image(self._image, self.limits.max_pixels)
            except (EOFError, OSError, SyntaxError, ValueError):
                continue  # left out, as for every source
            except OLMoInputError:
                deadline.check()
                continue
            yield index, frame

    def _opened(self, data: bytes) -> Image.Image:
        try:
            return Image.open(io.BytesIO(data), formats=FORMATS)
        except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
            raise OLMoInputError(f"{self.name} is too large: {error}; make it smaller") from None
        except Image.UnidentifiedImageError:  # its message is about the object that holds the bytes
            raise OLMoInputError(
                f"{self.name} is a damaged or truncated animation; copy or download it again"
            ) from None
        except Exception as error:  # a decoder may raise anything on hostile bytes
            raise OLMoInputError(
                f"{self.name} is a damaged or truncated animation ({error}); copy or download it again"
            ) from None

    def _durations(self) -> np.ndarray:
        """Seconds that each frame is shown, float64 `[n]`; counting them means going through the file once."""
        deadline = Deadline(self.limits, self.name)
        durations: list[float] = []
        while True:
            try:
                self._image.seek(len(durations))
                self._image.load()
            except OLMoInputError:
                raise
            except EOFError:
                break
            except Exception as error:  # a cut file: what could be read so far is the video
                if durations:
                    break
                raise OLMoInputError(
                    f"{self.name} is a damaged or truncated animation ({error}); copy or download it again"
                ) from None
            shown_s = float(self._image.info.get("duration") or 0) / 1000
            durations.append(shown_s if shown_s > 0 else SHORTEST_S)
            self.limits.check_count(len(durations), self.name)
            deadline.check()
        return np.array(durations)
