"""How many tokens a video takes, before anything is run; and how large its frames may be to fit.

Source: the sum over blocks of `ceil(g / h) * (ceil(g / w) + column) + start + end + time`, with g patches a side and
pooling windows of h x w patches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.image import ImageSpec
from olmo.preprocessing.video.frame_tokens import block_length
from olmo.preprocessing.video.video_spec import AUTO_RESOLUTION, VideoSpec

ANSWER_SHARE = 16
"""`auto` leaves one part of so many of the context free for the answer."""


def n_blocks(n_frames: int, spec: VideoSpec) -> int:
    """Blocks of tokens that `n_frames` frames take."""
    return math.ceil(n_frames / spec.stride)


def count_frame_tokens(n_frames: int, grid: int, spec: VideoSpec, has_cols: bool, time_lengths: Sequence[int]) -> int:
    """Tokens that reach the language model for one video, without its question.

    Where the model keeps `spec.n_kept` blocks, this is the most that any choice takes.

    Args:
        n_frames: frames of the video.
        grid: patches a side of a frame.
        spec: windows, stride and how many blocks are kept.
        has_cols: rows are closed by column tokens.
        time_lengths: tokens of the text before each block.
    """
    lengths = [block_length(grid, spec.pool_of(i), has_cols) + t for i, t in enumerate(time_lengths)]
    assert len(lengths) == n_blocks(n_frames, spec), "one text for each block"
    if spec.n_kept is not None:
        lengths = sorted(lengths, reverse=True)[: spec.n_kept]
    return sum(lengths)


def frame_grid(
    n_frames: int, spec: VideoSpec, image: ImageSpec, has_cols: bool, time_lengths: Sequence[int], room: int | None
) -> int:
    """Patches a side of each frame of a video, such that it fits.

    Args:
        n_frames: frames of the video.
        spec: how frames become tokens.
        image: sizes of the picture encoder.
        has_cols: rows are closed by column tokens.
        time_lengths: tokens of the text before each block.
        room: tokens that the frames may take; None: no limit.

    Raises:
        OLMoInputError: the frames do not fit; the message has the numbers and says what would.
    """
    wanted = image.grid
    if isinstance(spec.resolution, int):
        wanted = spec.resolution // image.patch_size

    def count(grid: int) -> int:
        return count_frame_tokens(n_frames, grid, spec, has_cols, time_lengths)

    if room is None or count(wanted) <= room:
        return wanted
    if spec.resolution == AUTO_RESOLUTION:
        fitting = [grid for grid in range(wanted - 1, 0, -1) if count(grid) <= room]
        if fitting:
            return fitting[0]
        wanted = 1
    raise OLMoInputError(
        f"{n_frames} frames of {wanted * image.patch_size} px take {count(wanted):,} tokens with their times "
        f"({spec.pool_h}x{spec.pool_w} pooling), but the context has room for {max(room, 0):,}; "
        f"{_ways_to_fit(n_frames, wanted, spec, image, has_cols, time_lengths, room)}"
    )


def _ways_to_fit(
    n_frames: int, grid: int, spec: VideoSpec, image: ImageSpec, has_cols: bool, times: Sequence[int], room: int
) -> str:
    """What would make the frames fit, each by itself, with its number."""
    per_block = count_frame_tokens(n_frames, grid, spec, has_cols, times) / min(len(times), spec.n_kept or len(times))
    ways = []
    fewer = math.floor(room / per_block)
    if fewer >= 1:
        most = fewer * spec.stride if spec.n_kept is None else fewer
        ways.append(f"max_frames={most} (on the command line --max-frames {most})")
        if spec.n_kept is None:
            ways.append(f"temporal_aggregation=mean with temporal_stride={math.ceil(n_frames / fewer)}")

    def fits(a_grid: int, a_pool: int) -> bool:
        lengths = [block_length(a_grid, (a_pool, a_pool), has_cols) + t for t in times]
        return sum(sorted(lengths, reverse=True)[: spec.n_kept]) <= room

    pool = next((p for p in range(max(spec.pool_h, spec.pool_w) + 1, grid + 1) if fits(grid, p)), None)
    if pool is not None:
        ways.append(
            f"pooling_h={pool} and pooling_w={pool}" + (" without high_res_every" * (spec.high_res_every is not None))
        )
    smaller = next(
        (g for g in range(grid - 1, 0, -1) if count_frame_tokens(n_frames, g, spec, has_cols, times) <= room), None
    )
    if smaller is not None:
        ways.append(f"frame_resolution={smaller * image.patch_size} (or auto)")
    return "to fit, set " + ", or ".join([*ways, "a larger max_seq_len (a model with a longer context)"])
