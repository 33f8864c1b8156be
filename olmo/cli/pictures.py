"""Pictures as they are named on the command line: files, and folders of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from olmo.data.pictures import PICTURE_SUFFIXES
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import load_image
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig

SUFFIXES = PICTURE_SUFFIXES
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


def has_picture_name(text: str) -> bool:
    """Whether this reads like the name of a picture file."""
    return text.lower().endswith(SUFFIXES) and not any(c.isspace() for c in Path(text).name)


def is_path(text: str) -> bool:
    """Whether a file or folder of this name exists."""
    try:
        return Path(text).exists()
    except (OSError, ValueError):  # a question can be too long for a path
        return False
