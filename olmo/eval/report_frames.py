"""The frames of a video that a model was shown, as one picture for a report."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from PIL import Image

from olmo.preprocessing.video.clip import read_frames
from olmo.preprocessing.video.open_video import open_video
from olmo.preprocessing.video.sampling import FrameSelection, sample_frames
from olmo.preprocessing.video.timestamps import frame_seconds
from olmo.viz.contact_sheet import contact_sheet, shrink

MAX_FRAMES = 16
"""More frames are thinned out."""

CELL_PX = 160


def report_sheet(video: Any, seconds: Sequence[float], start_s: float | None, end_s: float | None) -> Image.Image:
    """Frames side by side, each with its time.

    Args:
        video: what `open_video` takes.
        seconds: times of the frames, from the start of the part that was meant; none: some frames of that part.
        start_s: where the part begins, in seconds of the video; None: at its beginning.
        end_s: where it ends; None: at its end.

    Raises:
        OLMoInputError: the video cannot be read.
    """
    source = open_video(video)
    try:
        if seconds:
            times = frame_seconds(source)
            wanted = np.asarray(seconds) + (start_s or 0.0)
            nearest = np.unique(np.abs(times[None] - wanted[:, None]).argmin(axis=1))
            kept = nearest[np.linspace(0, len(nearest) - 1, min(len(nearest), MAX_FRAMES)).round().astype(int)]
            chosen = FrameSelection(kept, times[kept] - (start_s or 0.0))
        else:
            chosen = sample_frames(source, max_frames=MAX_FRAMES, start_s=start_s, end_s=end_s)
        clip = read_frames(source, chosen, lambda frame: shrink(frame, CELL_PX))
    finally:
        if source is not video:
            source.close()
    texts = [f"{time_s:.1f} s" for time_s in clip.seconds]
    return contact_sheet(clip.frames, texts, n_columns=min(4, len(clip)), cell_px=CELL_PX)
