"""Pictures of an example as HTML: the original with its points, and the crops as the picture encoder gets them."""

from __future__ import annotations

import base64
import io
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.multicrop import tiling_of
from olmo.preprocessing.points import Point
from olmo.preprocessing.preprocessor_config import MolmoPreprocessorConfig
from olmo.viz.points import draw

MAX_SIDE_PX = 640
"""Longer side of the original as it is shown; crops keep their size."""

_QUALITY = 85
_PADDING_SHADE = 0.35  # brightness of patches that hold no picture


def pictures_html(
    inputs: Mapping[str, Any], points: Sequence[Point], spec: ImageSpec, config: MolmoPreprocessorConfig
) -> str:
    """The pictures of an example, each followed by its crops.

    Args:
        inputs: one example of a preprocessor, made with `include_image`.
        points: drawn on the first picture, which they belong to.
        spec: what the encoder wants of a picture.
        config: how crops were cut.
    """
    originals = inputs["metadata"]["images"]
    crops = crop_pixels(inputs["images"].numpy(), inputs["image_masks"].numpy(), spec)
    kept = (inputs["image_input_idx"] >= 0).sum(dim=1).tolist()
    parts = []
    first = 0
    for number, original in enumerate(originals, start=1):
        height, width = original.shape[:2]
        rows, columns = tiling_of(height, width, spec, config)
        n_crops = 1 + rows * columns
        small = Image.fromarray(original)
        small.thumbnail((MAX_SIDE_PX, MAX_SIDE_PX))
        shown = draw(small, points if number == 1 else (), labelled=True)
        figures = list(_crop_figures(crops[first : first + n_crops], kept[first : first + n_crops]))
        parts.append(
            f'<div class="picture-row"><figure><img src="{data_uri(shown)}" alt="picture {number}">'
            f"<figcaption>picture {number}, {width} x {height}</figcaption></figure>{figures[0]}"
            f'<div class="tiles" style="grid-template-columns:repeat({max(1, columns)},auto)">'
            f"{''.join(figures[1:])}</div></div>"
        )
        first += n_crops
    return "\n".join(parts)


def crop_pixels(images: np.ndarray, masks: np.ndarray, spec: ImageSpec) -> np.ndarray:
    """Crops as they can be looked at.

    Args:
        images: float32 `[N, 3, H, W]`, normalised.
        masks: float32 `[N, P]`, share of real pixels in each patch.
        spec: mean and deviation that they were normalised with, and the grid of patches.

    Returns:
        uint8 `[N, H, W, 3]`; patches without a real pixel are darkened.
    """
    mean, std = (np.asarray(v, dtype=np.float32)[:, None, None] for v in (spec.mean, spec.std))
    pixels = images * std + mean  # [N, 3, H, W], 0..1
    is_real = (masks > 0).reshape(-1, 1, spec.grid, spec.grid)
    shade = np.where(is_real, 1.0, _PADDING_SHADE).repeat(spec.patch_size, axis=2).repeat(spec.patch_size, axis=3)
    pixels[:, :, : shade.shape[2], : shade.shape[3]] *= shade
    return (pixels.clip(0, 1) * 255).round().astype(np.uint8).transpose(0, 2, 3, 1)


def data_uri(picture: Image.Image) -> str:
    """A picture as text that an `img` of a page shows without a file of its own."""
    buffer = io.BytesIO()
    picture.convert("RGB").save(buffer, format="JPEG", quality=_QUALITY)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode("ascii")


def _crop_figures(crops: np.ndarray, kept: Sequence[int]) -> Iterator[str]:
    for k, (crop, n_tokens) in enumerate(zip(crops, kept, strict=True)):
        name = "whole" if k == 0 else f"tile {k}"
        yield (
            f'<figure><img src="{data_uri(Image.fromarray(crop))}" alt="{name}">'
            f"<figcaption>{name}: {n_tokens} tokens</figcaption></figure>"
        )
