from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def picture_bytes(seed: int = 0, width: int = 12, height: int = 8, suffix: str = "PNG") -> bytes:
    """A noisy picture as the bytes of a file."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, suffix)
    return out.getvalue()


@pytest.fixture
def make_picture() -> Callable[..., bytes]:
    return picture_bytes


@pytest.fixture
def write_rows(tmp_path: Path) -> Callable[..., Path]:
    """Writes lines to `rows.jsonl`, with pictures `a.png` and `b.png` beside it."""
    for seed, name in enumerate(("a.png", "b.png")):
        (tmp_path / name).write_bytes(picture_bytes(seed))

    def write(*lines: str, name: str = "rows.jsonl") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        return path

    return write
