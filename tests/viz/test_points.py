"""Drawn points: where they are, that they show on any background, that nothing given changes."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image, ImageFont

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.points import Point
from olmo.viz.points import COLOURS, draw


def changed(image: Image.Image, points: list[Point], **options: object) -> np.ndarray:
    """Bool `[H, W]`: pixels that drawing changed."""
    return (np.asarray(draw(image, points, **options)) != np.asarray(image.convert("RGB"))).any(axis=-1)


@pytest.mark.parametrize("background", [0, 255, 128, *COLOURS])
def test_marker_shows_on_any_background(background: int | tuple) -> None:
    colour = (background,) * 3 if isinstance(background, int) else background
    image = Image.new("RGB", (200, 100), colour)
    drawn = np.asarray(draw(image, [Point(50, 50)], numbered=False)).astype(int)
    contrast = np.abs(drawn - colour).sum(axis=-1)
    assert (contrast > 200).sum() > 25
    ys, xs = np.nonzero(contrast)
    assert abs(xs.mean() - 100) < 1.5
    assert abs(ys.mean() - 50) < 1.5


def test_marker_grows_with_the_picture() -> None:
    small = changed(Image.new("RGB", (200, 200)), [Point(50, 50)], numbered=False).sum()
    large = changed(Image.new("RGB", (2000, 2000)), [Point(50, 50)], numbered=False).sum()
    chosen = changed(Image.new("RGB", (2000, 2000)), [Point(50, 50)], numbered=False, radius=5).sum()
    assert large > 8 * small
    assert chosen < 2 * small


def test_numbers_and_labels_add_plates() -> None:
    image = Image.new("RGB", (300, 200), (90, 90, 90))
    points = [Point(30, 50, "dog"), Point(60, 50, "cat")]
    plain = changed(image, points, numbered=False)
    numbered = changed(image, points)
    labelled = changed(image, points, labelled=True)
    assert plain.sum() < numbered.sum() < labelled.sum()
    np.testing.assert_array_equal(
        changed(image, [Point(50, 50)], numbered=False, labelled=True), changed(image, [Point(50, 50)], numbered=False)
    )


def test_one_colour_a_label() -> None:
    image = Image.new("RGB", (300, 100))
    drawn = np.asarray(draw(image, [Point(20, 50, "a"), Point(50, 50, "b"), Point(80, 50, "a")], numbered=False))
    centres = [tuple(int(v) for v in drawn[50, x]) for x in (60, 150, 240)]
    assert centres == [COLOURS[0], COLOURS[1], COLOURS[0]]


@pytest.mark.parametrize("place", [(0, 0), (100, 0), (0, 100), (100, 100)])
def test_plates_stay_inside_the_picture(place: tuple[float, float]) -> None:
    image = Image.new("RGB", (200, 200), (90, 90, 90))
    inside = changed(image, [Point(50, 50, "label")], labelled=True).sum()
    assert changed(image, [Point(*place, "label")], labelled=True).sum() > 0.6 * inside


def test_picture_given_is_not_changed() -> None:
    array = np.full((40, 60, 3), 7, np.uint8)
    image = Image.new("RGBA", (60, 40), (1, 2, 3, 128))
    before = image.tobytes()
    assert draw(array, [Point(50, 50)]).size == (60, 40)
    result = draw(image, [Point(50, 50)])
    assert result.mode == "RGB"
    assert (array == 7).all()
    assert image.tobytes() == before


def test_no_points_tiny_pictures_long_labels_and_points_outside() -> None:
    image = Image.new("RGB", (50, 40), (9, 9, 9))
    assert not changed(image, []).any()
    assert not changed(image, [Point(300, 50)], numbered=False).any()
    assert draw(Image.new("L", (1, 1)), [Point(50, 50, "x" * 500)], labelled=True).size == (1, 1)
    assert changed(image, [Point(50, 50, "two\nlines")] * 30, labelled=True).any()


def test_other_font_is_used() -> None:
    image = Image.new("RGB", (300, 200))
    small = changed(image, [Point(50, 50, "label")], labelled=True, font=ImageFont.load_default(size=10)).sum()
    large = changed(image, [Point(50, 50, "label")], labelled=True, font=ImageFont.load_default(size=40)).sum()
    assert large > 3 * small


def test_wrong_input_says_so() -> None:
    with pytest.raises(OLMoInputError, match="percent"):
        draw(Image.new("RGB", (9, 9)), [Point(float("nan"), 1)])
    with pytest.raises(OLMoInputError, match="uint8"):
        draw(np.zeros((9, 9, 3)), [Point(1, 1)])
