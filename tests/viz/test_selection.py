from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from olmo.exceptions import OLMoInputError
from olmo.viz.selection import DIM, EDGE, MIN_SIDE_PX, OVERVIEW_EDGE, TokensOnPicture, draw_kept, kept_sheet

COLOUR = (200, 120, 40)
GRAY = round(DIM * (0.299 * 200 + 0.587 * 120 + 0.114 * 40))
QUARTERS = np.array([[x, y, x + 0.5, y + 0.5] for y in (0.0, 0.5) for x in (0.0, 0.5)])


def tokens(is_kept, boxes=QUARTERS, scores=None, is_fine=False) -> TokensOnPicture:
    kept, n = np.array(is_kept, dtype=bool), len(is_kept)
    return TokensOnPicture(
        boxes=np.array(boxes, dtype=float),
        is_kept=kept,
        scores=kept.astype(np.float32) if scores is None else np.array(scores, dtype=np.float32),
        is_fine=np.broadcast_to(np.array(is_fine), n),
    )


def plain(width: int = 480, height: int = 480) -> np.ndarray:
    return np.full((height, width, 3), COLOUR, np.uint8)


def at(picture: Image.Image, *places: tuple[float, float], size=(480, 480)) -> list[tuple[int, ...]]:
    """Colours at shares of the width and height of the picture proper."""
    return [picture.getpixel((int(x * size[0]), int(y * size[1]))) for x, y in places]


MIDDLES = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))


@pytest.mark.parametrize("is_kept", [(1, 0, 0, 1), (0, 1, 1, 1), (0, 0, 0, 0), (1, 1, 1, 1)])
def test_kept_patches_are_as_they_were_and_others_dim(is_kept):
    picture = plain()
    drawn = draw_kept(picture, tokens(is_kept))
    assert at(drawn, *MIDDLES) == [COLOUR if kept else (GRAY,) * 3 for kept in is_kept]
    assert (picture == COLOUR).all(), "what is given is not changed"
    proper = np.asarray(drawn)[:480, :480]
    is_edge = (proper == EDGE).all(axis=-1)
    assert bool(is_edge.any()) == (0 < sum(is_kept) < 4)
    assert int((proper == COLOUR).all(axis=-1).sum() + is_edge.sum()) == sum(is_kept) * 240 * 240


@pytest.mark.parametrize("size", [(480, 480), (500, 313), (61, 1200)])
def test_boxes_that_touch_share_no_pixel_and_leave_none_out(size):
    edges = np.linspace(0.0, 1.0, 8)
    boxes = [[edges[i], 0.0, edges[i + 1], 1.0] for i in range(7)]
    bright = np.zeros((size[1], size[0]), dtype=int)
    for kept in range(7):
        drawn = draw_kept(plain(*size), tokens([i == kept for i in range(7)], boxes))
        proper = np.asarray(drawn)[: size[1], : size[0]]
        bright += ((proper == COLOUR) | (proper == EDGE)).all(axis=-1)
    assert (bright == 1).all()


def test_finer_tokens_are_what_is_shown_where_there_are_some():
    left = [[0.0, 0.0, 0.25, 1.0], [0.25, 0.0, 0.5, 1.0]]
    mixed = tokens([1, 0, 1, 0, 1, 0], [*QUARTERS, *left], is_fine=[False] * 4 + [True] * 2)
    drawn = draw_kept(plain(), mixed)
    dim = (GRAY,) * 3
    assert at(drawn, (0.125, 0.25), (0.375, 0.25), (0.75, 0.25)) == [COLOUR, dim, dim]
    assert at(draw_kept(plain(), tokens([1, 0, 1, 0])), (0.375, 0.25)) == [COLOUR], "without finer tokens"
    is_blue = (np.asarray(drawn)[:480, :480] == OVERVIEW_EDGE).all(axis=-1)
    assert is_blue.any() and not is_blue[:, 240:].any(), "what the global crop keeps has an edge under finer tokens"
    assert not (np.asarray(draw_kept(plain(), tokens([1, 0, 1, 0]))) == OVERVIEW_EDGE).all(axis=-1).any()


def test_a_token_in_the_padding_is_counted_and_not_seen():
    drawn = draw_kept(plain(), tokens([0, 1], [[0.0, 0.0, 1.0, 1.0], [1.0, 0.0, 1.0, 1.0]]))
    assert (np.asarray(drawn)[:480, :480] == GRAY).all()


@pytest.mark.parametrize(
    ("size", "wanted"), [((60, 40), (480, 320)), ((100, 20), (400, 80)), ((500, 30), (500, 30)), ((1, 1), (480, 480))]
)
def test_small_pictures_are_enlarged_and_a_line_stands_below(size, wanted):
    drawn = np.asarray(draw_kept(plain(*size), tokens([1, 1, 1, 1])))
    width, height = wanted
    assert max(wanted) > MIN_SIDE_PX // 2
    assert (drawn[:height, :width] == COLOUR).all()
    assert drawn.shape[1] >= width and (drawn[:height, width:] == 255).all()
    below = drawn[height:]
    assert 10 < len(below) < 60 and (below < 100).any() and (below[0] == 255).all()


def test_the_line_says_how_many():
    few, many = (np.asarray(draw_kept(plain(), tokens(kept)))[480:] for kept in ([1, 0, 0, 0], [1, 1, 0, 0]))
    assert few.shape != many.shape or (few != many).any()
    finer = draw_kept(plain(), tokens([1, 0, 0, 0], is_fine=[False] * 3 + [True]))
    shaded = draw_kept(plain(), tokens([1, 0, 0, 0], is_fine=[False] * 3 + [True]), shaded=True)
    assert (np.asarray(shaded)[480:, 250:] < 100).sum() > (np.asarray(finer)[480:, 250:] < 100).sum()


def test_shades_go_by_rank_from_blue_to_red():
    scored = tokens([1, 1, 1, 1], scores=[-5.0, 100.0, 0.1, 0.1])
    low, high, third, fourth = at(draw_kept(plain(), scored, shaded=True), *MIDDLES)
    assert low[2] > third[2] > high[2] and low[0] < third[0] < high[0]
    assert third == fourth, "equal scores have one shade"
    assert at(draw_kept(plain(), scored), *MIDDLES) == [COLOUR] * 4
    dropped = replace(scored, is_kept=np.zeros(4, dtype=bool))
    assert all(sum(a) < sum(b) for a, b in zip(at(draw_kept(plain(), dropped, shaded=True), *MIDDLES),
                                               (low, high, third, fourth), strict=True))  # fmt: skip


def test_a_sheet_holds_each_picture_with_its_own_tokens():
    masks = ([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0, 1])
    sheet = kept_sheet([plain(240, 240)] * 3, [tokens(mask) for mask in masks], ["a", "b", "c"])
    pixels = np.asarray(sheet)
    is_bright = (pixels == COLOUR).all(axis=-1)
    assert 3 * 110**2 < is_bright.sum() <= 3 * 120**2
    columns = np.flatnonzero(is_bright.any(axis=0))
    assert len(columns) and pixels.shape[0] > 280
    assert pixels.shape != np.asarray(kept_sheet([plain(240, 240)], [tokens(masks[0])])).shape
    larger = kept_sheet([plain(2400, 2400)], [tokens(masks[0])])
    assert larger.size == kept_sheet([plain(240, 240)], [tokens(masks[0])]).size, "large ones are made smaller"


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: draw_kept(plain(), replace(tokens([1, 0, 0, 0]), scores=np.zeros(3))), "boxes, is_kept, scores"),
        (lambda: draw_kept(plain(), tokens([1, 0, 0])), "boxes, is_kept, scores"),
        (lambda: kept_sheet([plain()] * 2, [tokens([1, 0, 0, 0])]), "2 pictures, 1 sets of tokens, 2 texts"),
        (lambda: kept_sheet([], []), "1 to 1024 pictures"),
    ],
)
def test_what_does_not_belong_together_is_refused(call, message):
    with pytest.raises(OLMoInputError, match=message):
        call()
