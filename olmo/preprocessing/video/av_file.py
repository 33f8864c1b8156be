"""Video files opened with PyAV, and only such files as are meant to be opened.

Lives here: which containers and codecs are allowed, and what goes wrong while opening, in plain words. FFmpeg can
follow addresses and lists of other files that a file names; here it gets local files and bytes, and formats that name
no others.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import TYPE_CHECKING

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.source import VideoLimits

if TYPE_CHECKING:
    from av.container import InputContainer
    from av.video.stream import VideoStream

FORMATS = (
    *("mov", "mp4", "m4a", "3gp", "3g2", "mj2", "matroska", "webm", "avi", "mpegts", "mpeg", "mpegvideo", "flv", "ogg"),
    *("asf", "ivf", "h264", "hevc", "obu", "m4v", "mxf", "nut", "y4m", "yuv4mpegpipe"),
)
"""Containers that are opened, as FFmpeg names them. None of them makes FFmpeg open another file."""

CODECS = (
    *("h264", "hevc", "vp8", "vp9", "av1", "libdav1d", "libvpx", "libvpx-vp9", "mpeg4", "mpeg2video", "mpeg1video"),
    *("h263", "msmpeg4", "msmpeg4v2", "wmv1", "wmv2", "wmv3", "vc1", "mjpeg", "theora", "prores", "dnxhd", "ffv1"),
    *("huffyuv", "rawvideo", "qtrle", "flv", "png", "svq3"),
)
"""Codecs that are decoded; the rarer ones of FFmpeg stay closed to untrusted files."""


def open_container(video: str | Path | bytes, name: str, limits: VideoLimits) -> tuple[InputContainer, VideoStream]:
    """Open a file or the bytes of one, and find its video.

    Args:
        video: path of a regular local file, or its bytes.
        name: what messages call it.
        limits: what may be read.

    Returns:
        The container, and its video stream. The caller closes the container.

    Raises:
        OLMoInputError: PyAV is not installed, not a video, damaged, without a video stream, of a codec or format that
            is not opened, or too large.
    """
    try:
        import av
    except ImportError:
        raise OLMoInputError(
            f"{name} needs PyAV to be decoded, which is not installed; run: pip install 'molmo[video]'. Arrays, lists "
            "and folders of pictures, GIF, WebP and APNG are read without it"
        ) from None
    given: str | io.BytesIO = io.BytesIO(video) if isinstance(video, bytes) else f"file:{Path(video).absolute()}"
    options = {"format_whitelist": ",".join(FORMATS), "codec_whitelist": ",".join(CODECS)}
    if not isinstance(video, bytes):
        options["protocol_whitelist"] = "file"
    try:
        container = av.open(
            given,
            "r",
            container_options=options,
            options={"max_pixels": str(limits.max_pixels)},
            metadata_errors="replace",
        )
    except (av.error.FFmpegError, ValueError, UnicodeError) as error:
        raise OLMoInputError(
            f"{name} is not a video that can be opened ({_reason(error)}); it may be cut short, damaged, or of another "
            "format. Copy or download it again, or convert it to MP4 or WebM"
        ) from None
    try:
        return container, _video_stream(container, name, limits)
    except BaseException:
        container.close()
        raise


def _video_stream(container: InputContainer, name: str, limits: VideoLimits) -> VideoStream:
    """The stream of moving pictures; a cover picture in a sound file is none."""
    from av.stream import Discard, Disposition

    moving = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not moving:
        others = ", ".join(sorted({s.type for s in container.streams})) or "nothing"
        raise OLMoInputError(f"{name} has no video stream (it holds: {others}); give a file with moving pictures")
    stream = next((s for s in moving if s.disposition & Disposition.default), moving[0])
    context = stream.codec_context
    if context is None:
        raise OLMoInputError(f"{name} has a video of a codec that is unknown here; convert it to H.264, VP9 or AV1")
    if context.name not in CODECS:
        raise OLMoInputError(
            f"{name} has a video of codec {context.name!r}, which is not opened; convert it to H.264, VP9 or AV1"
        )
    if context.width and context.height:
        limits.check_size(context.width, context.height, name)
    for other in container.streams:
        if other.index != stream.index:
            other.discard = Discard.all  # packets of sound and subtitles are not even read
    return stream


def _reason(error: Exception) -> str:
    """What FFmpeg says; a format outside the list is reported as a wrong argument."""
    text = getattr(error, "strerror", None) or str(error)
    return "a format that is not opened" if "Invalid argument" in text else text
