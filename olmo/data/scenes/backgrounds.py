"""Backgrounds and clutter: what lies below the objects of a scene.

Knows nothing of objects or questions. All drawn colours are muted so that the art stands out, and clutter is
translucent. The photographs are in the public domain or under CC0, see NOTICE.
"""

from __future__ import annotations

from enum import StrEnum
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw


class Background(StrEnum):
    """The kinds of background; the value is the adjective a caption uses."""

    plain = "plain"
    gradient = "shaded"
    noise = "cloudy"
    stripes = "striped"
    checks = "checked"
    blobs = "spotted"
    photo = "photographed"


KINDS = tuple(kind for kind in Background if kind is not Background.photo)
"""The drawn ones."""

_PHOTOS = Path(__file__).parent / "assets" / "photos.jpg"


def muted_colour(rng: np.random.Generator) -> np.ndarray:
    """A random soft colour, float [3] in 60..255."""
    grey = rng.uniform(120, 235)
    return np.clip(grey + rng.uniform(-50, 50, 3), 60, 255)


def near_colour(rng: np.random.Generator, colour: np.ndarray, spread: float) -> np.ndarray:
    """A colour at most `spread` away from `colour` in each channel, float [3]."""
    return np.clip(colour + rng.uniform(-spread, spread, 3), 50, 255)


def make_background(rng: np.random.Generator, side: int, kind: Background) -> np.ndarray:
    """Draw a background, uint8 [side, side, 3]."""
    first = muted_colour(rng)
    if kind is Background.plain:
        return np.broadcast_to(first.astype(np.uint8), (side, side, 3)).copy()
    second = near_colour(rng, first, 60)
    if kind is Background.noise:
        cells = int(rng.integers(3, 9))
        small = np.clip(first + rng.uniform(-45, 45, (cells, cells, 3)), 0, 255).astype(np.uint8)
        return np.array(Image.fromarray(small).resize((side, side), Image.Resampling.BICUBIC))
    if kind is Background.blobs:
        return _blobs(rng, side, first, second)
    angle = rng.uniform(0, np.pi)
    ramp = np.arange(side, dtype=np.float32)
    across = ramp[None, :] * np.float32(np.cos(angle)) + ramp[:, None] * np.float32(np.sin(angle))
    if kind is Background.gradient:
        low, high = across.min(), across.max()
        # 256 steps of colour looked up by index are several times quicker than blending every pixel.
        steps = ((across - low) * (255 / (high - low))).astype(np.uint8)
        table = first + (second - first) * np.linspace(0, 1, 256)[:, None]
        return table.astype(np.uint8)[steps]
    width = rng.uniform(0.05, 0.16) * side
    odd = np.floor(across / width).astype(np.int64) & 1
    if kind is Background.checks:
        along = ramp[:, None] * np.float32(np.cos(angle)) - ramp[None, :] * np.float32(np.sin(angle))
        odd ^= np.floor(along / width).astype(np.int64) & 1
    return np.stack([first, second]).astype(np.uint8)[odd]


@lru_cache(maxsize=1)
def _photos() -> tuple[Image.Image, ...]:
    """The photographs, square, RGB."""
    with Image.open(_PHOTOS) as sheet:
        side = sheet.height
        return tuple(sheet.convert("RGB").crop((x, 0, x + side, side)) for x in range(0, sheet.width, side))


def photo_background(rng: np.random.Generator, side: int) -> np.ndarray:
    """A piece of a photograph, mirrored, turned, tinted and dimmed at random, uint8 [side, side, 3]."""
    photo = _photos()[int(rng.integers(len(_photos())))]
    piece = int(photo.width * rng.uniform(0.35, 1.0))
    left, top = (int(v) for v in rng.integers(0, photo.width - piece + 1, 2))
    small = photo.resize((side, side), Image.Resampling.BILINEAR, (left, top, left + piece, top + piece))
    pixels = np.rot90(np.asarray(small), int(rng.integers(4)))
    if rng.random() < 0.5:
        pixels = pixels[:, ::-1]
    contrast, tint = rng.uniform(0.4, 1.0), muted_colour(rng)
    return np.ascontiguousarray((pixels * contrast + tint * (1 - contrast)).astype(np.uint8))


def _blobs(rng: np.random.Generator, side: int, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Round spots of a second colour on the first."""
    picture = Image.new("RGB", (side, side), tuple(int(v) for v in first))
    draw = ImageDraw.Draw(picture)
    fill = tuple(int(v) for v in second)
    for x, y, radius in rng.random((int(rng.integers(6, 16)), 3)):
        x, y, radius = x * side, y * side, (0.04 + 0.1 * radius) * side
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
    return np.array(picture)


def draw_clutter(rng: np.random.Generator, canvas: np.ndarray, amount: int) -> np.ndarray:
    """Lay `amount` translucent lines, dots and triangles over `canvas` (uint8 [H, W, 3]); returns a new array."""
    if amount == 0:
        return canvas
    side = canvas.shape[0]
    picture = Image.fromarray(canvas)
    draw = ImageDraw.Draw(picture, "RGBA")
    for _ in range(amount):
        fill = (*(int(v) for v in rng.integers(0, 256, 3)), int(rng.integers(40, 110)))
        x, y, dx, dy, ex, ey = (rng.random(6) * side).tolist()
        kind = rng.integers(3)
        if kind == 0:
            draw.line((x, y, dx, dy), fill=fill, width=int(rng.integers(1, 4)))
        elif kind == 1:
            radius = 1 + 0.02 * dx
            draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=fill)
        else:
            corners = [(x, y), (x + (dx - side / 2) * 0.2, y + dy * 0.15), (x + ex * 0.15, y + (ey - side / 2) * 0.2)]
            draw.polygon(corners, fill=fill)
    return np.array(picture)
