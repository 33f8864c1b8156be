"""Short clips as files: a coloured square that moves over black."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

FPS = 4


def square_frames(n: int = 8, colour: tuple[int, int, int] = (220, 30, 30), size: int = 48) -> np.ndarray:
    """uint8 `[n, size, size, 3]`."""
    frames = np.zeros((n, size, size, 3), np.uint8)
    for i in range(n):
        x = i * (size - 16) // max(1, n - 1)
        frames[i, 16:32, x : x + 16] = colour
    return frames


def write_clip(path: Path, n: int = 8, colour: tuple[int, int, int] = (220, 30, 30)) -> Path:
    """A clip of `n` frames at `FPS`: .gif through Pillow, anything else through PyAV."""
    path.parent.mkdir(parents=True, exist_ok=True)
    frames = square_frames(n, colour)
    if path.suffix == ".gif":
        first, *others = (Image.fromarray(frame) for frame in frames)
        first.save(path, save_all=True, append_images=others, duration=1000 // FPS)
        return path
    import av

    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=FPS)
        stream.height, stream.width = frames.shape[1:3]
        stream.pix_fmt = "yuv420p"
        for frame in frames:
            container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        container.mux(stream.encode())
    return path


def write_subtitles(path: Path, *lines: str) -> Path:
    """An SRT file with a line for each second."""
    path.parent.mkdir(parents=True, exist_ok=True)
    blocks = [f"{i + 1}\n00:00:0{i},000 --> 00:00:0{i},900\n{line}\n" for i, line in enumerate(lines)]
    path.write_text("\n".join(blocks))
    return path
