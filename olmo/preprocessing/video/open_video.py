"""`open_video`: anything that shows a video, as a `VideoSource`. What a file is, its first bytes say, not its name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.animation_source import AnimationSource
from olmo.preprocessing.video.array_source import ArraySource, PictureListSource, is_array
from olmo.preprocessing.video.av_source import AvSource
from olmo.preprocessing.video.folder_source import FolderSource
from olmo.preprocessing.video.numpy_file import load_frames
from olmo.preprocessing.video.source import VideoLimits, VideoSource

_HEAD = 16  # bytes that tell what a file is
_PICTURES = {b"\xff\xd8\xff": "JPEG", b"BM": "BMP", b"II*\0": "TIFF", b"MM\0*": "TIFF"}


def open_video(
    video: Any,
    *,
    fps: float | None = None,
    seconds: Sequence[float] | np.ndarray | None = None,
    limits: VideoLimits | None = None,
) -> VideoSource:
    """Open a video, whatever it is kept in. Close it afterwards, or use it in a `with` block.

    Args:
        video: path of a local file or folder of pictures, bytes of a file, array or tensor `[T, H, W, 3]` or
            `[T, 3, H, W]` of uint8, list of pictures, animated Pillow picture, `{"frames": array or list, "seconds":
            times}` (or `"fps"`), or a `VideoSource`, which comes back.
            Files: what PyAV decodes (MP4, WebM, MKV, MOV, AVI, TS ...), animated GIF, WebP and PNG, .npy and .npz.
        fps: frames a second, for what does not tell it itself: arrays, lists, folders, raw streams.
        seconds: presentation times of the frames of an array, list or folder; in place of `fps`.
        limits: what reading may cost; None takes the defaults of `VideoLimits`.

    Returns:
        The source, with at least one frame.

    Raises:
        OLMoInputError: not a video, missing, damaged, too large, an address, or PyAV is needed and not installed.
    """
    limits = limits or VideoLimits()
    if isinstance(video, VideoSource):
        return video
    if isinstance(video, Mapping):
        return _of_mapping(video, fps, seconds, limits)
    if is_array(video):
        return ArraySource(video, seconds=seconds, fps=fps, limits=limits)
    if isinstance(video, list | tuple):
        return PictureListSource(video, seconds=seconds, fps=fps, limits=limits)
    if isinstance(video, Image.Image):
        if getattr(video, "n_frames", 1) < 2:
            raise OLMoInputError(_is_picture("the video", "Pillow"))
        return AnimationSource(video, name="the animation", limits=limits)
    if isinstance(video, bytes | bytearray | memoryview):
        data = bytes(video)
        return _of_file(data, data[:_HEAD], f"the video given as {len(data)} bytes", fps, seconds, limits)
    if isinstance(video, str | Path):
        return _of_path(video, fps, seconds, limits)
    raise OLMoInputError(
        f"cannot read a video from {type(video).__name__}; give a path, the bytes of a file, a uint8 array of shape "
        "[T, H, W, 3], or a list of pictures"
    )


def _of_mapping(
    video: Mapping[str, Any], fps: float | None, seconds: Sequence[float] | np.ndarray | None, limits: VideoLimits
) -> VideoSource:
    if "frames" not in video or set(video) - {"frames", "seconds", "fps"}:
        raise OLMoInputError(
            f"a video as a mapping holds 'frames', and 'seconds' or 'fps' beside them; got {', '.join(map(str, video))}"
        )
    seconds = video.get("seconds") if seconds is None else seconds
    fps = video.get("fps") if fps is None and seconds is None else fps
    return open_video(video["frames"], fps=fps, seconds=seconds, limits=limits)


def _of_path(
    path: str | Path, fps: float | None, seconds: Sequence[float] | np.ndarray | None, limits: VideoLimits
) -> VideoSource:
    if isinstance(path, str) and ("://" in path or path.startswith("data:")):
        raise OLMoInputError(f"videos are not fetched from {path[:60]!r}; download it and give the path or the bytes")
    name = f"video {str(path)!r}"
    try:
        file = Path(path)
        if file.is_dir():
            return FolderSource(file, seconds=seconds, fps=fps, limits=limits)
        if not file.is_file():
            what = "is not a regular file" if file.exists() else "does not exist"
            raise OLMoInputError(f"{name} {what} (current folder: {Path.cwd()}); check the path")
        with file.open("rb") as opened:
            head = opened.read(_HEAD)
    except (OSError, ValueError) as error:
        raise OLMoInputError(f"cannot read {name}: {error}") from None
    return _of_file(file, head, name, fps, seconds, limits)


def _of_file(
    file: Path | bytes,
    head: bytes,
    name: str,
    fps: float | None,
    seconds: Sequence[float] | np.ndarray | None,
    limits: VideoLimits,
) -> VideoSource:
    """The source for a file, by its first bytes."""
    if not head:
        raise OLMoInputError(f"{name} is empty (0 bytes); write or download it again")
    for magic, kind in _PICTURES.items():
        if head.startswith(magic):
            raise OLMoInputError(_is_picture(name, kind))
    if head.startswith((b"\x93NUMPY", b"PK\x03\x04")):
        frames, own_seconds, own_fps = load_frames(file, head.startswith(b"PK"), name, limits)
        own_seconds = own_seconds if seconds is None else np.asarray(seconds)
        return ArraySource(frames, seconds=own_seconds, fps=fps or own_fps, name=name, limits=limits)
    if head.startswith((b"GIF8", b"\x89PNG\r\n")) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP"):
        source = AnimationSource(file if isinstance(file, bytes) else file.read_bytes(), name=name, limits=limits)
        if source.n_frames == 1 and not head.startswith(b"GIF8"):
            source.close()
            raise OLMoInputError(_is_picture(name, "WebP" if head[:4] == b"RIFF" else "PNG"))
        return source
    if seconds is not None:
        raise OLMoInputError(f"{name} tells its own times; leave seconds= to arrays, lists and folders")
    return AvSource(file, fps=fps, name=name, limits=limits)


def _is_picture(name: str, kind: str) -> str:
    return f"{name} is a single {kind} picture, not a video; give it as an image, or as a list of one: [picture]"
