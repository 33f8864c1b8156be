"""What each part of a frame of a moving scene shows: exact truth to train a picture encoder and a connector on."""

from __future__ import annotations

import numpy as np

from olmo.data.scenes.moving.moving_scene import MovingScene

COVERED = 0.12
"""Share of a part that a thing covers at least to stand for it; one between four parts covers little of each."""


def frame_targets(scene: MovingScene, frame: int, grid: int) -> tuple[np.ndarray, np.ndarray]:
    """Things on a raster of `grid` x `grid` parts, row by row from the top left.

    Args:
        scene: the clip and its truth.
        frame: number of the frame.
        grid: parts a side.

    Returns:
        int64 `[grid * grid]`, number in `scene.things` of the thing that covers most of a part, -1 where none covers
        enough; and bool `[grid * grid]`, True on parts that hold the middle of the thing that they are given to.
    """
    visible = [number for number, actor in enumerate(scene.things) if actor.is_visible(frame)]
    owner = np.zeros((scene.side, scene.side), dtype=np.int64)  # 0: none; what is drawn later covers what is below
    band = np.arange(scene.side) * grid // scene.side
    part = band[:, None] * grid + band
    middles = np.full(len(visible), -1)
    for place, number in enumerate(visible):
        mask, left, top = scene.silhouette(scene.things[number], frame)
        height, width = mask.shape
        x0, y0, x1, y1 = max(0, left), max(0, top), min(scene.side, left + width), min(scene.side, top + height)
        if x0 >= x1 or y0 >= y1:
            continue
        owner[y0:y1, x0:x1][mask[y0 - top : y1 - top, x0 - left : x1 - left]] = place + 1
        x, y = (min(max(0, round(m)), scene.side - 1) for m in (left + width / 2, top + height / 2))
        middles[place] = part[y, x]
    counts = np.bincount((part * (len(visible) + 1) + owner).reshape(-1), minlength=grid**2 * (len(visible) + 1))
    counts = counts.reshape(grid**2, len(visible) + 1)
    if not visible:
        return np.full(grid**2, -1), np.zeros(grid**2, dtype=bool)
    best = counts[:, 1:].argmax(axis=1)
    is_covered = counts[:, 1:].max(axis=1) >= COVERED * counts.sum(axis=1)
    return np.where(is_covered, np.array(visible)[best], -1), is_covered & (middles[best] == np.arange(grid**2))
