"""A folder of pictures as a video: one frame a file, in order of the numbers in their names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.array_source import PictureListSource
from olmo.preprocessing.video.source import VideoLimits

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
"""Names of files that are frames; others in the folder are left alone."""


class FolderSource(PictureListSource):
    """The pictures right in a folder.

    `frame_2.png` comes before `frame_10.png`. Files are opened when their frame is wanted.

    Args:
        folder: where the pictures are.
        seconds: presentation times, strictly increasing.
        fps: frames a second, where there are no times.
        limits: what may be read.

    Raises:
        OLMoInputError: no pictures there, a first one that cannot be read, or times that do not fit.
    """

    def __init__(
        self,
        folder: str | Path,
        *,
        seconds: Sequence[float] | np.ndarray | None = None,
        fps: float | None = None,
        limits: VideoLimits | None = None,
    ) -> None:
        name = f"folder {str(folder)!r}"
        limits = limits or VideoLimits()
        pictures: list[Path] = []
        try:
            for path in Path(folder).iterdir():
                if path.suffix.lower() in SUFFIXES and not path.name.startswith(".") and path.is_file():
                    pictures.append(path)
                    limits.check_count(len(pictures), name)
        except OSError as error:
            raise OLMoInputError(f"cannot read {name}: {error}") from None
        if not pictures:
            raise OLMoInputError(f"{name} holds no pictures to make a video of; looked for {', '.join(SUFFIXES)}")
        super().__init__(sorted(pictures, key=_natural), seconds=seconds, fps=fps, name=name, limits=limits)


def _natural(path: Path) -> list[tuple[int, int | str]]:
    """What to sort names by so that numbers in them count as numbers."""
    parts = re.split(r"(\d+)", path.name.lower())
    return [(0, int(part)) if part.isdecimal() else (1, part) for part in parts]
