"""Resizing: a uint8 picture onto a canvas of normalised float pixels.

Lives here: the aspect-keeping resize with padding of the released models, and the stretching ones that belong to
SigLIP, DINOv2 and MetaCLIP. Knows nothing of crops. Source: `molmo` technical notes of the released models, 7.2 and
7.10; the arithmetic (float32 scale, truncation, padding before normalising) is what the weights were trained with.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from olmo.exceptions import OLMoConfigurationError
from olmo.preprocessing.image import ImageSpec

STRETCH_MODES: dict[str, tuple[str, bool]] = {
    "siglip": ("bilinear", False),
    "dino": ("bicubic", True),
    "metaclip": ("bicubic", True),
}
"""Interpolation and antialiasing of the modes that ignore the aspect ratio; they round to 8 bits in between."""


@dataclass(frozen=True)
class Placement:
    """The rectangle of a canvas that holds the picture; the rest is padding. All in pixels."""

    top: int
    left: int
    height: int
    width: int


def place(size: tuple[int, int], canvas: tuple[int, int], spec: ImageSpec) -> Placement:
    """Where a picture of `size` (height, width) lies on `canvas` (height, width) once resized.

    A very long picture whose short side would round to nothing keeps one pixel; the released code fails there.

    Raises:
        OLMoConfigurationError: unknown `spec.resize`.
    """
    if spec.resize in STRETCH_MODES:
        return Placement(0, 0, *canvas)
    if spec.resize != "default":
        choices = ", ".join(repr(name) for name in ("default", *STRETCH_MODES))
        raise OLMoConfigurationError(f"{spec.resize!r} is not one of {choices}", "resize")
    original = np.array(size, dtype=np.float32)
    wanted = np.array(canvas, dtype=np.float32)
    # float32 throughout: a double would truncate to another size for some pictures.
    scale = np.min(wanted / original)
    height, width = (max(1, int(side)) for side in original * scale)
    return Placement((canvas[0] - height) // 2, (canvas[1] - width) // 2, height, width)


def to_float(image: np.ndarray, spec: ImageSpec) -> torch.Tensor:
    """uint8 `[H, W, 3]` to float32 `[1, 3, H, W]`: 0..1, or 0..255 for the modes that round to 8 bits later."""
    writable = image if image.flags.writeable else image.copy()  # torch warns of memory that it must not write
    planes = torch.from_numpy(writable).permute(2, 0, 1)[None]  # [1, 3, H, W]
    # The order in memory changes no bit, only the time. With antialiasing channels first: 1.2 times faster at
    # 1920x1080, a little slower at 640x480. Without, channels last: 4 to 5 times faster at 1280x720 and above.
    is_plain = spec.resize in STRETCH_MODES and not STRETCH_MODES[spec.resize][1]
    memory = torch.channels_last if is_plain else torch.contiguous_format
    pixels = torch.empty(planes.shape, dtype=torch.float32, memory_format=memory).copy_(planes)
    return pixels if spec.resize in STRETCH_MODES else pixels.div_(255)


def draw_resized(pixels: torch.Tensor, canvas: torch.Tensor, spec: ImageSpec) -> Placement:
    """Resize onto a canvas, normalised; padding is what zero becomes by normalising.

    Args:
        pixels: float32 `[1, 3, h, w]`, see `to_float`; not changed.
        canvas: float32 `[3, H, W]`, overwritten as a whole.
        spec: resize mode, mean and std.

    Returns:
        The rectangle of the canvas that holds the picture.

    Raises:
        OLMoConfigurationError: unknown `spec.resize`.
    """
    height, width = canvas.shape[1:]
    placed = place((pixels.shape[2], pixels.shape[3]), (height, width), spec)
    mean, std = (torch.tensor(v, dtype=torch.float32).view(3, 1, 1) for v in (spec.mean, spec.std))
    unit = _resize(pixels, (placed.height, placed.width), spec)[0]  # [3, h', w']
    if (placed.height, placed.width) != (height, width):
        # The same as padding with zeros before normalising, without a pass over the padding.
        canvas.copy_(((torch.zeros_like(mean) - mean) / std).expand_as(canvas))
    rows = slice(placed.top, placed.top + placed.height)
    columns = slice(placed.left, placed.left + placed.width)
    torch.div(unit.sub_(mean), std, out=canvas[:, rows, columns])
    return placed


def _resize(pixels: torch.Tensor, size: tuple[int, int], spec: ImageSpec) -> torch.Tensor:
    """New memory with values in 0..1, `[1, 3, *size]`."""
    mode, has_antialias = STRETCH_MODES.get(spec.resize, ("bilinear", True))
    resized = F.interpolate(pixels, size, mode=mode, antialias=has_antialias, align_corners=False)
    if resized.data_ptr() == pixels.data_ptr():
        resized = resized.clone()
    if spec.resize in STRETCH_MODES:
        return resized.round_().clamp_(0, 255).div_(255)
    return resized.clamp_(0, 1)


def resize_and_pad(image: np.ndarray, size: tuple[int, int], spec: ImageSpec) -> tuple[np.ndarray, np.ndarray]:
    """Resize a picture to `size`, keeping its aspect ratio and padding (or stretching it, by `spec.resize`).

    Args:
        image: uint8 `[h, w, 3]`.
        size: height and width of the result, in pixels.
        spec: resize mode, mean and std.

    Returns:
        Normalised pixels float32 `[H, W, 3]` (a view of channels-first memory), and bool `[H, W]`, true on real pixels.

    Raises:
        OLMoConfigurationError: unknown `spec.resize`.
    """
    canvas = torch.empty(3, *size)
    placed = draw_resized(to_float(image, spec), canvas, spec)
    mask = np.zeros(size, dtype=bool)
    mask[placed.top : placed.top + placed.height, placed.left : placed.left + placed.width] = True
    return canvas.permute(1, 2, 0).numpy(), mask  # [H, W, 3]
