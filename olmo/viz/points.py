"""Drawing points onto a picture.

Lives here: markers and their labels. Knows nothing of text formats; see `preprocessing.points` for those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import load_image
from olmo.preprocessing.points import Point, to_pixels

Colour = tuple[int, int, int]

COLOURS: tuple[Colour, ...] = (
    (240, 82, 156),
    (0, 158, 226),
    (255, 176, 0),
    (0, 170, 110),
    (150, 95, 235),
    (235, 90, 40),
    (120, 200, 40),
    (0, 190, 190),
)
"""One for each label in order of appearance; repeats after eight."""

MAX_LABEL_LENGTH = 40
"""Longer labels are cut, in characters."""

_INK: Colour = (20, 20, 24)
_PAPER: Colour = (255, 255, 255)


@dataclass(frozen=True)
class _Marker:
    """One point as it is drawn: centre and ring radius in pixels, colour, and what is written beside it."""

    centre: tuple[float, float]
    radius: float
    colour: Colour
    text: str


def draw(
    image: Image.Image | np.ndarray,
    points: Sequence[Point],
    *,
    numbered: bool = True,
    labelled: bool = False,
    radius: float | None = None,
    font: ImageFont.FreeTypeFont | None = None,
) -> Image.Image:
    """A copy of a picture with a ring and a dot at every point.

    Rings are edged dark and light, so they show on any background. Points of one label share a colour.

    Args:
        image: PIL image or uint8 array; not changed.
        points: points in percent; one outside 0..100 falls outside the picture and is not seen.
        numbered: write the number of each point beside it, from 1, in the order given.
        labelled: write the label beside each point, after the number where both are asked for.
        radius: of the ring, in pixels; None takes 1/60 of the longer side, at least 5.
        font: for numbers and labels; None takes the one that comes with Pillow, which writes basic Latin only.

    Returns:
        RGB picture of the same size (upright, transparency on white).

    Raises:
        OLMoInputError: not a picture, or a coordinate that is NaN or infinite.
    """
    # np.array copies: an RGB array comes back from load_image as the caller's own memory.
    canvas = Image.fromarray(np.array(load_image(image, max_pixels=2**31)))
    for point in points:
        if not (math.isfinite(point.x) and math.isfinite(point.y)):
            raise OLMoInputError(f"cannot draw {point}; coordinates are percent, 0 to 100")
    size = max(5.0, max(canvas.size) / 60) if radius is None else radius
    labels = list(dict.fromkeys(p.label for p in points))
    markers = [
        _Marker(centre, size, COLOURS[labels.index(p.label) % len(COLOURS)], _caption(p, number, numbered, labelled))
        for number, (p, centre) in enumerate(zip(points, to_pixels(points, *canvas.size), strict=True), start=1)
    ]
    pen = ImageDraw.Draw(canvas)
    for marker in markers:
        _draw_marker(pen, marker)
    writing = font or ImageFont.load_default(size=max(10, round(1.5 * size)))
    for marker in markers:  # after all rings, so that none covers a number
        if marker.text:
            _draw_caption(pen, marker, writing, canvas.size)
    return canvas


def _caption(point: Point, number: int, numbered: bool, labelled: bool) -> str:
    label = " ".join(point.label.split()) if labelled else ""
    if len(label) > MAX_LABEL_LENGTH:
        label = label[: MAX_LABEL_LENGTH - 1] + "…"
    return " ".join(part for part in (str(number) if numbered else "", label) if part)


def _draw_marker(pen: ImageDraw.ImageDraw, marker: _Marker) -> None:
    """A ring in bands, from outside in light, coloured and dark; and a dot, dark, light and coloured."""
    radius = marker.radius
    thin, thick = max(1, round(radius / 7)), max(2, round(radius / 4))
    outer = radius + thick / 2
    for width, colour in ((thin, _PAPER), (thick, marker.colour), (thin, _INK)):
        pen.ellipse(_box(marker.centre, outer), outline=colour, width=width)
        outer -= width
    dot = max(1.5, radius / 5)
    for grow, colour in ((2 * thin, _INK), (thin, _PAPER), (0, marker.colour)):
        pen.ellipse(_box(marker.centre, dot + grow), fill=colour)


def _box(centre: tuple[float, float], radius: float) -> tuple[float, float, float, float]:
    return centre[0] - radius, centre[1] - radius, centre[0] + radius, centre[1] + radius


def _draw_caption(
    pen: ImageDraw.ImageDraw,
    marker: _Marker,
    font: ImageFont.FreeTypeFont | ImageFont.ImageFont,
    canvas: tuple[int, int],
) -> None:
    """Dark text on a light plate with a coloured edge, beside the marker and inside the picture."""
    left, top, right, bottom = pen.textbbox((0, 0), marker.text, font=font)
    pad = max(2.0, marker.radius / 4)
    width, height = right - left + 2 * pad, bottom - top + 2 * pad
    gap = marker.radius
    x = marker.centre[0] + gap
    if x + width > canvas[0]:
        x = marker.centre[0] - gap - width
    y = marker.centre[1] - gap - height
    if y < 0:
        y = marker.centre[1] + gap
    x, y = min(max(0.0, x), max(0.0, canvas[0] - width)), min(max(0.0, y), max(0.0, canvas[1] - height))
    box = (x, y, x + width - 1, y + height - 1)
    pen.rounded_rectangle(box, radius=pad, fill=_PAPER, outline=marker.colour, width=max(1, round(marker.radius / 8)))
    pen.text((x + pad - left, y + pad - top), marker.text, font=font, fill=_INK)
