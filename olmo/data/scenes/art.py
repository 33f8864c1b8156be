"""The sprites of the scenes: 138 concepts in two styles of art, rotated and scaled on a grid and kept.

Knows nothing of scenes. Rotated and scaled variants are cached, so that placing an object is one small numpy blend.
Source of the art: Noto Emoji (Apache-2.0) and Fluent Emoji (MIT), see NOTICE and the licences in `assets`.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from olmo.config import ConfigEnum
from olmo.exceptions import OLMoInputError

ASSETS = Path(__file__).parent / "assets"
STYLES = ("noto", "fluent")
"""Names of the bundled styles of art."""
# Angles are drawn on this grid so that the cache of rotated sprites stays small (15 angles in -35..35).
ANGLE_STEP_DEG = 5


class ConceptSet(ConfigEnum):
    """Which concepts scenes show: 28 that differ plainly in colour and shape, or all 138."""

    basic = "basic"
    wide = "wide"


@dataclass(frozen=True)
class Concept:
    """A kind of thing that scenes show.

    Attributes:
        index: place in the alphabetical list of all concepts, 0 to 137.
        name: singular, lower case.
        plural: plural, lower case; may equal the singular ("fish").
        code_point: hexadecimal code point of the art.
        is_basic: belongs to the basic set.
    """

    index: int
    name: str
    plural: str
    code_point: str
    is_basic: bool


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
def _index() -> dict[str, Any]:
    """Layout of a sheet and the list of concepts."""
    index: dict[str, Any] = json.loads((ASSETS / "sprites.json").read_text(encoding="utf-8"))
    return index


@lru_cache
def concepts(chosen: ConceptSet = ConceptSet.wide) -> tuple[Concept, ...]:
    """The concepts of a set, in alphabetical order."""
    rows = enumerate(_index()["sprites"])
    found = (Concept(i, r["concept"], r["plural"], r["code_point"], r["is_basic"]) for i, r in rows)
    return tuple(c for c in found if c.is_basic or chosen is ConceptSet.wide)


@lru_cache(maxsize=1)
def concepts_by_name() -> dict[str, Concept]:
    """Every concept by its singular name."""
    return {c.name: c for c in concepts()}


@lru_cache
def _sources(art: str) -> tuple[tuple[Image.Image, Image.Image], ...]:
    """Per concept: the art (RGBA, cropped to what is drawn) and its hole-filled silhouette (L)."""
    side, columns = _index()["sprite_px"], _index()["columns"]
    path = ASSETS / f"{art}.png" if art in STYLES else Path(art)
    if not path.is_file():
        raise OLMoInputError(
            f"art {art!r} is neither a bundled style ({', '.join(STYLES)}) nor a file; give the path of a sprite sheet "
            "laid out as scripts/build_openmoji_sheet.py writes it"
        )
    sources = []
    with Image.open(path) as sheet:
        wanted = (columns * side, -(-len(concepts()) // columns) * side)
        if sheet.size != wanted:
            raise OLMoInputError(f"sprite sheet {path} has {sheet.size} px, expected {wanted}; build it again")
        for i in range(len(concepts())):
            x, y = i % columns * side, i // columns * side
            sprite = sheet.crop((x, y, x + side, y + side)).convert("RGBA")
            box = sprite.getchannel("A").getbbox()
            if box is None:
                raise OLMoInputError(f"sprite sheet {path} has nothing drawn for {concepts()[i].name!r}")
            sprite = sprite.crop(box)
            sources.append((sprite, _silhouette(sprite)))
    return tuple(sources)


def _silhouette(art: Image.Image) -> Image.Image:
    """The alpha channel with the holes inside it filled; L, same size."""
    w, h = art.size
    outside = Image.new("L", (w + 2, h + 2), 0)
    outside.paste(art.getchannel("A").point([255 if a >= 128 else 0 for a in range(256)]), (1, 1))
    ImageDraw.floodfill(outside, (0, 0), 128)
    return outside.point([0 if v == 128 else 255 for v in range(256)]).crop((1, 1, w + 1, h + 1))


@lru_cache(maxsize=2048)
def _rotated(concept: int, angle: int, mirrored: bool, style: str) -> tuple[Image.Image, Image.Image, int]:
    """Art and silhouette turned by `angle` degrees, and the longer side before turning."""
    art, silhouette = _sources(style)[concept]
    if mirrored:
        art = art.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        silhouette = silhouette.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    turned = [im.rotate(angle, Image.Resampling.BICUBIC, expand=True) for im in (art, silhouette)]
    return turned[0], turned[1], max(art.size)


# 168 px scenes of basic concepts in one style use 15,960 variants (28 concepts, 19 sizes, 15 angles, mirrored or not),
# about 8 kB each.
@lru_cache(maxsize=16384)
def sprite(concept: int, size: int, angle: int, mirrored: bool, style: str = STYLES[0]) -> Sprite:
    """A variant ready to be blended.

    Args:
        concept: index of the concept.
        size: longer side before turning, px.
        angle: degrees, counter-clockwise, a multiple of `ANGLE_STEP_DEG`.
        mirrored: flipped left to right before turning.
        style: name in `STYLES`, or path of a sheet of another style.

    Raises:
        OLMoInputError: the sheet is missing or of another layout.
    """
    art, silhouette, longer = _rotated(concept, angle, mirrored, style)
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
