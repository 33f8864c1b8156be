"""Where the picture of a row is: a path, bytes, or what `molmo data download` put away under the hash of a URL.

Nothing here opens a picture or the network.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olmo.exceptions import OLMoInputError

PICTURE_SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
"""File names that count as pictures in a folder."""


def is_url(value: Any) -> bool:
    """Whether this is a web address."""
    return isinstance(value, str) and value.lower().startswith(("http://", "https://"))


def downloaded_file(url: str, folder: Path) -> Path:
    """Where the picture of `url` lies in a folder of downloads: two levels, so that no folder gets a million files."""
    digest = hashlib.sha256(url.encode("utf-8")).hexdigest()
    return folder / digest[:2] / digest


def resolve_picture(value: Any, root: Path, downloads: Path | None = None) -> Any:
    """A picture as a row names it, as `olmo.preprocessing.image.load_image` takes it.

    Args:
        value: path, URL, bytes, a decoded picture, or the `{"bytes", "path"}` of a Hugging Face dataset.
        root: folder that relative paths start from.
        downloads: folder of downloaded pictures, by the hash of their URL.

    Returns:
        An absolute path as a string, or the value itself. Whether the file is there is not checked.

    Raises:
        OLMoInputError: a URL that has not been downloaded, or an empty path.
    """
    if isinstance(value, Mapping):
        data, path = value.get("bytes"), value.get("path")
        if data is None and path is None:
            raise OLMoInputError(f"the picture has neither 'bytes' nor 'path' (its keys: {', '.join(map(str, value))})")
        return resolve_picture(path, root, downloads) if data is None else data
    if is_url(value):
        file = None if downloads is None else downloaded_file(value, downloads)
        if file is None or not file.is_file():
            raise OLMoInputError(
                f"the picture {value:.100} is not on this machine; get it with `molmo data download` and give its "
                "folder as image_root"
            )
        return str(file)
    if isinstance(value, str):
        if not value.strip():
            raise OLMoInputError("the path of the picture is empty")
        return str(root / Path(value).expanduser())
    return value
