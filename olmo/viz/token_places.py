"""Where the tokens of a crop lie on the picture that the crop was cut from.

Lives here: the crops of a picture or frame as rectangles on it, padding included, and the rectangles of their tokens.
Knows nothing of models or drawing. The crops themselves are made by `preprocessing.multicrop` and
`preprocessing.video.video_preprocessor`.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.multicrop import tile_grids, tiling_of
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig
from olmo.preprocessing.resize import Placement, place
from olmo.preprocessing.video.video_spec import pooled_side


@dataclass(frozen=True)
class CropView:
    """One crop as it lies on its picture.

    Attributes:
        box: left, top, right and bottom as shares of the picture; what is outside of 0 to 1 is padding.
        grid: patches a side.
        pool: height and width of a pooling window, in patches.
        is_fine: the crop is one of high resolution, not the global one.
    """

    box: tuple[float, float, float, float]
    grid: int
    pool: tuple[int, int]
    is_fine: bool = False


def picture_views(size: tuple[int, int], spec: ImageSpec, config: MolmoPreprocessorConfig) -> list[CropView]:
    """The crops of a picture, in their order: the global one, then those of high resolution.

    Args:
        size: width and height of the picture, in pixels.
        spec: sizes and resize mode of the picture encoder.
        config: crop mode, number of crops, margins.
    """
    width, height = size
    pool = (spec.pool_h, spec.pool_w)
    views = [frame_view(size, spec.grid, pool, spec)]
    tiling = tiling_of(height, width, spec, config)
    if tiling == (0, 0):
        return views
    window = tile_grids(spec, config)[0].window
    rows, columns = (n * window + spec.grid - window for n in tiling)
    placed = place((height, width), (rows * spec.patch_size, columns * spec.patch_size), spec)
    for tile in range(tiling[0] * tiling[1]):
        top, left = (index * window * spec.patch_size for index in divmod(tile, tiling[1]))
        views.append(CropView(_shares(placed, top, left, spec.image_size), spec.grid, pool, is_fine=True))
    return views


def frame_view(size: tuple[int, int], grid: int, pool: tuple[int, int], spec: ImageSpec) -> CropView:
    """The one crop of a frame, or the global one of a picture.

    Args:
        size: width and height of the frame, in pixels.
        grid: patches a side of its crop.
        pool: height and width of a pooling window, in patches.
        spec: patch size and resize mode of the picture encoder.
    """
    side = grid * spec.patch_size
    placed = place((size[1], size[0]), (side, side), spec)
    return CropView(_shares(placed, 0, 0, side), grid, pool)


def token_boxes(view: CropView, places: np.ndarray) -> np.ndarray:
    """Rectangles of tokens on the picture.

    Args:
        view: the crop that they belong to.
        places: `[T, 2]` row and column of each token's middle within the crop, 0 to 1.

    Returns:
        float64 `[T, 4]`: left, top, right and bottom as shares of the picture, 0 to 1; nothing is left of a token that
        lies in the padding.
    """
    left, top, right, bottom = view.box
    n_windows = np.array([pooled_side(view.grid, pool) for pool in view.pool])
    first = np.floor(places * n_windows) * view.pool  # [T, 2], in patches
    last = np.minimum(first + view.pool, view.grid)  # the last window of an odd grid is not full
    corners = np.concatenate([first[:, ::-1], last[:, ::-1]], axis=1) / view.grid  # [T, 4]
    width, height = right - left, bottom - top
    return np.clip(corners * [width, height, width, height] + [left, top, left, top], 0.0, 1.0)


def _shares(placed: Placement, top: int, left: int, side: int) -> tuple[float, float, float, float]:
    """A square of `side` pixels of a canvas, as shares of the picture that is placed on it."""
    x, y = (left - placed.left) / placed.width, (top - placed.top) / placed.height
    return x, y, x + side / placed.width, y + side / placed.height
