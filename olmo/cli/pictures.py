"""Pictures as they are named on the command line: files, and folders of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import load_image
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".gif", ".bmp", ".tif", ".tiff", ".ppm")
"""File names that count as pictures in a folder; a file that is named itself may be called anything."""


def load_picture(path: str | Path) -> np.ndarray:
    """The picture in a file as uint8 `[H, W, 3]`; it is read before the model, so that a wrong path shows at once.

    Raises:
        OLMoInputError: not a picture, missing, truncated or too large.
    """
    return load_image(path, MolmoPreprocessorConfig().max_pixels)


def pictures_in(folder: str | Path) -> list[Path]:
    """The pictures right in a folder, by name.

    Raises:
        OLMoInputError: there are none.
    """
    found = sorted(p for p in Path(folder).iterdir() if p.suffix.lower() in SUFFIXES and p.is_file())
    if not found:
        raise OLMoInputError(f"folder {str(folder)!r} holds no pictures; looked for {', '.join(SUFFIXES)}")
    return found


def looks_like_a_path(text: str) -> bool:
    """Whether this is rather a picture than a question."""
    is_name = not any(c.isspace() for c in text) and text.lower().endswith(SUFFIXES)
    try:
        return is_name or Path(text).exists()
    except (OSError, ValueError):  # a question can be too long for a path
        return False
