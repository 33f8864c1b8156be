"""`VideoSpec`: what a model wants of a video, as plain values that its configuration hands to the preprocessor."""

from __future__ import annotations

from dataclasses import dataclass

from olmo.config import ConfigEnum
from olmo.preprocessing.video.sampling import FrameSampling

AUTO_RESOLUTION = "auto"
"""Frames as large as the context allows."""


class TimeMode(ConfigEnum):
    """How the model is told when a frame was taken."""

    per_frame_compact = "per_frame_compact"
    per_frame = "per_frame"
    fps_prefix = "fps_prefix"
    delta_prefix = "delta_prefix"
    none = "none"


@dataclass(frozen=True, kw_only=True)
class VideoSpec:
    """Frames of a video: how many, which, how large, and how they become tokens; see `VideoOlmoConfig`."""

    n_frames: int
    """Frames that are read at most; more than the model keeps where it chooses among them by the question."""

    sampling: FrameSampling = FrameSampling.uniform
    """How frames are chosen."""

    seed: int = 0
    """Seed of random sampling."""

    max_fps: float | None = None
    """Frames at most for each second of video."""

    time_mode: TimeMode = TimeMode.per_frame_compact
    """How times are written."""

    pool_h: int = 3
    """Height of a pooling window, in patches."""

    pool_w: int = 3
    """Width of a pooling window, in patches."""

    high_res_every: int | None = None
    """Every so many blocks, from the first on, one has finer windows; None: none has."""

    high_res_pool: int = 2
    """Side of these finer windows, in patches."""

    resolution: int | str | None = None
    """Side of a frame in pixels; `"auto"`: as large as fits; None: that of the picture encoder."""

    stride: int = 1
    """Neighbouring frames that share the tokens of one."""

    n_kept: int | None = None
    """Blocks that reach the language model where it keeps only some of them; None: all."""

    subtitle_mode: str = "all"
    """Which subtitles are shown; see `SubtitleMode`."""

    index_width: int = 0
    """Entries of `image_input_idx` for each crop: those of the finest pooling, pictures included."""

    def pool_of(self, block: int) -> tuple[int, int]:
        """Height and width of the pooling windows of the block at this place among those of its video."""
        if self.high_res_every is not None and block % self.high_res_every == 0:
            return self.high_res_pool, self.high_res_pool
        return self.pool_h, self.pool_w


def pooled_side(grid: int, pool: int) -> int:
    """Windows that cover a side of `grid` patches."""
    return -(-grid // pool)
