"""Videos as they are named on the command line, and how they are told from pictures."""

from __future__ import annotations

import warnings
from pathlib import Path

from PIL import Image

from olmo.data.videos import VIDEO_SUFFIXES
from olmo.preprocessing.image import FORMATS
from olmo.preprocessing.video.open_video import open_video
from olmo.preprocessing.video.source import VideoSource
from olmo.preprocessing.video.timestamps import DEFAULT_FPS

SUFFIXES = (*VIDEO_SUFFIXES, ".npy", ".npz")
"""File names that count as videos where the content says nothing."""

_ANIMATIONS = ("GIF", "WEBP", "PNG")
_HEAD = 12  # bytes that tell a file of a common kind
_MATROSKA = b"\x1a\x45\xdf\xa3"


def is_video(path: str | Path) -> bool:
    """Whether what is named here is a video rather than a picture: a file is what it holds, not what it is called.

    An animation of several frames is a video, one of a single frame a picture. Folders are none.
    """
    try:
        with Path(path).open("rb") as file:
            head = file.read(_HEAD)
    except (OSError, ValueError):  # not there, or a folder: what opens it later says so
        return has_video_name(str(path)) and not Path(path).is_dir()
    if head.startswith(_MATROSKA) or head[4:8] == b"ftyp":
        return True
    n_pictures = _count_pictures(path)
    return has_video_name(str(path)) if n_pictures is None else n_pictures > 1


def has_video_name(text: str) -> bool:
    """Whether this reads like the name of a video file."""
    return text.lower().endswith(SUFFIXES) and not any(c.isspace() for c in Path(text).name)


def open_clip(path: str | Path, fps: float | None = None) -> VideoSource:
    """A video that is named on the command line. It is opened before the model, so that a wrong path shows at once.

    Args:
        path: file, or folder of pictures.
        fps: frames a second, where the video does not tell.

    Raises:
        OLMoInputError: not a video, missing or damaged, or PyAV is needed and not installed.
    """
    source = open_video(path, fps=fps)
    if source.seconds is None and not source.fps:
        warnings.warn(
            f"{source.name} tells no times, so {DEFAULT_FPS:g} frames a second are assumed; --fps says otherwise",
            stacklevel=2,
        )
        source.fps = DEFAULT_FPS
    return source


def _count_pictures(path: str | Path) -> int | None:
    """Frames of an animation, 1 for any other picture; None: not a picture that can be opened."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # whoever reads the picture warns of its size
            with Image.open(path, formats=FORMATS) as picture:
                return getattr(picture, "n_frames", 1) if picture.format in _ANIMATIONS else 1
    except Exception:  # a decoder may raise anything on hostile bytes; whoever reads the file says what is wrong
        return None
