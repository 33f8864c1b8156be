"""Picture tokens: layout, indices, and the way back from a sequence."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.image_tokens import (
    ImageTokenIds,
    count_image_tokens,
    image_token_layout,
    picture_starts,
    rebuild_image_input_idx,
)
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig

IDS = ImageTokenIds(start=152064, end=152065, patch=152066, col=152067)
CONFIG = MolmoPreprocessorConfig()
RESIZE = MolmoPreprocessorConfig(crop_mode="resize")


def spec_of(grid: int, pool_h: int = 2, pool_w: int = 2) -> ImageSpec:
    unit = (1.0, 1.0, 1.0)
    return ImageSpec(image_size=grid * 14, patch_size=14, pool_h=pool_h, pool_w=pool_w, mean=unit, std=unit)


CLIP = spec_of(24)


def sequence(pictures: list[tuple[int, int]], spec: ImageSpec, config: MolmoPreprocessorConfig, text: int = 3):
    """A first token, pictures with text between and after them, padding; with the true long and short indices."""
    parts, index, starts, length = [np.array([7])], [], [], 1
    for tiling in pictures:
        tokens, idx = image_token_layout(tiling, spec, config, IDS)
        starts.append(length)
        index.append(np.where(idx >= 0, idx + length, -100))
        parts += [tokens, np.arange(text)]
        length += len(tokens) + text
    parts.append(np.full(4, -1))
    return np.concatenate(parts), np.concatenate(index), starts


def test_worked_example_of_the_released_code() -> None:
    tokens, index = image_token_layout((2, 3), CLIP, CONFIG, IDS)
    assert tokens.dtype == index.dtype == np.int64
    assert tokens[:14].tolist() == [152064, *[152066] * 12, 152067]
    assert tokens[-3:].tolist() == [152066, 152067, 152065]
    index = np.where(index >= 0, index + 1, -100)  # one first token in front
    assert index[0, :20].tolist() == [*range(2, 14), *range(15, 23)]
    assert index[1, :14].tolist() == [*range(160, 170), -100, -100, 189, 190]
    assert index[2, :12].tolist() == [-100, -100, *range(170, 178), -100, -100]
    assert index[3, :14].tolist() == [-100, -100, *range(178, 188), -100, -100]
    assert (index[4, :24] == -100).all()
    firsts = [int(row[row >= 0][0]) for row in index]
    assert firsts == [2, 160, 170, 178, 450, 460, 468]
    assert [int(row.max()) for row in index[1:]] == [430, 438, 448, 720, 728, 738]
    assert [int((row >= 0).sum()) for row in index[1:]] == [100, 80, 100, 100, 80, 100]


geometries = st.sampled_from([(24, 2, 2, 4, 4), (27, 2, 2, 4, 4), (12, 2, 2, 2, 2), (12, 1, 1, 3, 2), (12, 3, 1, 3, 3)])
tilings = st.lists(st.tuples(st.integers(1, 6), st.integers(1, 6)), min_size=1, max_size=3)


@settings(max_examples=60, deadline=None)
@given(geometries, tilings, st.integers(0, 3))
def test_rebuilt_index_equals_the_made_one(geometry: tuple[int, ...], pictures: list, text: int) -> None:
    grid, pool_h, pool_w, before, after = geometry
    spec, config = spec_of(grid, pool_h, pool_w), CONFIG.replace(overlap_margins=[before, after])
    input_ids, index, starts = sequence(pictures, spec, config, text)
    np.testing.assert_array_equal(rebuild_image_input_idx(input_ids, IDS, spec, config), index)
    assert picture_starts(input_ids, IDS, spec, config).tolist() == starts


@settings(max_examples=40, deadline=None)
@given(geometries, st.tuples(st.integers(1, 6), st.integers(1, 6)), st.booleans())
def test_each_patch_token_is_taken_once(geometry: tuple[int, ...], tiling: tuple[int, int], has_columns: bool) -> None:
    grid, pool_h, pool_w, before, after = geometry
    spec = spec_of(grid, pool_h, pool_w)
    config = CONFIG.replace(overlap_margins=[before, after], use_col_tokens=has_columns)
    tokens, index = image_token_layout(tiling, spec, config, IDS)
    assert len(tokens) == count_image_tokens(tiling, spec, config)
    np.testing.assert_array_equal(np.sort(index[index >= 0]), np.flatnonzero(tokens == IDS.patch))
    assert (IDS.col in tokens) == has_columns


def test_merged_tokens_read_left_to_right_across_crops() -> None:
    spec, config = spec_of(12), CONFIG.replace(overlap_margins=[2, 2])
    _, index = image_token_layout((2, 2), spec, config, IDS)
    # Pooled token (y, x) of crop (a, b) shows place (4a + y, 4b + x) of the picture; its position must follow from it.
    for k in range(4):
        a, b = divmod(k, 2)
        for y, x in np.argwhere(index[1 + k].reshape(6, 6) >= 0):
            expected = 44 + 1 + (4 * a + y) * 11 + 4 * b + x
            assert index[1 + k].reshape(6, 6)[y, x] == expected


@pytest.mark.parametrize("has_columns", [True, False])
def test_resize_mode_is_rebuilt(has_columns: bool) -> None:
    config = RESIZE.replace(use_col_tokens=has_columns)
    input_ids, index, starts = sequence([(0, 0)] * 3, CLIP, config)
    np.testing.assert_array_equal(rebuild_image_input_idx(input_ids, IDS, CLIP, config), index)
    assert picture_starts(input_ids, IDS, CLIP, config).tolist() == starts
    assert count_image_tokens((0, 0), CLIP, config) == (158 if has_columns else 146)


def test_text_alone_has_no_crops() -> None:
    for config in (CONFIG, RESIZE, CONFIG.replace(use_col_tokens=False)):
        assert rebuild_image_input_idx(np.arange(9), IDS, CLIP, config).shape == (0, 144)
        assert picture_starts(np.arange(9), IDS, CLIP, config).shape == (0,)


def test_without_column_tokens_the_long_form_is_asked_for() -> None:
    config = CONFIG.replace(use_col_tokens=False)
    input_ids, _, _ = sequence([(1, 2)], CLIP, config)
    with pytest.raises(OLMoInputError, match=r"use_col_tokens=False.*long form, \[B, N, tokens\]"):
        rebuild_image_input_idx(input_ids, IDS, CLIP, config)


def cut_end(ids: np.ndarray) -> np.ndarray:
    return ids[:200]


def cut_start(ids: np.ndarray) -> np.ndarray:
    return ids[2:]


def no_second_block(ids: np.ndarray) -> np.ndarray:
    return np.concatenate([ids[:159], [5]])


def text_between_blocks(ids: np.ndarray) -> np.ndarray:
    return np.insert(ids, 159, 5)


def one_patch_less(ids: np.ndarray) -> np.ndarray:
    return np.delete(ids, 170)


def one_global_patch_less(ids: np.ndarray) -> np.ndarray:
    return np.delete(ids, 20)


def text_inside(ids: np.ndarray) -> np.ndarray:
    return np.where(np.arange(len(ids)) == 170, 5, ids)


def patch_outside(ids: np.ndarray) -> np.ndarray:
    return np.append(ids, IDS.patch)


def one_row_less(ids: np.ndarray) -> np.ndarray:
    return np.concatenate([ids[:160], ids[181:]])


def swapped_ends(ids: np.ndarray) -> np.ndarray:
    return np.where(ids == IDS.start, IDS.end, np.where(ids == IDS.end, IDS.start, ids))


def no_columns(ids: np.ndarray) -> np.ndarray:
    return ids[ids != IDS.col]


def empty_second_block(ids: np.ndarray) -> np.ndarray:
    return np.concatenate([ids[:160], [IDS.end]])


@pytest.mark.parametrize(
    ("damage", "match"),
    [
        (cut_end, "do not pair up.*cut"),
        (cut_start, "do not pair up"),
        (no_second_block, "1 blocks.*two for each"),
        (text_between_blocks, "must follow one another"),
        (one_patch_less, "fit no tiling"),
        (one_global_patch_less, "not those of a global crop"),
        (text_inside, "malformed at positions 170"),
        (patch_outside, "malformed"),
        (one_row_less, "fit no tiling: 11 rows of 20.*12, 20, 28"),
        (swapped_ends, "do not pair up"),
        (no_columns, "not those of a global crop.*with column tokens"),
        (empty_second_block, "fit no tiling: 0 rows"),
    ],
)
def test_malformed_pictures_are_refused(damage, match: str) -> None:
    input_ids, _, _ = sequence([(1, 2)], CLIP, CONFIG)
    with pytest.raises(OLMoInputError, match=match):
        rebuild_image_input_idx(damage(input_ids), IDS, CLIP, CONFIG)


def test_picture_of_another_crop_mode_is_refused() -> None:
    input_ids, _, _ = sequence([(1, 2)], CLIP, CONFIG)
    with pytest.raises(OLMoInputError, match="not those of a global crop"):
        rebuild_image_input_idx(input_ids, IDS, CLIP, RESIZE)


def test_batches_are_refused() -> None:
    with pytest.raises(OLMoInputError, match=r"\[L\]"):
        rebuild_image_input_idx(np.zeros((2, 3), np.int64), IDS, CLIP, CONFIG)
