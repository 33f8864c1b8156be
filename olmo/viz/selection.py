"""Which picture tokens a model kept, drawn onto the picture: kept patches bright, all others gray and dim.

Knows nothing of models or crops; `token_places` says where tokens lie.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from olmo.exceptions import OLMoInputError
from olmo.viz.contact_sheet import CELL_PX, contact_sheet, shrink

MIN_SIDE_PX = 480
"""Longer side that a smaller picture is enlarged to, by a whole factor."""

DIM = 0.35
"""Brightness that is left of what was not kept."""

EDGE, OVERVIEW_EDGE = (255, 176, 0), (0, 158, 226)
"""Colours around what was kept, and around what was kept of the global crop where finer tokens lie on it."""

_LOW, _HIGH = np.array([0, 70, 200]), np.array([255, 60, 0])  # tints of the lowest and the highest score
_TINT = 0.4
_INK, _PAPER = (20, 20, 24), (255, 255, 255)


@dataclass(frozen=True)
class TokensOnPicture:
    """The tokens of one picture or frame; T of them.

    Attributes:
        boxes: `[T, 4]` left, top, right and bottom as shares of the picture, 0 to 1.
        is_kept: bool `[T]`.
        scores: float `[T]`, finite.
        is_fine: bool `[T]`, True on tokens of high-resolution crops. Where such tokens lie, they are what is shown.
    """

    boxes: np.ndarray
    is_kept: np.ndarray
    scores: np.ndarray
    is_fine: np.ndarray


def draw_kept(picture: Image.Image | np.ndarray, tokens: TokensOnPicture, *, shaded: bool = False) -> Image.Image:
    """A copy of a picture that shows which of its tokens were kept, with a line below that says how many.

    Args:
        picture: PIL image or uint8 `[H, W, 3]`; not changed. A small one is enlarged by a whole factor.
        tokens: its tokens.
        shaded: tint each token by the rank of its score, blue the lowest and red the highest.

    Returns:
        RGB picture.

    Raises:
        OLMoInputError: the arrays of the tokens do not belong together.
    """
    marked = _marked(_enlarged(_pixels(picture), MIN_SIDE_PX), tokens, shaded)
    return _with_legend(Image.fromarray(marked), _legend([tokens], shaded))


def kept_sheet(
    pictures: Sequence[Image.Image | np.ndarray],
    tokens: Sequence[TokensOnPicture],
    texts: Sequence[str] | None = None,
    *,
    shaded: bool = False,
) -> Image.Image:
    """A contact sheet of pictures or frames that shows which of their tokens were kept.

    Args:
        pictures: PIL images or uint8 `[H, W, 3]` each; not changed.
        tokens: the tokens of each.
        texts: what stands below each, before the number of tokens kept; None: nothing.
        shaded: tint each token by the rank of its score among those of its picture.

    Returns:
        RGB picture.

    Raises:
        OLMoInputError: arrays or numbers do not belong together, or there are too many pictures for a sheet.
    """
    names = [""] * len(pictures) if texts is None else texts
    if not len(pictures) == len(tokens) == len(names):
        raise OLMoInputError(
            f"each picture needs its tokens and a text: {len(pictures)} pictures, {len(tokens)} sets of tokens, "
            f"{len(names)} texts"
        )
    cells = [
        _marked(_enlarged(shrink(_pixels(picture)), CELL_PX), shown, shaded)
        for picture, shown in zip(pictures, tokens, strict=True)
    ]
    lines = [f"{name}   {_counts([shown])}".strip() for name, shown in zip(names, tokens, strict=True)]
    return _with_legend(contact_sheet(cells, lines), _legend(tokens, shaded))


def _pixels(picture: Image.Image | np.ndarray) -> np.ndarray:
    return np.asarray(picture.convert("RGB")) if isinstance(picture, Image.Image) else picture


def _enlarged(pixels: np.ndarray, side: int) -> np.ndarray:
    """Pixels repeated so often that the longer side comes closest to `side` from below; no more than it takes."""
    factor = max(1, side // max(pixels.shape[:2]))
    return pixels.repeat(factor, axis=0).repeat(factor, axis=1)


def _marked(pixels: np.ndarray, tokens: TokensOnPicture, shaded: bool) -> np.ndarray:
    """uint8 `[H, W, 3]` with kept patches bright, the others dim, and edges between them."""
    _check(tokens)
    size = pixels.shape[:2]
    fine, coarse = tokens.is_fine, ~tokens.is_fine
    has_fine = _area(size, tokens.boxes[fine])
    kept_coarse = _area(size, tokens.boxes[coarse & tokens.is_kept])
    is_bright = np.where(has_fine, _area(size, tokens.boxes[fine & tokens.is_kept]), kept_coarse)
    gray = pixels @ np.array([0.299, 0.587, 0.114])  # [H, W]
    shown = np.where(is_bright[..., None], pixels, DIM * gray[..., None])
    if shaded:
        tints, is_tinted = _tints(size, tokens)
        weight = np.where(is_bright, _TINT, DIM * _TINT)[..., None] * is_tinted[..., None]
        shown = (1 - weight) * shown + weight * tints
    width = max(1, round(max(size) / 400))
    shown[_edge(kept_coarse, width) & has_fine] = OVERVIEW_EDGE
    shown[_edge(is_bright, width)] = EDGE
    return shown.round().astype(np.uint8)


def _check(tokens: TokensOnPicture) -> None:
    n = len(tokens.is_kept)
    shapes = [tokens.boxes.shape, tokens.is_kept.shape, tokens.scores.shape, tokens.is_fine.shape]
    if shapes != [(n, 4), (n,), (n,), (n,)]:
        raise OLMoInputError(f"boxes, is_kept, scores and is_fine must be [T, 4], [T], [T] and [T], got {shapes}")


def _area(size: tuple[int, int], boxes: np.ndarray) -> np.ndarray:
    """Pixels `[H, W]`, bool, whose middle lies in one of the boxes."""
    area = np.zeros(size, dtype=bool)
    for rows, columns in _slices(size, boxes):
        area[rows, columns] = True
    return area


def _slices(size: tuple[int, int], boxes: np.ndarray) -> list[tuple[slice, slice]]:
    """Rows and columns of the pixels whose middle lies in each box."""
    height, width = size
    edges = np.ceil(np.round(boxes * [width, height, width, height], 6) - 0.5).astype(int)
    return [(slice(top, bottom), slice(left, right)) for left, top, right, bottom in edges.tolist()]


def _tints(size: tuple[int, int], tokens: TokensOnPicture) -> tuple[np.ndarray, np.ndarray]:
    """Colours `[H, W, 3]` of the scores, and bool `[H, W]` where there are any; finer tokens lie on top."""
    values, rank = np.unique(tokens.scores, return_inverse=True)
    share = rank / max(1, len(values) - 1)  # [T]
    tints, is_tinted = np.zeros((*size, 3)), np.zeros(size, dtype=bool)
    slices = _slices(size, tokens.boxes)
    for i in np.argsort(tokens.is_fine, kind="stable"):
        tints[slices[i]] = _LOW + share[i] * (_HIGH - _LOW)
        is_tinted[slices[i]] = True
    return tints, is_tinted


def _edge(area: np.ndarray, width: int) -> np.ndarray:
    """Pixels `[H, W]`, bool, of an area up to `width` away from one outside of it; the picture's border is none."""
    height, across = area.shape
    padded, inner = np.pad(area, width, constant_values=True), area.copy()
    for step in range(1, width + 1):
        for down, right in ((-step, 0), (step, 0), (0, -step), (0, step)):
            inner &= padded[width + down : width + down + height, width + right : width + right + across]
    return area & ~inner


def _counts(tokens: Sequence[TokensOnPicture]) -> str:
    return f"{sum(int(t.is_kept.sum()) for t in tokens)} of {sum(len(t.is_kept) for t in tokens)}"


def _legend(tokens: Sequence[TokensOnPicture], shaded: bool) -> str:
    parts = [f"{_counts(tokens)} picture tokens kept"]
    if any(t.is_fine.any() for t in tokens):
        parts.append("blue edge: kept of the global crop")
    if shaded:
        parts.append("tint: score, blue low, red high")
    return "; ".join(parts)


def _with_legend(picture: Image.Image, text: str) -> Image.Image:
    """The picture above a line of text; the paper is as wide as the wider of them."""
    font = ImageFont.load_default(size=max(13, round(picture.width / 60)))
    left, top, right, bottom = font.getbbox(text)
    gap = math.ceil((bottom - top) / 2)
    width = max(picture.width, math.ceil(right - left) + 2 * gap)
    paper = Image.new("RGB", (width, picture.height + math.ceil(bottom - top) + 2 * gap), _PAPER)
    paper.paste(picture, (0, 0))
    ImageDraw.Draw(paper).text((gap - left, picture.height + gap - top), text, font=font, fill=_INK)
    return paper
