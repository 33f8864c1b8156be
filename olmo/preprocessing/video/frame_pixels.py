"""A decoded frame as it is displayed: 8-bit RGB, alpha on white, turned as the file says. For frames of PyAV."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from av import VideoFrame
    from av.video.reformatter import VideoReformatter

_MATRIX = "DISPLAYMATRIX"


def rgb_pixels(frame: VideoFrame, reformatter: VideoReformatter, size: tuple[int, int] | None = None) -> np.ndarray:
    """The frame upright in RGB.

    Args:
        frame: as decoded, of any pixel format.
        reformatter: converts the pixels; using one for all frames saves setting it up.
        size: (width, height) wanted, as displayed; None keeps the frame's own. Only frames that change their size in
            the middle of a video are scaled.

    Returns:
        uint8 `[H, W, 3]`.
    """
    turn = display_turn(frame)
    width, height = size or (frame.width, frame.height)
    if size is not None and turn[0]:
        width, height = height, width
    has_alpha = any(component.is_alpha for component in frame.format.components) or frame.format.has_palette
    wanted = "rgba" if has_alpha else "rgb24"
    pixels = reformatter.reformat(frame, width, height, wanted).to_ndarray()
    if has_alpha:
        alpha = pixels[..., 3:].astype(np.uint16)
        pixels = ((pixels[..., :3] * alpha + 255 * (255 - alpha) + 127) // 255).astype(np.uint8)
    return np.ascontiguousarray(apply_turn(pixels, turn))


def luma_pixels(frame: VideoFrame, reformatter: VideoReformatter, side: int) -> np.ndarray:
    """The brightness of a frame squeezed to a square, not turned.

    Args:
        frame: as decoded.
        reformatter: as for `rgb_pixels`, but another one.
        side: of the square, in pixels.

    Returns:
        uint8 `[side, side]`.
    """
    return reformatter.reformat(frame, side, side, "gray", interpolation="AREA").to_ndarray()


def has_its_planes(frame: VideoFrame) -> bool:
    """Whether a decoded frame holds the planes that its pixel format speaks of.

    A damaged AV1 file can make the decoder change to gray in the middle and still call the frame YUV; converting such a
    frame reads memory that is not there and ends the process.
    """
    planes, layout = frame.planes, frame.format
    for component in layout.components:
        if component.plane >= len(planes):
            return False
        n_bytes = component.width * ((component.bits + 7) // 8)
        if layout.bits_per_pixel >= 8 and abs(planes[component.plane].line_size) < n_bytes:
            return False
    return True


def display_turn(frame: VideoFrame) -> tuple[bool, bool, bool]:
    """How a frame is turned to be displayed.

    Returns:
        (swap rows and columns first, then reverse the columns, reverse the rows). Turns that are not by right angles
        count as none.
    """
    side_data: Any = frame.side_data  # PyAV's type stubs call its items texts
    for data in side_data:
        if data.type.name == _MATRIX and data.buffer_size >= 36:
            a, b, _, c, d = np.frombuffer(bytes(data), "<i4", 5).tolist()
            if a == d == 0 and b and c:
                return True, c < 0, b < 0
            if b == c == 0 and a and d:
                return False, a < 0, d < 0
    return False, False, False


def apply_turn(pixels: np.ndarray, turn: tuple[bool, bool, bool]) -> np.ndarray:
    """Pixels `[H, W, ...]` turned as `display_turn` says; a view."""
    is_swapped, reverse_columns, reverse_rows = turn
    if is_swapped:
        pixels = pixels.swapaxes(0, 1)
    if reverse_columns:
        pixels = pixels[:, ::-1]
    return pixels[::-1] if reverse_rows else pixels
