"""Tilings and crops: the table of the released code, exact ties, masks, other geometries."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo.exceptions import OLMoConfigurationError
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.image_tokens import ImageTokenIds, count_image_tokens, image_token_layout
from olmo.preprocessing.multicrop import TileGrid, make_crops, select_tiling, tile_grids, tiling_of
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig
from olmo.preprocessing.resize import resize_and_pad

IDS = ImageTokenIds(start=1000, end=1001, patch=1002, col=1003)
STATISTICS = {"mean": (0.48145466, 0.4578275, 0.40821073), "std": (0.26862954, 0.26130258, 0.27577711)}
CLIP = ImageSpec(image_size=336, patch_size=14, **STATISTICS)
TINY = ImageSpec(image_size=24, patch_size=2, **STATISTICS)
SIGLIP = ImageSpec(image_size=378, patch_size=14, resize="siglip", mean=(0.5,) * 3, std=(0.5,) * 3)
CONFIG = MolmoPreprocessorConfig()

# height, width, rows, columns, crops, tokens, patch tokens, column tokens, dropped features
TABLE = [
    (1, 1, 1, 1, 2, 316, 288, 24, 0),
    (10, 2000, 1, 1, 2, 316, 288, 24, 0),
    (10, 20_000, 1, 1, 2, 316, 288, 24, 0),
    (2000, 10, 1, 1, 2, 316, 288, 24, 0),
    (100, 1000, 1, 1, 2, 316, 288, 24, 0),
    (111, 5000, 1, 1, 2, 316, 288, 24, 0),
    (112, 5000, 1, 12, 13, 1372, 1344, 24, 528),
    (224, 224, 1, 1, 2, 316, 288, 24, 0),
    (336, 336, 1, 1, 2, 316, 288, 24, 0),
    (337, 337, 2, 2, 5, 580, 544, 32, 176),
    (448, 448, 2, 2, 5, 580, 544, 32, 176),
    (560, 560, 2, 2, 5, 580, 544, 32, 176),
    (300, 400, 1, 2, 3, 412, 384, 24, 48),
    (336, 672, 1, 3, 4, 508, 480, 24, 96),
    (354, 536, 2, 2, 5, 580, 544, 32, 176),
    (480, 640, 2, 3, 7, 740, 704, 32, 304),
    (640, 480, 3, 2, 7, 748, 704, 40, 304),
    (500, 1500, 2, 6, 13, 1220, 1184, 32, 688),
    (600, 600, 3, 3, 10, 972, 928, 40, 512),
    (4000, 4000, 3, 3, 10, 972, 928, 40, 512),
    (720, 1280, 3, 4, 13, 1196, 1152, 40, 720),
    (768, 1024, 3, 4, 13, 1196, 1152, 40, 720),
    (1080, 1920, 3, 4, 13, 1196, 1152, 40, 720),
    (2000, 3000, 3, 4, 13, 1196, 1152, 40, 720),
    (784, 1008, 3, 4, 13, 1196, 1152, 40, 720),
    (1024, 768, 4, 3, 13, 1204, 1152, 48, 720),
    (5000, 200, 12, 1, 13, 1460, 1344, 112, 528),
]


@pytest.mark.parametrize("row", TABLE, ids=lambda r: f"{r[0]}x{r[1]}")
def test_table_of_the_released_code(row: tuple[int, ...]) -> None:
    height, width, *tiling, n_crops, n_tokens, n_patches, n_columns, n_dropped = row
    found = tiling_of(height, width, CLIP, CONFIG)
    assert list(found) == tiling
    tokens, index = image_token_layout(found, CLIP, CONFIG, IDS)
    assert index.shape == (n_crops, 144)
    assert len(tokens) == n_tokens == count_image_tokens(found, CLIP, CONFIG)
    assert np.count_nonzero(tokens == IDS.patch) == n_patches
    assert np.count_nonzero(tokens == IDS.col) == n_columns
    assert np.count_nonzero(index < 0) == n_dropped


def reference_tiling(h: int, w: int, window: int, max_crops: int) -> tuple[int, int]:
    """Section 7.3 as loops over float32 numbers."""
    pairs = sorted(
        ((i, j) for i in range(1, max_crops + 1) for j in range(1, max_crops + 1) if i * j <= max_crops),
        key=lambda pair: (pair[0] * pair[1], pair[0]),
    )
    with np.errstate(divide="ignore"):
        scales = [min(np.float32(i * window) / np.float32(h), np.float32(j * window) / np.float32(w)) for i, j in pairs]
    if all(s < 1 for s in scales):
        return pairs[scales.index(max(scales))]
    enough = [s if s >= 1 else np.float32(1e10) for s in scales]
    return pairs[enough.index(min(enough))]


@settings(max_examples=200, deadline=None)
@given(st.integers(-200, 6000), st.integers(-200, 6000), st.sampled_from([1, 4, 12, 36]))
def test_tiling_equals_the_loops(h: int, w: int, max_crops: int) -> None:
    assert select_tiling(h, w, 224, max_crops) == reference_tiling(h, w, 224, max_crops)


def test_ties_go_to_fewer_windows_then_fewer_rows() -> None:
    assert select_tiling(0, 0, 224, 12) == (1, 1)
    assert select_tiling(224, 224, 224, 12) == (1, 1)
    assert select_tiling(448, 448, 224, 2) == (1, 1)  # 1x2 and 2x1 reduce as much as 1x1
    assert select_tiling(0, 448, 224, 12) == (1, 2)


def test_negative_sizes_give_one_crop() -> None:
    for h, w in ((-1, 5000), (5000, -1), (-111, -111), (-111, 0)):
        assert select_tiling(h, w, 224, 12) == (1, 1)


def test_36_crops() -> None:
    config = CONFIG.replace(max_crops=36)
    assert tiling_of(4000, 4000, CLIP, config) == (6, 6)
    assert tiling_of(112, 50_000, CLIP, config) == (1, 36)
    assert tiling_of(50_000, 112, CLIP, config) == (36, 1)
    assert count_image_tokens((36, 1), CLIP, config) == 3956
    crops = make_crops(np.zeros((90, 90, 3), np.uint8), TINY, config.replace(overlap_margins=[2, 2]))
    assert crops.images.shape[1:] == (3, 24, 24)
    assert crops.tiling == (6, 6)


def test_window_that_is_smaller_than_the_margins() -> None:
    config = CONFIG.replace(overlap_margins=[10, 12])
    assert tile_grids(CLIP, config)[0].window == 2
    assert make_crops(np.zeros((400, 400, 3), np.uint8), CLIP, config).images.shape[0] > 1


def formula_picture(width: int, height: int) -> np.ndarray:
    y, x, c = np.ogrid[:height, :width, :3]
    return ((3 * y + 5 * x + 7 * c) % 256).astype(np.uint8)


def patchify(images: np.ndarray) -> np.ndarray:
    split = images.reshape(len(images), 3, 24, 14, 24, 14)
    return split.transpose(0, 2, 4, 3, 5, 1).reshape(len(images), 576, 588)


def mask_counts(masks: np.ndarray) -> list[tuple[int, ...]]:
    partial = (masks > 0) & (masks < 1)
    return [
        tuple(int(np.count_nonzero(test[k])) for test in (masks == 0, partial, masks == 1, masks == -1))
        for k in range(len(masks))
    ]


def test_first_worked_example() -> None:
    """Sums to 0.01: they add up 338,688 float32 values; single values to 1e-6. Measured worst 0.0005 and 5e-8."""
    crops = make_crops(formula_picture(640, 480), CLIP, CONFIG.replace(legacy_image_mask=True))
    assert crops.tiling == (2, 3)
    patches = patchify(crops.images)
    sums = patches.astype(np.float64).sum(axis=(1, 2))
    expected = [-95809.923, 26803.617, 64044.074, 28268.041, 28749.953, 61929.444, 29561.877]
    np.testing.assert_allclose(sums, expected, rtol=0, atol=0.01)
    np.testing.assert_allclose(sums.sum(), 143547.083, rtol=0, atol=0.05)
    values = {
        (0, 0): (-1.7922626, -1.7520971, -1.4802198),
        (0, 288): (1.3534427, 1.5868682, 1.7830364),
        (1, 100): (-1.1186382, -0.9545298, -0.6249734),
        (2, 10): (1.120671, 1.3475698, 1.5562977),
    }
    for (crop, patch), value in values.items():
        np.testing.assert_allclose(patches[crop, patch, :3], value, rtol=0, atol=1e-6)
    edge, inner = (24, 24, 528, 0), (0, 0, 576, 0)
    assert mask_counts(crops.masks) == [edge, inner, edge, edge, inner, edge, (0, 0, 0, 576)]
    assert crops.masks[(crops.masks > 0) & (crops.masks < 1)].max() == np.float32(0.64285713)


def test_second_worked_example() -> None:
    crops = make_crops(formula_picture(536, 354), CLIP, CONFIG.replace(legacy_image_mask=True))
    assert crops.tiling == (2, 2)
    sums = patchify(crops.images).astype(np.float64).sum(axis=(1, 2))
    expected = [-152561.254, -114686.14, -113676.819, -116439.125, -117288.304]
    np.testing.assert_allclose(sums, expected, rtol=0, atol=0.01)
    assert mask_counts(crops.masks) == [(144, 24, 408, 0)] * 4 + [(0, 0, 0, 576)]


@pytest.mark.parametrize("resize", ["default", "siglip", "dino"])
def test_crops_are_cut_from_one_canvas(resize: str) -> None:
    spec = ImageSpec(image_size=24, patch_size=2, resize=resize, **STATISTICS)
    image = np.random.default_rng(0).integers(0, 256, (40, 61, 3), dtype=np.uint8)
    crops = make_crops(image, spec, CONFIG)
    rows, columns = crops.tiling
    assert crops.images.dtype == crops.masks.dtype == np.float32
    canvas, real = resize_and_pad(image, (8 * rows + 16, 8 * columns + 16), spec)
    for k in range(rows * columns):
        y, x = (8 * v for v in divmod(k, columns))
        np.testing.assert_array_equal(crops.images[1 + k].transpose(1, 2, 0), canvas[y : y + 24, x : x + 24])
        share = real[y : y + 24, x : x + 24].reshape(12, 2, 12, 2).mean(axis=(1, 3), dtype=np.float32)
        np.testing.assert_array_equal(crops.masks[1 + k], share.reshape(-1))
    whole, real = resize_and_pad(image, (24, 24), spec)
    np.testing.assert_array_equal(crops.images[0].transpose(1, 2, 0), whole)
    share = real.reshape(12, 2, 12, 2).mean(axis=(1, 3), dtype=np.float32)
    np.testing.assert_array_equal(crops.masks[0], share.reshape(-1))


def test_legacy_masks_are_shifted_by_one_crop() -> None:
    image = np.random.default_rng(1).integers(0, 256, (30, 71, 3), dtype=np.uint8)
    right = make_crops(image, TINY, CONFIG)
    legacy = make_crops(image, TINY, CONFIG.replace(legacy_image_mask=True))
    np.testing.assert_array_equal(legacy.images, right.images)
    np.testing.assert_array_equal(legacy.masks[:-1], right.masks[1:])
    assert (legacy.masks[-1] == -1).all()


@pytest.mark.parametrize("legacy", [False, True])
def test_resize_mode_is_the_global_crop_with_its_own_mask(legacy: bool) -> None:
    image = np.random.default_rng(1).integers(0, 256, (30, 71, 3), dtype=np.uint8)
    crops = make_crops(image, TINY, CONFIG.replace(crop_mode="resize", legacy_image_mask=legacy))
    several = make_crops(image, TINY, CONFIG)
    assert crops.tiling == (0, 0)
    np.testing.assert_array_equal(crops.images, several.images[:1])
    np.testing.assert_array_equal(crops.masks, several.masks[:1])


@pytest.mark.parametrize("size", [(1, 1), (10, 2000), (10, 20_000), (2000, 10), (1, 3000)])
def test_odd_shapes_are_finite(size: tuple[int, int]) -> None:
    crops = make_crops(np.full((*size, 3), 130, np.uint8), CLIP, CONFIG)
    assert crops.images.shape == (2, 3, 336, 336)
    assert np.isfinite(crops.images).all()
    assert (crops.masks > 0).any(axis=1).all()


def test_source_is_not_changed() -> None:
    image = np.random.default_rng(1).integers(0, 256, (24, 24, 3), dtype=np.uint8)
    before = image.copy()
    make_crops(image, TINY, CONFIG)
    np.testing.assert_array_equal(image, before)


@pytest.mark.parametrize(("margins", "match"), [([12, 12], "smaller"), ([3, 4], "multiples"), ([4, 5], "multiples")])
def test_margins_must_fit(margins: list[int], match: str) -> None:
    with pytest.raises(OLMoConfigurationError, match=f"overlap_margins.*{match}"):
        make_crops(np.zeros((90, 90, 3), np.uint8), CLIP, CONFIG.replace(overlap_margins=margins))


def released_windows(grid: int, pool: int, before: int, after: int, n: int) -> list[tuple[int, int]]:
    """First kept token and number of kept tokens of each tile, by the rule of the released code (7.10)."""
    kept = []
    for tile in range(n):
        length = grid - before - after + before * (tile == 0) + after * (tile == n - 1)
        kept.append((0 if tile == 0 else before // pool, -(-length // pool)))
    return kept


@pytest.mark.parametrize(
    ("grid", "pool", "before", "after"),
    [(24, 2, 4, 4), (27, 2, 4, 4), (12, 2, 2, 4), (12, 1, 3, 2), (9, 3, 3, 0), (27, 3, 3, 6), (24, 2, 0, 0)],
)
def test_kept_tokens_follow_the_rounded_windows(grid: int, pool: int, before: int, after: int) -> None:
    axis = TileGrid(grid, pool, before, after)
    for n in range(1, 9):
        windows = released_windows(grid, pool, before, after, n)
        kept = [axis.kept(tile, n) for tile in range(n)]
        assert [(k.start, k.stop - k.start) for k in kept] == windows
        assert axis.n_tokens(n) == sum(count for _, count in windows)
        places = np.concatenate([axis.step * tile + np.arange(k.start, k.stop) for tile, k in enumerate(kept)])
        np.testing.assert_array_equal(places, np.arange(axis.n_tokens(n)))
        assert axis.n_tiles(axis.n_tokens(n)) == n
        assert max(k.stop for k in kept) <= -(-grid // pool)


def test_siglip_grid() -> None:
    config = CONFIG.replace(max_crops=8)
    rows, _ = tile_grids(SIGLIP, config)
    assert (rows.window, rows.step, rows.n_tokens(1), rows.n_tokens(2)) == (19, 10, 14, 24)
    crops = make_crops(np.zeros((480, 640, 3), np.uint8), SIGLIP, config)
    assert crops.images.shape[1:] == (3, 378, 378)
    assert crops.masks.shape[1] == 729
