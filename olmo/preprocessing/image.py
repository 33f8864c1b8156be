"""Reading pictures: from a path, bytes, a PIL image or an array to uint8 RGB, the right way up.

Lives here: what a model wants of a picture (`ImageSpec`), and `load_image` with its safety checks. Knows nothing of
crops, tokens or normalisation. Unlike the processor of the released models, EXIF rotation is applied and alpha is put
on white.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from olmo.exceptions import OLMoInputError

FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF", "PPM")
"""File formats that are opened; the rarer decoders of Pillow stay closed to untrusted files."""

_EXIF_ORIENTATION = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SIXTEEN_BIT_MODES = ("I;16", "I;16L", "I;16B", "I;16N")


@dataclass(frozen=True, kw_only=True)
class ImageSpec:
    """What a vision backbone wants of a picture; plain numbers, so that preprocessing needs no model."""

    image_size: int
    """Side of a square crop, in pixels."""

    patch_size: int
    """Side of a patch, in pixels; divides image_size."""

    pool_h: int = 2
    """Height of a pooling window, in patches."""

    pool_w: int = 2
    """Width of a pooling window, in patches."""

    resize: str = "default"
    """`default` keeps the aspect ratio and pads; `siglip`, `dino` and `metaclip` stretch."""

    mean: tuple[float, float, float]
    """Per-channel mean of pixels in 0..1."""

    std: tuple[float, float, float]
    """Per-channel standard deviation of pixels in 0..1."""

    @property
    def grid(self) -> int:
        """Patches along a side of a crop."""
        return self.image_size // self.patch_size

    @property
    def n_patches(self) -> int:
        """Patches of a crop."""
        return self.grid**2

    @property
    def tokens_h(self) -> int:
        """Pooled rows of a crop; an odd grid is padded up to whole windows."""
        return -(-self.grid // self.pool_h)

    @property
    def tokens_w(self) -> int:
        """Pooled columns of a crop."""
        return -(-self.grid // self.pool_w)

    @property
    def tokens_per_crop(self) -> int:
        """Pooled patches of a crop."""
        return self.tokens_h * self.tokens_w


def load_image(image: Any, max_pixels: int) -> np.ndarray:
    """A picture as uint8 RGB, upright, without transparency. The first frame of an animation.

    Args:
        image: PIL image, path, bytes of a file, or uint8 array `[H, W]`, `[H, W, 3]` or `[H, W, 4]`.
        max_pixels: pictures of more pixels are refused, files before they are decoded. Pillow's own limit
            (`PIL.Image.MAX_IMAGE_PIXELS`) holds too.

    Returns:
        uint8 `[H, W, 3]`. An RGB array is returned as it is, not copied; nothing given is ever changed.

    Raises:
        OLMoInputError: not a picture, missing, truncated, empty, too large, or of a kind that is not read.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image, max_pixels)
    if isinstance(image, Image.Image):
        return _from_pil(image, "the picture", max_pixels)
    if isinstance(image, str | Path):
        return _from_path(image, max_pixels)
    if isinstance(image, bytes | bytearray | memoryview):
        return _from_file(bytes(image), f"the picture given as {len(image)} bytes", max_pixels)
    raise OLMoInputError(
        f"cannot read a picture from {type(image).__name__}; give a PIL image, a uint8 array of shape [H, W, 3], "
        "a path, or the bytes of an image file"
    )


def _from_path(path: str | Path, max_pixels: int) -> np.ndarray:
    if isinstance(path, str) and path.startswith(("http://", "https://", "data:")):
        raise OLMoInputError(f"pictures are not fetched from {path[:60]!r}; download it and give the path or the bytes")
    try:
        file = Path(path)
        if not file.is_file():
            what = "is a folder" if file.is_dir() else "is not a regular file" if file.exists() else "does not exist"
            raise OLMoInputError(f"image file {str(path)!r} {what} (current folder: {Path.cwd()}); check the path")
        data = file.read_bytes()
    except (OSError, ValueError) as error:
        raise OLMoInputError(f"cannot read image file {str(path)!r}: {error}") from None
    return _from_file(data, f"image file {str(path)!r}", max_pixels)


def _from_file(data: bytes, name: str, max_pixels: int) -> np.ndarray:
    if not data:
        raise OLMoInputError(f"{name} is empty (0 bytes); write or download it again")
    allowed = ", ".join(FORMATS)
    try:
        opened = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.UnidentifiedImageError:
        raise OLMoInputError(
            f"{name} is not an image that can be read (it starts with {data[:8]!r}); formats: {allowed}. Convert it to "
            "PNG or JPEG"
        ) from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise OLMoInputError(f"{name} is too large: {error}; make it smaller") from None
    except Exception as error:  # a decoder may raise anything on hostile bytes
        raise OLMoInputError(
            f"{name} is damaged or truncated and cannot be opened ({error}); copy or download it again"
        ) from error
    with opened:
        return _from_pil(opened, name, max_pixels)


def _from_pil(image: Image.Image, name: str, max_pixels: int) -> np.ndarray:
    # Pillow only warns between its limit and twice that; here its limit is a limit.
    limit = min(max_pixels, Image.MAX_IMAGE_PIXELS or max_pixels)
    _check_size(image.height, image.width, name, limit)
    try:
        image.load()
        rgb = _to_rgb(image, name)
        turn = _UPRIGHT.get(_orientation(image))
        upright = rgb if turn is None else rgb.transpose(turn)
        pixels = np.array(upright)  # a copy, because np.asarray would be read-only and torch warns of that
    except OLMoInputError:
        raise
    except Exception as error:  # a decoder may raise anything on hostile bytes
        raise OLMoInputError(
            f"{name} is damaged or truncated and cannot be decoded ({error}); copy or download it again"
        ) from error
    # Some decoders learn the true size only while decoding.
    _check_size(pixels.shape[0], pixels.shape[1], name, limit)
    return pixels


def _check_size(height: int, width: int, name: str, limit: int) -> None:
    if height < 1 or width < 1:
        raise OLMoInputError(f"{name} has no pixels ({width}x{height}); give a picture of at least 1x1")
    if height * width > limit:
        raise OLMoInputError(
            f"{name} has {width}x{height} = {height * width:,} pixels, over the limit of {limit:,}; make it smaller, "
            "or raise mm_preprocessor.max_pixels (and PIL.Image.MAX_IMAGE_PIXELS) if you trust it"
        )


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_EXIF_ORIENTATION, 1))
    except Exception:  # broken EXIF is common and says nothing about the pixels; such a picture counts as upright
        return 1


def _to_rgb(image: Image.Image, name: str) -> Image.Image:
    if image.mode == "RGB" and "transparency" not in image.info:
        return image
    if image.mode in _SIXTEEN_BIT_MODES or image.mode == "I":
        return Image.fromarray(_to_eight_bits(np.asarray(image), image.mode, name)).convert("RGB")
    if image.mode == "F":
        raise OLMoInputError(f"{name} holds floating-point pixels of unknown range; convert it to 8 bits a channel")
    if image.has_transparency_data:
        layer = image.convert("LA") if image.mode == "La" else image
        layer = layer.convert("RGBA")
        white = Image.new("RGB", layer.size, (255, 255, 255))
        white.paste(layer, mask=layer.getchannel("A"))
        return white
    return image.convert("RGB")


def _to_eight_bits(values: np.ndarray, mode: str, name: str) -> np.ndarray:
    """Gray values of 16 bits to 8. Mode `I` has 32 bits and no stated range: up to 255 is taken as 8 bits already."""
    lowest, highest = int(values.min()), int(values.max())
    if lowest < 0 or highest > 65535:
        raise OLMoInputError(
            f"{name} has gray values from {lowest} to {highest}; 0 to 65535 (16 bits) can be read. Convert it to 8 bits"
        )
    if mode == "I" and highest <= 255:
        return values.astype(np.uint8)
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)


def _from_array(pixels: np.ndarray, max_pixels: int) -> np.ndarray:
    if pixels.dtype != np.uint8:
        raise OLMoInputError(_wrong_dtype(pixels))
    is_gray = pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 1)
    if not is_gray and not (pixels.ndim == 3 and pixels.shape[2] in (3, 4)):
        is_channels_first = pixels.ndim == 3 and pixels.shape[0] in (3, 4)
        hint = "; move the channels last with .transpose(1, 2, 0)" if is_channels_first else ""
        raise OLMoInputError(f"array of shape {list(pixels.shape)} is not a picture; wanted [H, W, 3]{hint}")
    _check_size(pixels.shape[0], pixels.shape[1], "the picture array", max_pixels)
    if is_gray:
        return np.repeat(pixels.reshape(*pixels.shape[:2], 1), 3, axis=2)  # [H, W, 3]
    if pixels.shape[2] == 4:
        return np.array(_to_rgb(Image.fromarray(np.ascontiguousarray(pixels)), "the picture array"))
    return np.ascontiguousarray(pixels)


def _wrong_dtype(pixels: np.ndarray) -> str:
    wanted = "wanted uint8 of shape [H, W, 3] with values 0..255"
    if not np.issubdtype(pixels.dtype, np.floating):
        scale = "; scale 16 bits with (x // 257).astype(np.uint8)" if pixels.dtype == np.uint16 else ""
        return f"picture array has dtype {pixels.dtype}; {wanted}{scale}"
    bad = int(np.size(pixels) - np.count_nonzero(np.isfinite(pixels)))
    if bad:
        return f"picture array is {pixels.dtype} and {bad} of its values are NaN or infinite; {wanted}"
    return (
        f"picture array has dtype {pixels.dtype}, whose range is not known; {wanted}. For values in 0..1 use "
        "(x * 255).round().astype(np.uint8)"
    )
