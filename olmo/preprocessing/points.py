"""Points as text: `<point x="10.0" y="20.0" alt="a">a</point>` to numbers and back.

Lives here: `parse` for what a model wrote, `format` for training targets, and conversion from and to pixels. Knows
nothing of drawing. Coordinates are percent of width and height, so they outlive any resizing. Source of the format:
`molmo` technical notes of the released models, 8.5.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from olmo.exceptions import OLMoInputError

NO_POINTS = "There are none."
"""The answer to a request to point at something that is not there."""

_FLAGS = re.IGNORECASE | re.ASCII
_TAG = re.compile(r"<(/?)points?(?![\w-])", _FLAGS)
_WORD = re.compile(r"\w+", _FLAGS)
_NAME = re.compile(r"([a-z]+)(\d*)", _FLAGS)
_EQUALS = re.compile(r"\s*=\s*", _FLAGS)
# Decimals past the 18th change nothing; lengths are bounded so that no number is slow to convert.
_NUMBER = re.compile(r"[\"']?\s*([-+]?(?:\d{1,9}(?:\.\d{0,18})?|\.\d{1,18}))\d*(e[-+]?\d{1,2})?", _FLAGS)
_CLOSE = re.compile(r"\s{0,8}>")
_BARE = re.compile(r"[\"']?[^\s<>\"']*", _FLAGS)


@dataclass(frozen=True)
class Point:
    """A place in a picture, in percent of its width and height.

    Attributes:
        x: 0 (left) to 100 (right).
        y: 0 (top) to 100 (bottom).
        label: what the point shows, as written between the tags.
        alt: the `alt` attribute where it says something else than the label, else None.
    """

    x: float
    y: float
    label: str = ""
    alt: str | None = None


@dataclass(frozen=True)
class PointTag:
    """A tag of a text, with what is written between it and its end.

    Attributes:
        points: what it holds, maybe nothing that can be read.
        start: index of its first character.
        end: index after its last one, that of the closing tag where there is one.
    """

    points: tuple[Point, ...]
    start: int
    end: int


@dataclass
class _Header:
    """Attributes of one tag as they were read."""

    xs: dict[int, float]
    ys: dict[int, float]
    alt: str
    end: int
    is_closed: bool


def parse(text: str) -> list[Point]:
    """Every point in a text, in order of the text and, inside a tag, of the point numbers.

    Made for what models write: quotes of both kinds or missing ones, upper case, odd order, a tag that is never closed
    or cut at the end of the text, HTML entities. Never raises, and takes time linear in the length of the text.

    Args:
        text: any text.

    Returns:
        Points with both coordinates in 0..100. A point with a missing or unreadable coordinate, or one outside that
        range, is left out, and so is the second of two points with the same number in a tag. The label is the text up
        to the closing tag; the `alt` attribute where there is none.
    """
    return [point for tag in parse_tags(text) for point in tag.points]


def parse_tags(text: str) -> list[PointTag]:
    """Every tag with points in a text, and where it stands; read as `parse` reads it.

    Args:
        text: any text.
    """
    signs = list(_TAG.finditer(text))
    tags: list[PointTag] = []
    for k, sign in enumerate(signs):
        if sign.group(1):
            continue
        following = signs[k + 1] if k + 1 < len(signs) else None
        limit = following.start() if following else len(text)
        header = _read_header(text, sign.end(), limit)
        end = header.end
        written = ""
        if header.is_closed and following is not None and following.group(1):
            written = _clean(text[header.end : limit])
            close = _CLOSE.match(text, following.end())
            end = following.end() if close is None else close.end()
        tags.append(PointTag(_points(header, written), sign.start(), end))
    return tags


def _points(header: _Header, written: str) -> tuple[Point, ...]:
    """The points of a tag between whose ends something is written, or nothing."""
    label = written or header.alt
    alt = header.alt if header.alt and header.alt != label else None
    numbers = sorted(header.xs.keys() & header.ys.keys())
    places = [(header.xs[number], header.ys[number]) for number in numbers]
    return tuple(Point(x, y, label, alt) for x, y in places if 0 <= x <= 100 and 0 <= y <= 100)


def format(points: Iterable[Point], label: str, alt: str | None = None) -> str:
    """Points of one label as the text a model is trained to write: sorted by x, then y, one decimal.

    Args:
        points: any number of points; their own labels are not used.
        label: text between the tags. Leading and trailing spaces are cut.
        alt: the `alt` attribute; None means the label.

    Returns:
        A `<point>` tag, a `<points>` tag with numbered coordinates, or "There are none.".

    Raises:
        OLMoInputError: a coordinate is not in 0..100.
    """
    placed = sorted((_rounded(p) for p in points), key=lambda p: p[0] * 10000 + p[1])
    if not placed:
        return NO_POINTS
    names = [""] if len(placed) == 1 else [str(i + 1) for i in range(len(placed))]
    places = " ".join(f'x{n}="{x:.1f}" y{n}="{y:.1f}"' for n, (x, y) in zip(names, placed, strict=True))
    tag = "point" if len(placed) == 1 else "points"
    return f'<{tag} {places} alt="{_escape(label if alt is None else alt)}">{_escape(label)}</{tag}>'


def to_pixels(points: Sequence[Point], width: float, height: float) -> list[tuple[float, float]]:
    """Points in pixels of a picture, as (x, y); not rounded.

    Args:
        points: points in percent.
        width: of the picture, in pixels.
        height: of the picture, in pixels.
    """
    return [(p.x * width / 100, p.y * height / 100) for p in points]


def from_pixels(pixels: Iterable[tuple[float, float]], width: float, height: float, label: str = "") -> list[Point]:
    """Points in percent from pixels of a picture.

    Args:
        pixels: (x, y) pairs.
        width: of the picture, in pixels, over 0.
        height: of the picture, in pixels, over 0.
        label: given to each point.

    Raises:
        OLMoInputError: the picture has no size.
    """
    if not (width > 0 and height > 0):
        raise OLMoInputError(f"a picture of {width}x{height} pixels has no points; width and height must be over 0")
    return [Point(x * 100 / width, y * 100 / height, label) for x, y in pixels]


def _read_header(text: str, start: int, limit: int) -> _Header:
    """Read attributes from `start`; stops at `>` or at `limit`, where the next tag or the end of the text is."""
    header = _Header(xs={}, ys={}, alt="", end=limit, is_closed=False)
    position = start
    while position < limit:
        if text[position] == ">":
            header.end, header.is_closed = position + 1, True
            return header
        word = _WORD.match(text, position, limit)
        equals = _EQUALS.match(text, word.end(), limit) if word else None
        if word is None or equals is None:
            position = word.end() if word else position + 1
            continue
        name = _NAME.fullmatch(word.group())
        kind, number = (name.group(1).lower(), name.group(2)) if name else ("", "")
        if kind in ("x", "y"):
            position = _read_coordinate(text, equals.end(), limit, header.xs if kind == "x" else header.ys, number)
        else:
            value, position = _read_string(text, equals.end(), limit)
            if kind == "alt" and not header.alt:
                header.alt = _clean(value)
    return header


def _read_coordinate(text: str, position: int, limit: int, into: dict[int, float], number: str) -> int:
    found = _NUMBER.match(text, position, limit)
    if found is None:
        unread = _BARE.match(text, position, limit)
        assert unread is not None, "the pattern matches the empty string"
        return unread.end()
    if len(number) <= 6:
        into.setdefault(int(number or 0), float(found.group(1) + (found.group(2) or "")))
    return found.end()


def _read_string(text: str, position: int, limit: int) -> tuple[str, int]:
    """A quoted or bare value, and where it ends."""
    quote = text[position] if position < limit else ""
    if quote not in ("'", '"'):
        bare = _BARE.match(text, position, limit)
        assert bare is not None, "the pattern matches the empty string"
        return bare.group(), bare.end()
    close = text.find(quote, position + 1, limit)
    if close >= 0:
        return text[position + 1 : close], close + 1
    # The closing quote is missing: the value goes on to the end of the tag.
    close = text.find(">", position + 1, limit)
    close = limit if close < 0 else close
    return text[position + 1 : close], close


def _clean(value: str) -> str:
    try:
        return html.unescape(value).strip()
    except ValueError:  # a numeric entity of thousands of digits
        return value.strip()


def _rounded(point: Point) -> tuple[float, float]:
    for name, value in (("x", point.x), ("y", point.y)):
        if not (math.isfinite(value) and 0 <= value <= 100):
            raise OLMoInputError(
                f"point has {name}={value}; coordinates are percent, 0 to 100. Use from_pixels for pixel coordinates"
            )
    return round(point.x, 1) + 0.0, round(point.y, 1) + 0.0  # + 0.0 turns -0.0 into 0.0


def _escape(value: str) -> str:
    """Only what would be read wrongly is escaped: released models saw plain ampersands."""
    value = value.strip()
    if _clean(value) != value:
        value = value.replace("&", "&amp;")
    return value.replace('"', "&quot;").replace("<", "&lt;")
