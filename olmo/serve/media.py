"""Pictures and videos of a request: from an address in it to pixels.

`data:` addresses hold the file. `http:` and `https:` are fetched where the host is listed, `file:` is read below one
folder; both are off by default. What a file is, its first bytes say. Decoding happens in other processes.
"""

from __future__ import annotations

import asyncio
import binascii
import logging
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import unquote, urlsplit

import numpy as np

from olmo.data.public_http import FetchError, FetchLimits, fetch
from olmo.preprocessing.video.array_source import ArraySource
from olmo.preprocessing.video.video_spec import VideoSpec
from olmo.serve.errors import ApiError, too_large
from olmo.serve.media_pool import Decoded, MediaPool
from olmo.serve.serve_config import ServeConfig

_LOG = logging.getLogger("olmo.serve")
_MAX_HEAD = 256  # characters of a data address before its comma
_FETCHERS = 4
_CLIP_BYTES = 2**29  # pixels of all frames of a video
_PICTURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
_VIDEOS = (b"\x1a\x45\xdf\xa3", b"GIF87a", b"GIF89a", b"\x89PNG\r\n\x1a\n")


class DecodedClip(ArraySource):
    """The frames of a video that were chosen already, with the times and the length of the whole."""

    def __init__(self, decoded: Decoded) -> None:
        super().__init__(decoded.pixels, fps=1.0, name="the video")
        self.seconds = np.asarray(decoded.seconds, np.float64)
        self._duration_s = decoded.duration_s

    @property
    def duration_s(self) -> float | None:
        """Length of the video that the frames are from, in seconds."""
        return self._duration_s


class Media:
    """Gets pixels for the addresses of requests.

    Args:
        config: limits, and what may be fetched or read.
        video: how the model chooses frames; None where it takes no videos.
    """

    def __init__(self, config: ServeConfig, video: VideoSpec | None = None) -> None:
        self.config = config
        self.pool = MediaPool(config.media_workers, config.media_memory_bytes, config.media_timeout_s)
        self._video = video
        self._threads = ThreadPoolExecutor(_FETCHERS, thread_name_prefix="olmo-media")

    async def picture(self, url: str) -> np.ndarray:
        """The picture at an address as uint8 `[H, W, 3]`; of an animation its first frame.

        Raises:
            ApiError: 400: no such address, or not a picture; 413: past a limit.
        """
        data = await self._in_thread(self._bytes, url)
        if not is_picture(data):
            raise ApiError(400, "the picture is not a JPEG, PNG, WebP or GIF file", code="invalid_media")
        return (await self.pool.decode(data, kind="image", max_pixels=self.config.max_pixels)).pixels

    async def video(self, url: str) -> DecodedClip:
        """The frames of the video in a `data:` address that the model would choose.

        Raises:
            ApiError: 400: not such an address, not a video, or a model without videos; 413: past a limit.
        """
        if self._video is None:
            raise ApiError(400, "this model reads pictures, not videos", code="unsupported_media")
        self._check_video_url(url)
        data = await self._in_thread(self._bytes, url)
        if not is_video(data):
            raise ApiError(400, "the video is not an MP4, MOV, WebM, MKV, GIF, WebP or PNG file", code="invalid_media")
        decoded = await self.pool.decode(
            data,
            kind="video",
            max_pixels=self.config.max_pixels,
            sampling=self._video.sampling.value,
            max_frames=self._video.n_frames,
            max_fps=self._video.max_fps,
            seed=self._video.seed,
            timeout_s=self.config.media_timeout_s,
            max_bytes=min(_CLIP_BYTES, self.config.media_memory_bytes // 4),
        )
        return DecodedClip(decoded)

    async def close(self) -> None:
        """End the processes and threads."""
        await self.pool.close()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _check_video_url(self, url: str) -> None:
        if not url[:5].lower() == "data:":
            raise ApiError(400, "a video_url is a data: address that holds the video", code="unsupported_url")

    async def _in_thread(self, action: object, url: str) -> bytes:
        assert callable(action), "a method of this class"
        return await asyncio.get_running_loop().run_in_executor(self._threads, action, url)

    def _bytes(self, url: str) -> bytes:
        scheme = url[:6].partition(":")[0].lower()
        if scheme == "data":
            return read_data_url(url, self.config.max_media_bytes)
        if scheme in ("http", "https") and self.config.remote_hosts:
            return self._fetched(url)
        if scheme == "file" and self.config.media_root is not None:
            return read_below(Path(self.config.media_root), url, self.config.max_media_bytes)
        raise ApiError(
            400,
            "the server reads pictures from data: addresses (data:image/png;base64,...) alone; it does not fetch or "
            "open this one",
            code="unsupported_url",
        )

    def _fetched(self, url: str) -> bytes:
        limits = FetchLimits(
            timeout_s=min(5.0, self.config.media_timeout_s),
            total_s=self.config.media_timeout_s,
            max_bytes=self.config.max_media_bytes,
            hosts=frozenset(name.lower() for name in self.config.remote_hosts),
        )
        try:
            return fetch(url, limits)
        except FetchError as error:
            # The reason stays here: it would tell what is reachable from this machine.
            _LOG.info("a picture was not fetched: %s", error.reason)
            raise ApiError(
                400,
                "the picture could not be fetched: its host is not listed, or the file is missing, too large or too "
                "slow; send it as a data: address",
                code="fetch_failed",
            ) from None


def read_data_url(url: str, max_bytes: int) -> bytes:
    """The file in a `data:` address.

    Args:
        url: `data:image/png;base64,...`.
        max_bytes: of the file.

    Raises:
        ApiError: 400: not such an address, or not strict base64; 413: more bytes.
    """
    head, comma, text = url[: _MAX_HEAD + 1].partition(",")
    if not comma or not head.lower().endswith(";base64"):
        raise ApiError(400, "a data: address is data:TYPE;base64,DATA", code="invalid_url")
    if head[5:].partition("/")[0].lower() not in ("image", "video"):
        raise ApiError(400, "a data: address holds an image or a video, by its type", code="invalid_url")
    text = url[len(head) + 1 :]
    if len(text) // 4 * 3 > max_bytes + 2:
        raise too_large(f"a picture or video is over the limit of {max_bytes:,} bytes", "media_too_large")
    try:
        data = binascii.a2b_base64(text.encode("ascii"), strict_mode=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ApiError(400, f"the data: address is not base64: {error}"[:200], code="invalid_url") from None
    if not data or len(text) != -(-len(data) // 3) * 4:
        raise ApiError(400, "the data: address is empty, or has more padding than base64 has", code="invalid_url")
    if len(data) > max_bytes:
        raise too_large(f"a picture or video is over the limit of {max_bytes:,} bytes", "media_too_large")
    return data


def read_below(root: Path, url: str, max_bytes: int) -> bytes:
    """The file that a `file:` address names, where it lies below `root` after all links are followed.

    Args:
        root: folder.
        url: `file:///path`, or `file:path` from the folder on.
        max_bytes: of the file.

    Raises:
        ApiError: 400: no such file there; 413: more bytes.
    """
    missing = ApiError(400, "there is no such file in the folder that this server reads", code="invalid_url")
    parts = urlsplit(url)
    if parts.netloc not in ("", "localhost") or parts.query or parts.fragment:
        raise missing
    base = root.resolve()
    try:
        path = (base / unquote(parts.path)).resolve(strict=True)
        if not path.is_relative_to(base) or not path.is_file():
            raise missing
        # The last link was followed above; one that was put there since is not.
        with os.fdopen(os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0)), "rb") as file:
            data = file.read(max_bytes + 1)
    except (OSError, ValueError):
        raise missing from None
    if len(data) > max_bytes:
        raise too_large(f"a picture is over the limit of {max_bytes:,} bytes", "media_too_large")
    return data


def is_picture(data: bytes) -> bool:
    """Whether a file begins like a JPEG, PNG, GIF or WebP."""
    return data.startswith(_PICTURES) or _is_webp(data)


def is_video(data: bytes) -> bool:
    """Whether a file begins like an MP4, MOV, WebM or MKV, or like an animation."""
    return data.startswith(_VIDEOS) or data[4:8] == b"ftyp" or _is_webp(data)


def _is_webp(data: bytes) -> bool:
    return data[:4] == b"RIFF" and data[8:12] == b"WEBP"
