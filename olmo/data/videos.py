"""Where the video of a row is: a path, bytes, or a name that a dataset gives without folder and ending.

Nothing here opens a video or the network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from olmo.data.pictures import is_url
from olmo.exceptions import OLMoInputError

VIDEO_SUFFIXES = (
    *(".mp4", ".m4v", ".mov", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".m2ts", ".flv", ".ogv", ".wmv", ".3gp"),
    *(".mxf", ".y4m"),
)
"""File names that count as videos where nobody looks inside. An animated .gif or .webp counts as a picture there."""

ENDINGS = ("", ".mp4", ".MP4", ".mkv", ".webm", ".mov", ".avi")
"""What is tried, in this order, behind the name that a dataset gives."""


class VideoFolder(NamedTuple):
    """A folder that a dataset keeps videos in.

    Attributes:
        path: below the root; "" is the root itself.
        is_cut: whether its files are cut to what is asked about, so that start and end of the row do not apply.
    """

    path: str
    is_cut: bool = False


class FoundVideo(NamedTuple):
    """A video as `olmo.preprocessing.video.open_video` takes it, and whether it is cut; see `VideoFolder`."""

    video: Any
    is_cut: bool = False


def resolve_video(value: Any, root: Path) -> Any:
    """A video as a row names it, as `open_video` takes it.

    Args:
        value: path of a file or of a folder of frames, or bytes, an array, or a list of frames.
        root: folder that relative paths start from.

    Returns:
        An absolute path as a string, or the value itself. Whether the file is there is not checked.

    Raises:
        OLMoInputError: a URL, or an empty path.
    """
    if not isinstance(value, str):
        return value
    if is_url(value):
        raise OLMoInputError(f"the video {value:.100} is a URL; download it and give the path of the file")
    if not value.strip():
        raise OLMoInputError("the path of the video is empty")
    return str(root / Path(value).expanduser())


def find_video(value: Any, root: Path, folders: Sequence[VideoFolder] = (VideoFolder(""),)) -> FoundVideo:
    """The video that a column of a dataset means.

    Args:
        value: path or name, with or without its ending, also a number; or `{"bytes", "path"}`, or bytes.
        root: folder that relative paths start from.
        folders: where below `root` it may lie; the first that has it counts.

    Raises:
        OLMoInputError: no such file; the message says where it was looked for.
    """
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        if data is None and path is None:
            raise OLMoInputError(f"the video has neither 'bytes' nor 'path' (its keys: {', '.join(map(str, value))})")
        return find_video(path, root, folders) if data is None else FoundVideo(data)
    if isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        return FoundVideo(value)
    resolve_video(value, root)  # refuses what is no path
    for folder in folders:
        for ending in ENDINGS:
            file = root / folder.path / f"{Path(value).expanduser()}{ending}"
            if file.exists():
                return FoundVideo(str(file), folder.is_cut)
    places = ", ".join(str(root / folder.path) for folder in folders)
    raise OLMoInputError(
        f"the video {value!r:.100} is not there (looked in {places}; endings {', '.join(filter(None, ENDINGS))}); "
        "unpack the videos of the dataset and give their folder as image_root"
    )


def find_subtitles(value: Any, root: Path, folders: Sequence[str] = ("",)) -> Any:
    """Subtitles as `VideoPreprocessor` takes them: the path of a file, or None where a dataset has none of this name.

    Args:
        value: path of an SRT or WebVTT file, or its name without ending.
        root: folder that relative paths start from.
        folders: where below `root` it may lie. With the default a file that is missing is an error later on.
    """
    if not isinstance(value, str):
        return value
    for folder in folders:
        for ending in ("", ".srt", ".vtt"):
            file = root / folder / f"{value}{ending}"
            if file.is_file():
                return str(file)
    return str(root / value) if tuple(folders) == ("",) else None
