"""Cutting a picture into a global crop and overlapping high-resolution crops.

Lives here: the choice of a tiling, the crops with their padding masks, and the numbers of a tiling (`TileGrid`) that
the token layout shares. Knows nothing of token ids. Source: `molmo` technical notes of the released models, 7.3 to 7.6
and 7.10.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch

from olmo.exceptions import OLMoConfigurationError
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.preprocessor_config import CropMode, MolmoPreprocessorConfig
from olmo.preprocessing.resize import Placement, draw_resized, to_float


@dataclass(frozen=True)
class Crops:
    """The crops of one picture, the global one first, then the high-resolution ones in reading order.

    Attributes:
        images: float32 `[N, 3, H, W]`, normalised.
        masks: float32 `[N, P]`, share of real pixels in each patch, 0 to 1; -1 is the filler of the legacy rule.
        tiling: rows and columns of high-resolution crops; (0, 0) where there is only the global crop.
    """

    images: np.ndarray
    masks: np.ndarray
    tiling: tuple[int, int]


@dataclass(frozen=True)
class TileGrid:
    """How crops share the patches of the canvas, along one axis (rows or columns).

    A crop has `grid` patches; neighbours share `before + after` of them. Pooled tokens of a crop that lie in a shared
    margin are dropped, so that the kept ones of all crops lie side by side. Pooled token y of tile a is then token
    `step * a + y` of the merged grid.

    Attributes:
        grid: patches of a crop.
        pool: patches of a pooling window; the last window may reach past an odd grid.
        before: patches dropped at the start of a crop that has a neighbour there.
        after: likewise at the end.
    """

    grid: int
    pool: int
    before: int
    after: int

    @property
    def window(self) -> int:
        """Patches by which neighbouring crops are apart."""
        return self.grid - self.before - self.after

    @property
    def step(self) -> int:
        """Pooled tokens of an inner crop; a window that is not a multiple of the pool is rounded up."""
        return -(-self.window // self.pool)

    def kept(self, tile: int, n_tiles: int) -> slice:
        """Pooled tokens of tile `tile` of `n_tiles` that go to the language model."""
        start = 0 if tile == 0 else self.before // self.pool
        stop = self.before // self.pool + self.step + (self.after // self.pool if tile == n_tiles - 1 else 0)
        return slice(start, stop)

    def n_tokens(self, n_tiles: int) -> int:
        """Pooled tokens of the merged grid."""
        return (self.before + self.after) // self.pool + n_tiles * self.step

    def n_tiles(self, n_tokens: int) -> int | None:
        """The inverse of `n_tokens`; None where no number of tiles gives it."""
        tiles, rest = divmod(n_tokens - (self.before + self.after) // self.pool, self.step)
        return tiles if tiles >= 1 and rest == 0 else None


def tile_grids(spec: ImageSpec, config: MolmoPreprocessorConfig) -> tuple[TileGrid, TileGrid]:
    """The axes of a tiling, vertical and horizontal.

    Raises:
        OLMoConfigurationError: the margins leave nothing of a crop, or are not whole pooling windows.
    """
    before, after = config.overlap_margins
    if before + after >= spec.grid:
        raise OLMoConfigurationError(
            f"{config.overlap_margins} leave nothing of a crop of {spec.grid} patches; their sum must be smaller",
            "overlap_margins",
        )
    for pool in (spec.pool_h, spec.pool_w):
        if before % pool or after % pool:
            raise OLMoConfigurationError(
                f"{config.overlap_margins} must be multiples of the pooling window {spec.pool_h}x{spec.pool_w} patches",
                "overlap_margins",
            )
    return TileGrid(spec.grid, spec.pool_h, before, after), TileGrid(spec.grid, spec.pool_w, before, after)


def select_tiling(h: int, w: int, window_px: int, max_crops: int) -> tuple[int, int]:
    """The grid of windows that a picture of `h` x `w` needs to be enlarged the least, or else reduced the least.

    Args:
        h: height in pixels, without the margins; may be zero or negative for a small picture.
        w: width, likewise.
        window_px: side of a window, in pixels.
        max_crops: most windows allowed.

    Returns:
        Rows and columns. Ties go to fewer windows, then to fewer rows. A negative size gives (1, 1).
    """
    candidates = _candidate_tilings(max_crops)
    size = np.array([h, w], dtype=np.float32)
    with np.errstate(divide="ignore"):
        scale = (candidates * window_px).astype(np.float32) / size  # [candidates, 2]
    scale = scale.min(axis=1)
    if np.all(scale < 1):
        best = int(np.argmax(scale))
    else:
        best = int(np.argmin(np.where(scale < 1, np.float32(1e10), scale)))
    return int(candidates[best, 0]), int(candidates[best, 1])


@lru_cache(maxsize=16)
def _candidate_tilings(max_crops: int) -> np.ndarray:
    pairs = [(i, j) for i in range(1, max_crops + 1) for j in range(1, max_crops // i + 1)]
    return np.array(sorted(pairs, key=lambda pair: (pair[0] * pair[1], pair[0])), dtype=np.int64)


def tiling_of(height: int, width: int, spec: ImageSpec, config: MolmoPreprocessorConfig) -> tuple[int, int]:
    """The tiling of a picture of this size; (0, 0) in crop mode `resize`."""
    if config.crop_mode is CropMode.resize:
        return 0, 0
    rows, _ = tile_grids(spec, config)
    margin_px, window_px = (spec.grid - rows.window) * spec.patch_size, rows.window * spec.patch_size
    return select_tiling(height - margin_px, width - margin_px, window_px, config.max_crops)


def make_crops(image: np.ndarray, spec: ImageSpec, config: MolmoPreprocessorConfig) -> Crops:
    """Crops of one picture with their masks.

    Args:
        image: uint8 `[h, w, 3]`.
        spec: sizes and pixel statistics of the vision backbone.
        config: crop mode, number of crops, margins, mask rule.

    Raises:
        OLMoConfigurationError: margins or resize mode do not fit the backbone.
    """
    tiling = tiling_of(image.shape[0], image.shape[1], spec, config)
    n_tiles, side = tiling[0] * tiling[1], spec.image_size
    images = torch.empty(1 + n_tiles, 3, side, side)
    masks = np.empty((1 + n_tiles, spec.n_patches), dtype=np.float32)
    pixels = to_float(image, spec)
    placed = draw_resized(pixels, images[0], spec)
    masks[0] = patch_shares(placed, (spec.grid, spec.grid), spec.patch_size).reshape(-1)  # [P]
    if n_tiles:
        _cut_tiles(pixels, images[1:], masks[1:], tiling, spec, config)
        if config.legacy_image_mask:
            masks = np.concatenate([masks[1:], np.full_like(masks[:1], -1)])  # [N, P]
    return Crops(images.numpy(), masks, tiling)


def _cut_tiles(
    pixels: torch.Tensor,
    images: torch.Tensor,
    masks: np.ndarray,
    tiling: tuple[int, int],
    spec: ImageSpec,
    config: MolmoPreprocessorConfig,
) -> None:
    """Fill `images` `[tiles, 3, H, W]` and `masks` `[tiles, P]` from one canvas on which the whole picture is drawn."""
    window = tile_grids(spec, config)[0].window
    patches = [n * window + spec.grid - window for n in tiling]
    canvas = torch.empty(3, patches[0] * spec.patch_size, patches[1] * spec.patch_size)
    placed = draw_resized(pixels, canvas, spec)
    shares = patch_shares(placed, (patches[0], patches[1]), spec.patch_size)
    for k in range(len(masks)):
        row, column = (window * index for index in divmod(k, tiling[1]))
        masks[k] = shares[row : row + spec.grid, column : column + spec.grid].reshape(-1)  # [P]
        y, x = row * spec.patch_size, column * spec.patch_size
        images[k] = canvas[:, y : y + spec.image_size, x : x + spec.image_size]


def patch_shares(placed: Placement, grid: tuple[int, int], patch: int) -> np.ndarray:
    """Share of real pixels in each patch of a canvas, float32 `[rows, columns]`.

    The real pixels are a rectangle, so counts along the axes multiply; no mask of pixels is needed.
    """
    counts = []
    for start, length, n in ((placed.top, placed.height, grid[0]), (placed.left, placed.width, grid[1])):
        edges = np.arange(n + 1) * patch
        counts.append(np.diff(np.clip(edges, start, start + length)))
    return np.outer(*counts).astype(np.float32) / np.float32(patch * patch)
