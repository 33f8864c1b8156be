"""The sign of a scene: one short word on a plate of contrasting colour."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise

import numpy as np
from PIL import Image, ImageDraw, ImageFont

WORDS = (
    "bank", "cafe", "cheap", "city", "exit", "farm", "food", "free",
    "fresh", "game", "gym", "hello", "help", "hotel", "juice", "lake",
    "menu", "milk", "music", "news", "open", "park", "play", "radio",
    "sale", "shop", "slow", "stop", "taxi", "tea", "toys", "zoo",
)  # fmt: skip


LETTERS = tuple(sorted(set("".join(WORDS))))
"""Letters that occur on signs, lower case."""


@lru_cache(maxsize=4096)
def word_mask(word: str, font_px: int) -> np.ndarray:
    """Coverage of the word in capitals on its plate, float32 [h, w] in 0..1, with a margin around the letters."""
    font = ImageFont.load_default(font_px)
    left, top, right, bottom = font.getbbox(word.upper())
    margin = max(2, font_px // 4)
    plate = Image.new("L", (int(right - left) + 2 * margin, int(bottom - top) + 2 * margin), 0)
    ImageDraw.Draw(plate).text((margin - left, margin - top), word.upper(), fill=255, font=font)
    mask = np.asarray(plate, dtype=np.float32) / 255
    mask.setflags(write=False)
    return mask


@lru_cache(maxsize=4096)
def letter_boxes(word: str, font_px: int) -> tuple[tuple[float, float, float, float], ...]:
    """Where each letter stands on its plate: x0, y0, x1, y1 in px from the plate's top left corner."""
    font = ImageFont.load_default(font_px)
    text = word.upper()
    left, top, _, bottom = font.getbbox(text)
    margin = max(2, font_px // 4)
    ends = [margin - left + font.getlength(text[:i]) for i in range(len(text) + 1)]
    height = margin + bottom - top
    return tuple((start, float(margin), end, float(height)) for start, end in pairwise(ends))


def draw_sign(rng: np.random.Generator, canvas: np.ndarray, mask: np.ndarray, x: int, y: int) -> None:
    """Paint plate and word into `canvas` (uint8 [H, W, 3]) with the top left corner at (x, y), in place."""
    dark = rng.uniform(0, 70, 3)
    light = rng.uniform(205, 255, 3)
    plate, ink = (light, dark) if rng.random() < 0.6 else (dark, light)
    h, w = mask.shape
    canvas[y : y + h, x : x + w] = (plate + (ink - plate) * mask[..., None]).astype(np.uint8)
