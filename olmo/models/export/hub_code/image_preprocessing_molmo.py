"""`MolmoImageProcessor`: a picture as a global crop and overlapping high-resolution crops, with its tokens.

Written by `molmo export`. It stands alone: nothing of the package that wrote it has to be installed. A test compares
every number with the preprocessor of that package.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from transformers.image_processing_utils import BaseImageProcessor

UNUSED = -100
POOL = 2
"""Patches of a pooling window, along each axis."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


class MolmoImageProcessor(BaseImageProcessor):
    """Crops, padding masks and tokens of pictures.

    Args:
        max_crops: most high-resolution crops of a picture.
        overlap_margins: patches that a crop shares with the one before and the one after.
        base_image_input_size: height and width of a crop, in pixels.
        image_token_length_w: tokens of a crop in a row.
        image_token_length_h: rows of tokens of a crop.
        image_patch_size: side of a patch, in pixels.
        image_mean: mean of each channel, of values 0 to 1.
        image_std: standard deviation of each channel.
        legacy_image_mask: masks are shifted by one crop, as the released weights were trained.
        **kwargs: other fields of `preprocessor_config.json`.
    """

    model_input_names = ["images", "image_input_idx", "image_masks"]  # noqa: RUF012 the base class has a list

    def __init__(
        self,
        max_crops: int = 12,
        overlap_margins: Sequence[int] = (4, 4),
        base_image_input_size: Sequence[int] = (336, 336),
        image_token_length_w: int = 12,
        image_token_length_h: int = 12,
        image_patch_size: int = 14,
        image_mean: Sequence[float] = CLIP_MEAN,
        image_std: Sequence[float] = CLIP_STD,
        legacy_image_mask: bool = True,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.max_crops = max_crops
        self.overlap_margins = list(overlap_margins)
        self.base_image_input_size = list(base_image_input_size)
        self.image_token_length_w = image_token_length_w
        self.image_token_length_h = image_token_length_h
        self.image_patch_size = image_patch_size
        self.image_mean = list(image_mean)
        self.image_std = list(image_std)
        self.legacy_image_mask = legacy_image_mask

    def preprocess(self, images: Any, ids: Sequence[int] = (0, 1, 2, 3), **kwargs: Any) -> dict[str, np.ndarray]:
        """Everything of one picture or of several, in their order.

        Args:
            images: a PIL picture or uint8 array `[H, W, 3]`, or a list of them.
            ids: token ids of start, end, patch and column.
            **kwargs: passed over.

        Returns:
            `tokens` int64 `[T]`; `images` float32 `[N, patches, pixels]`; `image_masks` float32 `[N, patches]`;
            `image_input_idx` int64 `[N, tokens]`, counted from the first of `tokens`, negative where unused.
        """
        pictures = images if isinstance(images, list | tuple) else [images]
        found = [self._one(pixels_of(picture), ids) for picture in pictures]
        start = 0
        for one in found:
            one["image_input_idx"][one["image_input_idx"] >= 0] += start
            start += len(one["tokens"])
        return {name: np.concatenate([one[name] for one in found]) for name in found[0]}

    def tiling_of(self, height: int, width: int) -> tuple[int, int]:
        """Rows and columns of high-resolution crops of a picture of this size."""
        margin_px = sum(self.overlap_margins) * self.image_patch_size
        size = np.array([height - margin_px, width - margin_px], dtype=np.float32)
        most = range(1, self.max_crops + 1)
        pairs = sorted(((i, j) for i in most for j in most if i * j <= self.max_crops), key=lambda p: (p[0] * p[1], p))
        with np.errstate(divide="ignore"):
            scale = (np.array(pairs) * self._window * self.image_patch_size).astype(np.float32) / size
        scale = scale.min(axis=1)
        if np.all(scale < 1):
            return pairs[int(np.argmax(scale))]
        return pairs[int(np.argmin(np.where(scale < 1, np.float32(1e10), scale)))]

    @property
    def _grid(self) -> int:
        """Patches of a crop, along each axis."""
        return int(self.base_image_input_size[0]) // self.image_patch_size

    @property
    def _window(self) -> int:
        """Patches by which neighbouring crops are apart."""
        return self._grid - sum(self.overlap_margins)

    def _one(self, image: np.ndarray, ids: Sequence[int]) -> dict[str, np.ndarray]:
        rows, columns = self.tiling_of(image.shape[0], image.shape[1])
        side, patch, grid, window = int(self.base_image_input_size[0]), self.image_patch_size, self._grid, self._window
        small, small_shares = self._drawn(image, (side, side))
        wide = [n * window + grid - window for n in (rows, columns)]
        canvas, shares = self._drawn(image, (wide[0] * patch, wide[1] * patch))
        crops, masks = [small], [small_shares]
        for k in range(rows * columns):
            top, left = (window * index for index in divmod(k, columns))
            crops.append(canvas[:, top * patch : top * patch + side, left * patch : left * patch + side])
            masks.append(shares[top : top + grid, left : left + grid])
        flat = np.stack([mask.reshape(-1) for mask in masks])
        if self.legacy_image_mask:
            flat = np.concatenate([flat[1:], np.full_like(flat[:1], -1)])
        tokens, index = self._layout(rows, columns, ids)
        return {
            "tokens": tokens,
            "images": np.stack([self._patches(crop) for crop in crops]),
            "image_masks": flat,
            "image_input_idx": index,
        }

    def _drawn(self, image: np.ndarray, size: tuple[int, int]) -> tuple[torch.Tensor, np.ndarray]:
        """Normalised pixels `[3, H, W]` with the picture in the middle, and the real share of each patch."""
        scale = np.min(np.array(size, dtype=np.float32) / np.array(image.shape[:2], dtype=np.float32))
        height, width = (max(1, int(side)) for side in np.array(image.shape[:2], dtype=np.float32) * scale)
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        pixels = torch.tensor(image).permute(2, 0, 1)[None].float().div_(255)
        pixels = F.interpolate(pixels, (height, width), mode="bilinear", antialias=True, align_corners=False)[0]
        canvas = torch.zeros(3, *size)
        canvas[:, top : top + height, left : left + width] = pixels.clamp(0, 1)
        mean, std = (torch.tensor(values).view(3, 1, 1) for values in (self.image_mean, self.image_std))
        patch = self.image_patch_size
        counts = [
            np.diff(np.clip(np.arange(side // patch + 1) * patch, start, start + length))
            for side, start, length in ((size[0], top, height), (size[1], left, width))
        ]
        return (canvas - mean) / std, np.outer(*counts).astype(np.float32) / np.float32(patch * patch)

    def _patches(self, crop: torch.Tensor) -> np.ndarray:
        """`[3, H, W]` as `[patches, pixels]`; pixels of a patch in the order row, column, channel."""
        grid, patch = self._grid, self.image_patch_size
        parts = crop.reshape(3, grid, patch, grid, patch).permute(1, 3, 2, 4, 0)
        return parts.reshape(grid * grid, patch * patch * 3).numpy()

    def _layout(self, rows: int, columns: int, ids: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of a picture, and the place of each pooled feature among them."""
        n_rows, n_columns = self.image_token_length_h, self.image_token_length_w
        overview = block_tokens(n_rows, n_columns, ids)
        before, after, step = self.overlap_margins[0] // POOL, self.overlap_margins[1] // POOL, self._window // POOL
        height, width = before + after + rows * step, before + after + columns * step
        places = block_places(height, width) + len(overview)
        index = np.full((rows * columns, n_rows, n_columns), UNUSED, dtype=np.int64)
        for k in range(len(index)):
            a, b = divmod(k, columns)
            y = slice(before if a else 0, before + step + (after if a == rows - 1 else 0))
            x = slice(before if b else 0, before + step + (after if b == columns - 1 else 0))
            index[k, y, x] = places[step * a + y.start : step * a + y.stop, step * b + x.start : step * b + x.stop]
        all_places = np.concatenate([block_places(n_rows, n_columns)[None], index])
        tokens = np.concatenate([overview, block_tokens(height, width, ids)])
        return tokens, all_places.reshape(len(all_places), -1)


def pixels_of(picture: Any) -> np.ndarray:
    """A picture as uint8 `[H, W, 3]`.

    Raises:
        ValueError: it is no picture.
    """
    pixels = np.asarray(picture.convert("RGB") if isinstance(picture, Image.Image) else picture)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8:
        raise ValueError(
            f"a picture is a PIL image or a uint8 array [H, W, 3], got {pixels.dtype} {list(pixels.shape)}"
        )
    return pixels


def block_tokens(n_rows: int, n_columns: int, ids: Sequence[int]) -> np.ndarray:
    """Start, rows of patch tokens each closed by a column token, end; int64 `[T]`."""
    start, end, patch, column = ids
    return np.array([start, *([patch] * n_columns + [column]) * n_rows, end], dtype=np.int64)


def block_places(n_rows: int, n_columns: int) -> np.ndarray:
    """Position in its block of every patch token, int64 `[rows, columns]`."""
    return 1 + np.arange(n_rows)[:, None] * (n_columns + 1) + np.arange(n_columns)
