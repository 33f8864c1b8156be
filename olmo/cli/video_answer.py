"""One answer about videos as it is handed out: text, times, JSON, and a sheet of the frames that the model saw."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from olmo.cli.answer import write_picture
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.points import Point, parse
from olmo.viz.contact_sheet import contact_sheet, shrink
from olmo.viz.points import draw


@dataclass(frozen=True)
class SeenClip:
    """Frames of one video as a model was shown them.

    Attributes:
        frames: uint8 `[H, W, 3]` each, in order of time.
        seconds: their times as the model was told them: from the beginning of the part that was meant.
    """

    frames: tuple[np.ndarray, ...]
    seconds: tuple[float, ...]


@dataclass(frozen=True)
class VideoAnswer:
    """What a model said about videos."""

    text: str
    model: str
    videos: tuple[str, ...]
    """Their paths."""

    clips: tuple[SeenClip, ...]
    """What was shown of each."""

    @cached_property
    def points(self) -> list[Point]:
        """Points in the text, in percent."""
        return parse(self.text)

    def as_json(self) -> dict[str, Any]:
        """Plain values for JSON.

        Returns:
            `video`, a path, and `frame_seconds`, a list of numbers; lists of these for several videos; `model`; `text`.
        """
        times = [[round(s, 6) for s in clip.seconds] for clip in self.clips]
        video, seconds = (self.videos[0], times[0]) if len(self.videos) == 1 else (list(self.videos), times)
        return {"video": video, "frame_seconds": seconds, "model": self.model, "text": self.text}

    def save(self, path: Path) -> str:
        """Write a sheet of the frames with their times; what was at `path` is replaced at once or not at all.

        Returns:
            What was written, for the user.

        Raises:
            OLMoInputError: the answer has points, and on which frame they lie is not known; the sheet is written
                without them.
        """
        n_frames = sum(len(clip.frames) for clip in self.clips)
        is_known = n_frames == 1
        write_picture(frame_sheet(self.clips, self.videos, self.points if is_known else ()), path)
        if self.points and not is_known:
            raise OLMoInputError(
                f"{path} shows the frames without the {len(self.points)} point(s) of the answer: points name no frame, "
                f"and the model saw {n_frames}; ask with --max-frames 1, or about a single picture"
            )
        drawn = f"{len(self.points)} point(s) drawn on " if self.points else ""
        return f"{drawn}{n_frames} frame(s) on {path}"


def frame_sheet(clips: Sequence[SeenClip], names: Sequence[str], points: Sequence[Point] = ()) -> Image.Image:
    """The frames that a model saw, each above its time.

    Args:
        clips: frames of the videos.
        names: paths of the videos; written below the frames where there are several.
        points: drawn on each frame, in percent.
    """
    frames, texts = [], []
    for clip, name in zip(clips, names, strict=True):
        for frame, seconds in zip(clip.frames, clip.seconds, strict=True):
            small = shrink(frame)
            frames.append(np.asarray(draw(small, points)) if points else small)
            texts.append(f"{seconds:.2f} s" + (f"   {Path(name).name}" if len(names) > 1 else ""))
    return contact_sheet(frames, texts)
