"""The files that `video.py` reads: a minute of moving content in H.264, with keyframes as often as asked for.

The content pans over a large texture with fine noise while a square crosses it, so it neither stands still nor
compresses to nothing: about 1 to 3 Mbit/s at 1280x720. It is written as YUV, so that making it costs little beside
coding it.
"""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT, FPS = 1280, 720, 24
_SQUARE = 200  # pixels
_N_NOISES = 8  # different fields of noise, taken in turn


def texture(seed: int) -> np.ndarray:
    """uint8 `[2 H, 2 W]`: soft spots with a little noise."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(0, 256, (HEIGHT // 20, WIDTH // 20), dtype=np.uint8))
    smooth = np.asarray(coarse.resize((2 * WIDTH, 2 * HEIGHT), Image.Resampling.BICUBIC), dtype=np.int16)
    return (smooth + rng.integers(-6, 7, smooth.shape)).clip(16, 230).astype(np.uint8)


def write_clip(path: Path, n_frames: int, keyframe_every: int, n_threads: int) -> Path:
    """Write a clip.

    Args:
        path: an MP4 file.
        n_frames: its length in frames, `FPS` a second.
        keyframe_every: frames from one keyframe to the next; there are no others.
        n_threads: of the encoder.
    """
    import av

    luma, *chroma = (texture(seed) for seed in range(3))
    chroma = [np.ascontiguousarray(plane[::2, ::2]) for plane in chroma]
    noise = np.random.default_rng(3).integers(0, 5, (_N_NOISES, HEIGHT, WIDTH), dtype=np.uint8)
    groups = f"keyint={keyframe_every}:min-keyint={keyframe_every}:scenecut=0"
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast", "x264-params": groups})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.thread_count = n_threads
        for number in range(n_frames):
            left = 2 * int(WIDTH / 4 * (1 + math.sin(number / 40)))
            top = 2 * int(HEIGHT / 4 * (1 + math.cos(number / 55)))
            bright = luma[top : top + HEIGHT, left : left + WIDTH] + noise[number % _N_NOISES]
            across = number * 7 % (WIDTH - _SQUARE)
            bright[_SQUARE : 2 * _SQUARE, across : across + _SQUARE] = luma[:_SQUARE, :_SQUARE]
            rows, columns = slice(top // 2, (top + HEIGHT) // 2), slice(left // 2, (left + WIDTH) // 2)
            frame = _frame([bright, *(plane[rows, columns] for plane in chroma)])
            frame.pts, frame.time_base = number, Fraction(1, FPS)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


def _frame(planes: list[np.ndarray]) -> Any:
    """A frame of PyAV from its three planes."""
    import av

    frame = av.VideoFrame(WIDTH, HEIGHT, "yuv420p")
    for plane, pixels in zip(frame.planes, planes, strict=True):
        memory = np.frombuffer(plane, np.uint8).reshape(plane.height, plane.line_size)
        memory[:, : plane.width] = pixels
    return frame
