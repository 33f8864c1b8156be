"""The tokens of a video: each frame is the time it was taken, then a block as that of a picture.

    1.0 <start> patch patch <col> patch patch <col> <end>

Lives here: the texts of times, and the layout of blocks with the place of every pooled feature in it. Knows nothing of
pixels. Source: the picture blocks of Molmo v1; the times as Molmo2 writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from olmo.preprocessing.image_tokens import UNUSED, ImageTokenIds, grid_positions, token_block
from olmo.preprocessing.video.video_spec import TimeMode, VideoSpec, pooled_side


@dataclass(frozen=True)
class FrameLayout:
    """Tokens of one video.

    Attributes:
        token_ids: int64 `[T]`.
        input_idx: int64 `[frames, index_width]`, place of each pooled feature among these tokens, negative = unused.
            Frames that share a block have the same places.
        facts: float32 `[frames, 4]`: seconds, patches a side, height and width of a pooling window.
    """

    token_ids: np.ndarray
    input_idx: np.ndarray
    facts: np.ndarray


PICTURE_SECONDS = -1.0
"""Stands for the time in the facts of a crop that is no frame."""


def time_texts(seconds: Sequence[float] | np.ndarray, mode: TimeMode) -> list[str]:
    """What stands before each block.

    Args:
        seconds: time of each block's first frame, at least one, rising.
        mode: `per_frame_compact`: `1.5 `; `per_frame`: ` time 1.50 `; `fps_prefix` and `delta_prefix`: the rate or the
            mean distance of the frames, once before the first; `none`: nothing.

    Returns:
        One text a block; empty ones stand for no tokens.
    """
    if mode is TimeMode.per_frame_compact:
        return [f"{t:.1f} " for t in seconds]
    if mode is TimeMode.per_frame:
        return [f" time {t:.2f} ".removeprefix(" " if i == 0 else "") for i, t in enumerate(seconds)]
    texts = [""] * len(seconds)
    if mode is TimeMode.none or len(seconds) < 2:  # a single frame has no rate
        return texts
    delta_s = float(seconds[-1] - seconds[0]) / (len(seconds) - 1)
    if mode is TimeMode.delta_prefix:
        texts[0] = f"Sampling Delta {delta_s:.2f} "
    elif delta_s > 0:
        texts[0] = f"FPS {1 / delta_s:.2f} "
    return texts


def block_length(grid: int, pool: tuple[int, int], has_col_tokens: bool) -> int:
    """Tokens of one block: start, patches, columns, end."""
    rows, columns = pooled_side(grid, pool[0]), pooled_side(grid, pool[1])
    return 2 + rows * (columns + has_col_tokens)


def video_layout(
    seconds: np.ndarray,
    time_ids: Sequence[Sequence[int]],
    grid: int,
    spec: VideoSpec,
    has_cols: bool,
    ids: ImageTokenIds,
) -> FrameLayout:
    """Lay out the frames of a video.

    Args:
        seconds: `[frames]`, rising.
        time_ids: token ids of the text before each block, `ceil(frames / spec.stride)` of them.
        grid: patches a side.
        spec: windows and stride.
        has_cols: close each row with a column token.
        ids: token ids.
    """
    parts: list[np.ndarray] = []
    index = np.full((len(seconds), spec.index_width), UNUSED, dtype=np.int64)
    facts = np.empty((len(seconds), 4), dtype=np.float32)
    start = 0
    for block, times in enumerate(time_ids):
        pool = spec.pool_of(block)
        rows, columns = pooled_side(grid, pool[0]), pooled_side(grid, pool[1])
        first = block * spec.stride
        members = slice(first, first + spec.stride)
        start += len(times)
        index[members, : rows * columns] = start + grid_positions(rows, columns, has_cols).reshape(-1)
        facts[members, 0] = seconds[members]
        facts[members, 1:] = grid, *pool
        parts += [np.array(times, dtype=np.int64), token_block(rows, columns, has_cols, ids)]
        start += len(parts[-1])
    return FrameLayout(np.concatenate(parts), index, facts)
