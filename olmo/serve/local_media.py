"""Pictures and videos that a person's own batch names: files of this machine, and `data:` addresses."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote, urlsplit

from olmo.preprocessing.video.video_spec import VideoSpec
from olmo.serve.errors import ApiError, too_large
from olmo.serve.media import Media, read_data_url
from olmo.serve.serve_config import ServeConfig

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+:")  # of two letters and more: `C:` is a drive


class LocalMedia(Media):
    """Reads what whoever runs this process may read. Nothing is fetched; decoding happens in other processes.

    Args:
        config: limits.
        video: how the model chooses frames; None where it takes no videos.
        base: folder that relative paths start from.
    """

    def __init__(self, config: ServeConfig, video: VideoSpec | None, base: Path) -> None:
        super().__init__(config, video)
        self._base = base

    def _check_video_url(self, url: str) -> None:
        """Any that a picture may have."""

    def _bytes(self, url: str) -> bytes:
        if url[:5].lower() == "data:":
            return read_data_url(url, self.config.max_media_bytes)
        scheme = _SCHEME.match(url)
        if scheme is not None and scheme.group().lower() != "file:":
            raise ApiError(
                400, f"{url[:100]!r} is not opened: a batch reads files of this machine and data: addresses; download "
                "it first", code="unsupported_url",
            )  # fmt: skip
        name = url if scheme is None else unquote(urlsplit(url).path)
        try:
            path = self._base / name
            n_bytes = path.stat().st_size
            if n_bytes > self.config.max_media_bytes:
                raise too_large(
                    f"{name[:200]!r} has {n_bytes:,} bytes, over the limit of {self.config.max_media_bytes:,} "
                    "(max_media_bytes)", "media_too_large",
                )  # fmt: skip
            if not path.is_file():
                raise ApiError(400, f"{name[:200]!r} is not a file", code="invalid_url")
            return path.read_bytes()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise ApiError(400, f"cannot read {name[:200]!r} ({reason}); paths start from {self._base}"
                           , code="invalid_url") from None  # fmt: skip
