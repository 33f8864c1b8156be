"""Many small pictures on one sheet, each with a line of text below it."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from olmo.exceptions import OLMoInputError

CELL_PX = 240
"""Longer side of a picture on the sheet."""

MAX_PICTURES = 1024
"""More do not fit on a sheet that can be looked at."""

_GAP = 8
_LINE = 20  # height of the text below a picture
_INK, _PAPER = (20, 20, 24), (255, 255, 255)


def shrink(picture: np.ndarray, cell_px: int = CELL_PX) -> np.ndarray:
    """A picture as it stands on a sheet; a smaller one keeps its size.

    Args:
        picture: uint8 `[H, W, 3]`.
        cell_px: longest side allowed.

    Returns:
        uint8 `[h, w, 3]` of about the same shape.
    """
    height, width = picture.shape[:2]
    scale = cell_px / max(height, width)
    if scale >= 1:
        return picture
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(Image.fromarray(picture).resize(size, Image.Resampling.BICUBIC, reducing_gap=2.0))


def contact_sheet(
    pictures: Sequence[np.ndarray], texts: Sequence[str], *, n_columns: int | None = None, cell_px: int = CELL_PX
) -> Image.Image:
    """Put pictures side by side, row by row.

    Args:
        pictures: uint8 `[H, W, 3]` each, at least one; larger ones are made smaller.
        texts: what stands below each.
        n_columns: pictures of a row; None makes the sheet about as wide as it is high.
        cell_px: longest side of a picture.

    Returns:
        The sheet, in RGB.

    Raises:
        OLMoInputError: no pictures or too many, or a number of texts or columns that does not fit.
    """
    n = len(pictures)
    if not 1 <= n <= MAX_PICTURES:
        raise OLMoInputError(f"a contact sheet holds 1 to {MAX_PICTURES} pictures, got {n}")
    if len(texts) != n:
        raise OLMoInputError(f"{n} pictures need {n} texts, got {len(texts)}")
    if n_columns is not None and n_columns < 1:
        raise OLMoInputError(f"a contact sheet has at least one column, got {n_columns}")
    small = [shrink(picture, cell_px) for picture in pictures]
    font = ImageFont.load_default(size=13)
    width = max([p.shape[1] for p in small] + [math.ceil(font.getlength(text)) for text in texts])
    height = max(p.shape[0] for p in small) + _LINE
    columns = min(n, n_columns or math.ceil(math.sqrt(n * height / width)))
    rows = -(-n // columns)
    sheet = Image.new("RGB", (columns * (width + _GAP) + _GAP, rows * (height + _GAP) + _GAP), _PAPER)
    pen = ImageDraw.Draw(sheet)
    for i, (picture, text) in enumerate(zip(small, texts, strict=True)):
        row, column = divmod(i, columns)
        x, y = _GAP + column * (width + _GAP), _GAP + row * (height + _GAP)
        sheet.paste(Image.fromarray(picture), (x, y))
        pen.text((x, y + picture.shape[0] + 3), text, font=font, fill=_INK)
    return sheet
