"""The sprites of the scenes: one sheet of 28 concepts, rotated and scaled on a grid and kept.

Knows nothing of scenes. Rotated and scaled variants are cached, so that placing an object is one small numpy blend.
Source of the art: Noto Emoji (Apache-2.0), see NOTICE and `assets/LICENSE-noto-emoji.txt`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

ASSETS = Path(__file__).parent / "assets"
# Angles are drawn on this grid so that the cache of rotated sprites stays small (15 angles in -35..35).
ANGLE_STEP_DEG = 5


@dataclass(frozen=True)
class Concept:
    """A kind of thing that scenes show.

    Attributes:
        index: place in `concepts()`, 0 to 27.
        name: singular, lower case.
        plural: plural, lower case; may equal the singular ("fish").
        code_point: hexadecimal code point of the art.
    """

    index: int
    name: str
    plural: str
    code_point: str


@dataclass(frozen=True)
class Sprite:
    """One drawn variant of a concept.

    Attributes:
        colour: uint8 [h, w, 3], already multiplied by alpha / 255.
        rest: uint8 [h, w, 1], 255 minus alpha: how much of the picture below shows through.
        mask: bool [h, w], the silhouette with its holes filled.
    """

    colour: np.ndarray
    rest: np.ndarray
    mask: np.ndarray


@lru_cache(maxsize=1)
def concepts() -> tuple[Concept, ...]:
    """All concepts, in alphabetical order."""
    rows = json.loads((ASSETS / "sprites.json").read_text(encoding="utf-8"))["sprites"]
    return tuple(Concept(i, r["concept"], r["plural"], r["code_point"]) for i, r in enumerate(rows))


@lru_cache(maxsize=1)
def concepts_by_name() -> dict[str, Concept]:
    """Concept by singular name."""
    return {c.name: c for c in concepts()}


@lru_cache(maxsize=1)
def _sources() -> tuple[tuple[Image.Image, Image.Image], ...]:
    """Per concept: the art (RGBA, cropped to what is drawn) and its hole-filled silhouette (L)."""
    index = json.loads((ASSETS / "sprites.json").read_text(encoding="utf-8"))
    side = index["sprite_px"]
    sources = []
    with Image.open(ASSETS / "sprites.png") as sheet:
        for row in index["sprites"]:
            art = sheet.crop((row["x"], row["y"], row["x"] + side, row["y"] + side)).convert("RGBA")
            art = art.crop(art.getchannel("A").getbbox())
            sources.append((art, _silhouette(art)))
    return tuple(sources)


def _silhouette(art: Image.Image) -> Image.Image:
    """The alpha channel with the holes inside it filled; L, same size."""
    w, h = art.size
    outside = Image.new("L", (w + 2, h + 2), 0)
    outside.paste(art.getchannel("A").point([255 if a >= 128 else 0 for a in range(256)]), (1, 1))
    ImageDraw.floodfill(outside, (0, 0), 128)
    return outside.point([0 if v == 128 else 255 for v in range(256)]).crop((1, 1, w + 1, h + 1))


@lru_cache(maxsize=1024)
def _rotated(concept: int, angle: int, mirrored: bool) -> tuple[Image.Image, Image.Image, int]:
    """Art and silhouette turned by `angle` degrees, and the longer side before turning."""
    art, silhouette = _sources()[concept]
    if mirrored:
        art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        silhouette = silhouette.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = [im.rotate(angle, Image.Resampling.BICUBIC, expand=True) for im in (art, silhouette)]
    return turned[0], turned[1], max(art.size)


# 168 px scenes use 15,960 variants (28 concepts, 19 sizes, 15 angles, mirrored or not), about 8 kB each.
@lru_cache(maxsize=16384)
def sprite(concept: int, size: int, angle: int, mirrored: bool) -> Sprite:
    """A variant ready to be blended.

    Args:
        concept: index in `concepts()`.
        size: longer side before turning, px.
        angle: degrees, counter-clockwise, a multiple of `ANGLE_STEP_DEG`.
        mirrored: flipped left to right before turning.
    """
    art, silhouette, longer = _rotated(concept, angle, mirrored)
    shape = (max(1, round(art.width * size / longer)), max(1, round(art.height * size / longer)))
    rgba = np.asarray(art.resize(shape, Image.Resampling.BICUBIC, reducing_gap=2.0), dtype=np.uint16)
    mask = np.asarray(silhouette.resize(shape, Image.Resampling.BILINEAR)) >= 128
    rows, cols = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    inside = np.s_[rows[0] : rows[-1] + 1, cols[0] : cols[-1] + 1]
    rgba, mask = rgba[inside], mask[inside]
    alpha = rgba[..., 3:]
    colour = (rgba[..., :3] * alpha // 255).astype(np.uint8)
    rest = (255 - alpha).astype(np.uint8)
    for array in (colour, rest, mask):
        array.setflags(write=False)
    return Sprite(colour=colour, rest=rest, mask=mask)
