"""Videos whose frames carry their number in pixels, as arrays and as real encoded files."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

WIDTH, HEIGHT = 96, 64
N_BITS = 12  # in 3 rows of 4 blocks, the lowest first
BLOCK_H, BLOCK_W = 20, 24


def numbered_frame(number: int) -> np.ndarray:
    """uint8 [64, 96, 3] that shows a number up to 4095 as black and white blocks."""
    frame = np.zeros((HEIGHT, WIDTH, 3), np.uint8)
    for bit in range(N_BITS):
        row, column = divmod(bit, 4)
        value = 255 if number >> bit & 1 else 0
        frame[row * BLOCK_H : (row + 1) * BLOCK_H, column * BLOCK_W : (column + 1) * BLOCK_W] = value
    return frame


def shown_number(frame: np.ndarray) -> int:
    """What a frame shows, also after lossy coding."""
    centres = [divmod(bit, 4) for bit in range(N_BITS)]
    lit = [frame[r * BLOCK_H + BLOCK_H // 2, c * BLOCK_W + BLOCK_W // 2].mean() > 127 for r, c in centres]
    return sum(1 << bit for bit, is_lit in enumerate(lit) if is_lit)


def numbered_array(n: int) -> np.ndarray:
    """uint8 [n, 64, 96, 3]."""
    return np.stack([numbered_frame(i) for i in range(n)])


def write_video(
    path: Path,
    codec: str = "libx264",
    *,
    n: int = 60,
    fps: float = 30,
    seconds: Sequence[float] | None = None,
    frames: np.ndarray | None = None,
    pix_fmt: str = "yuv420p",
    rotation: int = 0,
    stream_format: str | None = None,
    **options: Any,
) -> Path:
    """Encode numbered frames (or the given ones) with PyAV; options are the encoder's."""
    import av

    frames = numbered_array(n) if frames is None else frames
    times = seconds if seconds is not None else [i / fps for i in range(len(frames))]
    with av.open(str(path), "w", format=stream_format) as container:
        stream = container.add_stream(codec, rate=30, options={k.replace("_", "-"): str(v) for k, v in options.items()})
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = pix_fmt
        stream.codec_context.time_base = Fraction(1, 1000)
        if rotation:
            stream.set_display_rotation(rotation)
        for pixels, time_s in zip(frames, times, strict=True):
            layout = {3: "rgb24", 4: "rgba"}[pixels.shape[2]] if pixels.ndim == 3 else "gray"
            frame = av.VideoFrame.from_ndarray(pixels, format=layout)
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(time_s * 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


H264 = {"codec": "libx264", "g": 12}
VP9 = {"codec": "libvpx-vp9", "g": 20, "cpu_used": 8, "deadline": "realtime"}
