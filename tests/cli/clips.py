"""A small clip in every form that needs no video decoder."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

N_FRAMES, FPS = 12, 4


def clip_frames(n: int = N_FRAMES) -> np.ndarray:
    """uint8 `[n, 40, 60, 3]`: a black square that moves to the right on gray; two colours, so that a GIF is exact."""
    frames = np.full((n, 40, 60, 3), 200, np.uint8)
    for i in range(n):
        x = i * 50 // n
        frames[i, 10:20, x : x + 10] = 0
    return frames


def save_clip(frames: np.ndarray, path: Path, kind: str) -> Path:
    """Write frames as what names with this ending hold: `.webp`, `.gif`, `.png`, `.npy`, `.npz`, or `""`, a folder."""
    pictures = [Image.fromarray(frame) for frame in frames]
    if kind == ".npz":
        np.savez(path, frames=frames, fps=FPS)
    elif kind == ".npy":
        np.save(path, frames)
    elif kind:
        options = {"lossless": True} if kind == ".webp" else {}
        more = {"save_all": True, "append_images": pictures[1:], "duration": 1000 // FPS} if len(frames) > 1 else {}
        pictures[0].save(path, kind[1:].upper(), **more, **options)
    else:
        path.mkdir()
        for number, picture in enumerate(pictures):
            picture.save(path / f"frame_{number}.png")
    return path
