"""Pictures against vectors made by the released preprocessing code.

Tolerance 3e-5 on pixels and their means and deviations; measured worst 5.1e-6, which is the rounding of the stored
values to five decimals. Means of masks 1e-6, measured 3.9e-7 (stored to six decimals). Everything else is exact.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.image_tokens import (
    ImageTokenIds,
    count_image_tokens,
    image_token_layout,
    rebuild_image_input_idx,
)
from olmo.preprocessing.multicrop import Crops, make_crops
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig

CLIP = ImageSpec(
    image_size=336,
    patch_size=14,
    mean=(0.48145466, 0.4578275, 0.40821073),
    std=(0.26862954, 0.26130258, 0.27577711),
)
CONFIG = MolmoPreprocessorConfig(legacy_image_mask=True)
N_CASES = 12


def golden_picture(height: int, width: int) -> np.ndarray:
    y, x = np.arange(height, dtype=np.int32)[:, None], np.arange(width, dtype=np.int32)
    gray = ((37 * y + 17 * x + (y * x) // 7) % 256).astype(np.uint8)
    return gray[..., None] + (101 * np.arange(3) % 256).astype(np.uint8)  # uint8 sums wrap, as the formula does


def patchify(images: np.ndarray, patch: int) -> np.ndarray:
    n, c, h, w = images.shape
    split = images.reshape(n, c, h // patch, patch, w // patch, patch)
    return split.transpose(0, 2, 4, 3, 5, 1).reshape(n, (h // patch) * (w // patch), patch * patch * c)


@pytest.fixture(scope="module")
def golden(golden_dir: Path) -> dict:
    return json.loads((golden_dir / "preprocess.json").read_text())


@pytest.mark.parametrize("number", range(N_CASES))
def test_crops_and_tokens_equal_the_released_ones(golden: dict, number: int) -> None:
    assert len(golden["cases"]) == N_CASES
    case = golden["cases"][number]
    special = golden["special_ids"]
    ids = ImageTokenIds(special["im_start"], special["im_end"], special["im_patch"], special["im_col"])
    crops = make_crops(golden_picture(case["height"], case["width"]), CLIP, CONFIG)
    assert list(crops.tiling) == case["tiling"]
    assert len(crops.images) == case["n_crops"]
    check_pixels(crops, case)
    check_masks(crops, case)

    tokens, index = image_token_layout(crops.tiling, CLIP, CONFIG, ids)
    input_ids = np.concatenate([[golden["bos_id"]], tokens, golden["text_ids"]])
    index = np.where(index >= 0, index + 1, -100)
    assert len(input_ids) == case["n_tokens"]
    assert count_image_tokens(crops.tiling, CLIP, CONFIG) == len(tokens)
    assert input_ids.sum() == case["input_ids_sum"]
    assert np.count_nonzero(tokens == ids.patch) == case["n_patch_tokens"]
    assert np.count_nonzero(tokens == ids.col) == case["n_col_tokens"]
    weights = np.arange(index.size).reshape(index.shape) % 9973 + 1
    assert (index * weights).sum() == case["image_input_idx_checksum"]
    if case["image_input_idx"] is not None:  # stored for the small cases only
        np.testing.assert_array_equal(index, case["image_input_idx"])
    np.testing.assert_array_equal(rebuild_image_input_idx(input_ids, ids, CLIP, CONFIG), index)


def check_pixels(crops: Crops, case: dict) -> None:
    patches = patchify(crops.images, 14)
    got = [patches[s["crop"], s["patch"], s["pixel"]] for s in case["samples"]]
    np.testing.assert_allclose(got, [s["value"] for s in case["samples"]], rtol=0, atol=3e-5)
    wide = patches.astype(np.float64).reshape(len(patches), -1)
    np.testing.assert_allclose(wide.mean(axis=1), case["crop_mean"], rtol=0, atol=3e-5)
    np.testing.assert_allclose(wide.std(axis=1), case["crop_std"], rtol=0, atol=3e-5)


def check_masks(crops: Crops, case: dict) -> None:
    rows = crops.masks.astype(np.float64).mean(axis=1)
    np.testing.assert_allclose(rows, case["image_masks_row_mean"], rtol=0, atol=1e-6)
    assert len(np.unique(crops.masks)) == case["image_masks_unique"]
