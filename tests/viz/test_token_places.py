"""Rectangles of tokens against the crops that are really made: what is painted there is what the token sees."""

from __future__ import annotations

import numpy as np
import pytest

from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.multicrop import make_crops
from olmo.preprocessing.preprocessor_config import CropMode, MolmoPreprocessorConfig
from olmo.preprocessing.video.video_preprocessor import frame_crops
from olmo.viz.token_places import CropView, frame_view, picture_views, token_boxes

ONES = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SPECS = {
    "padded": ImageSpec(image_size=56, patch_size=14, **ONES),
    "stretched": ImageSpec(image_size=56, patch_size=14, resize="siglip", **ONES),
    "odd": ImageSpec(image_size=70, patch_size=14, **ONES),
    "one to one": ImageSpec(image_size=56, patch_size=14, pool_h=1, pool_w=1, **ONES),
    "flat": ImageSpec(image_size=56, patch_size=14, pool_h=1, pool_w=2, **ONES),
}
SIZES = ((300, 200), (90, 400), (224, 224))
"""Widths and heights."""


def painted(size: tuple[int, int], box: np.ndarray) -> np.ndarray:
    """Black, and white where the box is."""
    picture = np.zeros((size[1], size[0], 3), np.uint8)
    left, top, right, bottom = (box * [size[0], size[1], size[0], size[1]]).round().astype(int)
    picture[top:bottom, left:right] = 255
    return picture


def assert_seen_by(view: CropView, row: int, column: int, crop: np.ndarray, patch: int) -> None:
    """Nearly all light of a crop `[3, H, W]` lies in the window of its token."""
    high, wide = (pool * patch for pool in view.pool)
    inside = crop[:, row * high : (row + 1) * high, column * wide : (column + 1) * wide].sum()
    assert inside > 0.85 * crop.sum() > 0


def middles(view: CropView) -> list[tuple[int, int, np.ndarray]]:
    """Row, column and place of each token."""
    n_rows, n_columns = (-(-view.grid // pool) for pool in view.pool)
    return [
        (row, column, np.array([[(row + 0.5) / n_rows, (column + 0.5) / n_columns]], dtype=np.float32))
        for row in range(n_rows)
        for column in range(n_columns)
    ]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("mode", [CropMode.resize, CropMode.overlap_and_resize_c2])
def test_a_token_sees_its_rectangle(name, size, mode):
    spec = SPECS[name]
    config = MolmoPreprocessorConfig(max_crops=4, overlap_margins=(2, 0), crop_mode=mode)
    views = picture_views(size, spec, config)
    assert len(views) == len(make_crops(painted(size, np.zeros(4)), spec, config).images)
    assert [view.is_fine for view in views] == [False] + [True] * (len(views) - 1)
    n_seen = 0
    for number, view in enumerate(views):
        for row, column, place in middles(view):
            (box,) = token_boxes(view, place)
            if ((box[2:] - box[:2]) * size < 6).any():  # in the padding, or a sliver beside it
                continue
            crops = make_crops(painted(size, box), spec, config).images
            assert_seen_by(view, row, column, crops[number], spec.patch_size)
            n_seen += 1
    assert n_seen >= 2 * len(views)


def test_nothing_is_left_of_a_token_in_the_padding():
    (view,) = picture_views((90, 400), SPECS["one to one"], MolmoPreprocessorConfig(crop_mode=CropMode.resize))
    is_seen = [bool((box[2:] > box[:2]).all()) for *_, place in middles(view) for box in token_boxes(view, place)]
    assert is_seen == [False, True, True, False] * 4, "12 of 56 pixels across are picture"


@pytest.mark.parametrize("grid", [4, 5])
@pytest.mark.parametrize("pool", [(2, 2), (3, 3), (1, 2)])
def test_a_token_of_a_frame_sees_its_rectangle(grid, pool):
    size, spec = (300, 200), ImageSpec(image_size=112, patch_size=14, **ONES)
    view = frame_view(size, grid, pool, spec)
    seen = 0
    for row, column, place in middles(view):
        (box,) = token_boxes(view, place)
        if ((box[2:] - box[:2]) * size < 6).any():
            continue
        images, _ = frame_crops([painted(size, box)], grid, spec)
        assert_seen_by(view, row, column, images[0], spec.patch_size)
        seen += 1
    assert seen >= 3


def test_windows_tile_the_picture():
    view = frame_view((300, 200), 5, (2, 2), SPECS["odd"])
    boxes = np.concatenate([token_boxes(view, place) for *_, place in middles(view)])
    areas = (boxes[:, 2] - boxes[:, 0]) * (boxes[:, 3] - boxes[:, 1])
    assert areas.sum() == pytest.approx(1.0, abs=0.02)  # the resize cuts a fraction of a pixel
    assert boxes.min() == 0.0 and boxes.max() == 1.0
