"""The process that decodes pictures and videos of strangers: `python -m olmo.serve.media_worker`.

It reads requests from its input and writes pixels to its output, one after the other, until the input ends. A message
is a length (4 bytes), that much JSON, and the bytes that the JSON announces under `n_bytes`. Nothing is pickled, so a
decoder that was taken over can only send wrong pixels. Knows nothing of models; torch is not imported.
"""

from __future__ import annotations

import io
import json
import os
import re
import sys
import warnings
from collections.abc import Mapping
from typing import Any, BinaryIO

import numpy as np
from PIL import Image

from olmo.exceptions import OLMoError
from olmo.preprocessing.image import load_image
from olmo.preprocessing.video.clip import read_frames
from olmo.preprocessing.video.open_video import open_video
from olmo.preprocessing.video.sampling import sample_frames
from olmo.preprocessing.video.source import VideoLimits
from olmo.preprocessing.video.timestamps import frame_seconds

try:
    import resource
except ImportError:  # not a Unix system
    resource = None  # type: ignore[assignment]

PICTURE_FORMATS = ("JPEG", "PNG", "WEBP", "GIF")
"""Formats that a server opens."""

_LENGTH = 4
_MAX_HEADER = 1 << 20
_MAX_MESSAGE = 400
_ADDRESS = re.compile(r"<[^<>]* at 0x[0-9a-fA-F]+>|\b0x[0-9a-fA-F]{4,}")  # as Python and C libraries write them
_MAX_WALK = 20_000  # frames that one request may decode, those between the wanted ones included


class _TooLargeError(OLMoError):
    """A picture is past a limit."""


def write_message(stream: BinaryIO, header: Mapping[str, Any], payload: bytes | memoryview = b"") -> None:
    """Write one message.

    Args:
        stream: where to.
        header: plain values; `n_bytes` is added.
        payload: what follows.
    """
    stream.write(message_head(header, len(payload)))
    stream.write(payload)
    stream.flush()


def message_head(header: Mapping[str, Any], n_bytes: int) -> bytes:
    """What stands before the `n_bytes` of a message."""
    text = json.dumps({**header, "n_bytes": n_bytes}).encode()
    return len(text).to_bytes(_LENGTH, "big") + text


def read_message(stream: BinaryIO) -> tuple[dict[str, Any], bytes] | None:
    """The next message, or None at the end of the input."""
    start = stream.read(_LENGTH)
    if len(start) < _LENGTH:
        return None
    length = int.from_bytes(start, "big")
    assert length <= _MAX_HEADER, "the header was made by this package"
    header = json.loads(stream.read(length))
    return header, stream.read(header["n_bytes"])


def decode(request: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], memoryview]:
    """Decode one file.

    Args:
        request: `kind` (`image` or `video`) and `max_pixels`; for videos `sampling`, `max_frames`, `max_fps`, `seed`,
            `timeout_s` and `max_bytes` too.
        data: the file.

    Returns:
        `ok` and what was found, and pixels. Without `ok` a message, and whether the file is too large.
    """
    try:
        found, pixels = _image(request, data) if request["kind"] == "image" else _video(request, data)
    except (OLMoError, MemoryError) as error:
        if isinstance(error, MemoryError) or isinstance(error.__cause__, MemoryError):
            error = _TooLargeError("decoding the file takes more memory than the server allows")
        refused = {"ok": False, "is_too_large": isinstance(error, _TooLargeError), "message": told_message(error)}
        return refused, memoryview(b"")
    return {"ok": True, "shape": list(pixels.shape), **found}, np.ascontiguousarray(pixels).data.cast("B")


def told_message(error: BaseException) -> str:
    """What a stranger is told of an error of a decoder: short, and without addresses of memory: they help attackers."""
    return _ADDRESS.sub("(...)", str(error))[:_MAX_MESSAGE]


def _image(request: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], np.ndarray]:
    _check_header(data, request["max_pixels"])
    return {}, load_image(data, request["max_pixels"])


def _check_header(data: bytes, max_pixels: int) -> None:
    """Refuse a picture by the size that its header tells, before a pixel is decoded."""
    try:
        with Image.open(io.BytesIO(data), formats=PICTURE_FORMATS) as opened:
            width, height = opened.size
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _TooLargeError(f"the picture is too large: {error}") from None
    except Exception:  # `load_image` says what is wrong
        return
    if width * height > max_pixels:
        raise _TooLargeError(
            f"the picture has {width}x{height} = {width * height:,} pixels, over the limit of {max_pixels:,}"
        )


def _video(request: Mapping[str, Any], data: bytes) -> tuple[dict[str, Any], np.ndarray]:
    limits = VideoLimits(
        max_pixels=request["max_pixels"],
        max_bytes=request["max_bytes"],
        timeout_s=request["timeout_s"],
        max_walk=_MAX_WALK,
    )
    with open_video(data, limits=limits) as source:
        selection = sample_frames(
            source,
            request["sampling"],
            max_frames=request["max_frames"],
            max_fps=request["max_fps"],
            seed=request["seed"],
        )
        duration_s = source.duration_s
        if duration_s is None:
            duration_s = source.n_frames * float(frame_seconds(source)[1]) if source.n_frames > 1 else 0.0
        clip = read_frames(source, selection)
    return {"seconds": clip.seconds.tolist(), "duration_s": duration_s}, np.stack(clip.frames)


def _limit(memory_bytes: int) -> None:
    """Take from this process what a decoder does not need."""
    if resource is None:
        return
    wanted = {"RLIMIT_AS": memory_bytes, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0}
    for name, limit in wanted.items():
        if hasattr(resource, name):
            _, hard = resource.getrlimit(getattr(resource, name))
            limit = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
            resource.setrlimit(getattr(resource, name), (limit, limit))


def main() -> None:
    """Answer requests; the one argument is the limit of memory in bytes."""
    warnings.simplefilter("ignore")
    source, target = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints is no pixel
    _limit(int(sys.argv[1]))
    while (message := read_message(source)) is not None:
        write_message(target, *decode(*message))


if __name__ == "__main__":
    main()
