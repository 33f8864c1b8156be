"""Resizing: placement in float32, padding, normalisation, stretch modes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from olmo.exceptions import OLMoConfigurationError
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.resize import place, resize_and_pad

MEAN, STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def spec_of(resize: str = "default") -> ImageSpec:
    return ImageSpec(image_size=56, patch_size=14, resize=resize, mean=MEAN, std=STD)


def picture(height: int, width: int) -> np.ndarray:
    return np.random.default_rng(height * 10_000 + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


def expected_by_the_letter(image: np.ndarray, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """Section 7.2 step by step, without regard to speed."""
    scale = min(np.float32(size[0]) / np.float32(image.shape[0]), np.float32(size[1]) / np.float32(image.shape[1]))
    height, width = (int(np.float32(side) * scale) for side in image.shape[:2])
    unit = torch.from_numpy(image).permute(2, 0, 1).float() / 255
    unit = F.interpolate(unit[None], (height, width), mode="bilinear", antialias=True, align_corners=False)[0]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    padded, mask = np.zeros((*size, 3), np.float32), np.zeros(size, bool)
    padded[top : top + height, left : left + width] = unit.clamp(0, 1).permute(1, 2, 0).numpy()
    mask[top : top + height, left : left + width] = True
    return (padded - np.array(MEAN, np.float32)) / np.array(STD, np.float32), mask


@pytest.mark.parametrize(
    "height,width", [(40, 40), (17, 90), (90, 17), (200, 130), (1, 1), (3, 50), (56, 84), (57, 83)]
)
def test_default_mode_is_bit_equal_to_the_described_steps(height: int, width: int) -> None:
    image = picture(height, width)
    pixels, mask = resize_and_pad(image, (56, 84), spec_of())
    expected, expected_mask = expected_by_the_letter(image, (56, 84))
    assert pixels.dtype == np.float32
    assert pixels.shape == (56, 84, 3)
    np.testing.assert_array_equal(pixels, expected)
    np.testing.assert_array_equal(mask, expected_mask)


def test_padding_is_what_zero_becomes() -> None:
    pixels, mask = resize_and_pad(picture(10, 80), (56, 56), spec_of())
    assert not mask[0].any()
    np.testing.assert_array_equal(pixels[0, 0], np.array([-1.7922626, -1.7520971, -1.4802198], np.float32))


@pytest.mark.parametrize(
    ("size", "canvas", "wanted"),
    [
        ((480, 640), (336, 336), (42, 0, 251, 336)),
        ((480, 640), (560, 784), (0, 19, 560, 746)),
        ((354, 536), (336, 336), (57, 0, 221, 336)),
        ((354, 536), (560, 560), (95, 0, 369, 560)),
    ],
)
def test_truncation_happens_in_float32(size: tuple, canvas: tuple, wanted: tuple) -> None:
    placed = place(size, canvas, spec_of())
    assert (placed.top, placed.left, placed.height, placed.width) == wanted


def test_picture_always_fits_the_canvas() -> None:
    rng = np.random.default_rng(3)
    for _ in range(3000):
        size = tuple(int(v) for v in rng.integers(1, 30_000, 2))
        canvas = tuple(int(v) for v in rng.integers(1, 40, 2) * 14)
        placed = place(size, canvas, spec_of())
        assert 1 <= placed.height <= canvas[0]
        assert 1 <= placed.width <= canvas[1]
        assert placed.top + placed.height <= canvas[0]
        assert placed.left + placed.width <= canvas[1]


@pytest.mark.parametrize("height,width", [(1, 2000), (2000, 1), (10, 20_000), (20_000, 3)])
def test_very_long_pictures_keep_one_pixel(height: int, width: int) -> None:
    pixels, mask = resize_and_pad(np.full((height, width, 3), 255, np.uint8), (336, 336), spec_of())
    assert mask.sum() == 336
    white = (1 - np.array(MEAN, np.float32)) / np.array(STD, np.float32)
    np.testing.assert_allclose(pixels[mask], np.tile(white, (336, 1)), rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("mode", "filter_name", "antialias"),
    [("siglip", "bilinear", False), ("dino", "bicubic", True), ("metaclip", "bicubic", True)],
)
def test_stretch_modes_round_to_eight_bits(mode: str, filter_name: str, antialias: bool) -> None:
    image = picture(33, 71)
    pixels, mask = resize_and_pad(image, (56, 28), spec_of(mode))
    assert mask.all()
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].float()
    levels = F.interpolate(tensor, (56, 28), mode=filter_name, antialias=antialias, align_corners=False)
    levels = levels.round().clamp(0, 255)[0].permute(1, 2, 0).numpy()
    back = (pixels * np.array(STD, np.float32) + np.array(MEAN, np.float32)) * 255
    np.testing.assert_allclose(back, levels, rtol=0, atol=1e-3)


@pytest.mark.parametrize("size", [(33, 71), (200, 130), (720, 1280), (1, 9), (56, 28)])
def test_the_order_in_memory_changes_no_bit(size: tuple[int, int]) -> None:
    """Without antialiasing pixels are resized over channels-last memory, which is quicker."""
    image = picture(*size)
    tensor = torch.from_numpy(image).permute(2, 0, 1)[None].contiguous().float()
    levels = F.interpolate(tensor, (56, 28), mode="bilinear", align_corners=False).round().clamp(0, 255)[0]
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
    pixels, _ = resize_and_pad(image, (56, 28), spec_of("siglip"))
    np.testing.assert_array_equal(pixels, ((levels / 255 - mean) / std).permute(1, 2, 0).numpy())


def test_siglip_statistics_give_two_x_minus_one() -> None:
    half = (0.5, 0.5, 0.5)
    spec = ImageSpec(image_size=28, patch_size=14, resize="siglip", mean=half, std=half)
    image = picture(28, 28)
    pixels, _ = resize_and_pad(image, (28, 28), spec)
    np.testing.assert_array_equal(pixels, 2 * (image.astype(np.float32) / 255) - 1)


def test_same_size_does_not_touch_the_source() -> None:
    image = picture(56, 56)
    before = image.copy()
    for mode in ("default", "siglip", "dino"):
        resize_and_pad(image, (56, 56), spec_of(mode))
    np.testing.assert_array_equal(image, before)


def test_read_only_arrays_are_taken_without_a_warning(recwarn: pytest.WarningsRecorder) -> None:
    image = picture(20, 20)
    image.flags.writeable = False
    resize_and_pad(image, (56, 56), spec_of())
    assert not recwarn.list


def test_unknown_mode_lists_the_choices() -> None:
    with pytest.raises(OLMoConfigurationError, match="'default', 'siglip', 'dino', 'metaclip'"):
        resize_and_pad(picture(5, 5), (56, 56), spec_of("bicubic"))
