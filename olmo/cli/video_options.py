"""Options about videos, for the commands that show one to a model. Nothing here has a default of its own."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import typer

from olmo.cli.options import given
from olmo.preprocessing.video.sampling import FrameSampling

Sampling = Annotated[
    FrameSampling | None,
    typer.Option(
        "--frame-sampling", help="How frames are chosen; without it, as the model is set.", show_default=False
    ),
]
MaxFrames = Annotated[
    int | None, typer.Option(min=1, help="Frames at most; without it, as the model is set.", show_default=False)
]
MaxFps = Annotated[float | None, typer.Option(help="Frames a second at most.", show_default=False)]
Fps = Annotated[float | None, typer.Option(help="Frames a second of a video that does not tell.", show_default=False)]
Start = Annotated[float | None, typer.Option(help="Begin here, in seconds.", show_default=False)]
End = Annotated[float | None, typer.Option(help="End here, in seconds.", show_default=False)]
Subtitles = Annotated[
    Path | None, typer.Option(metavar="FILE", help="SRT or WebVTT file that goes with the video.", show_default=False)
]
AsVideo = Annotated[bool, typer.Option("--as-video", help="Take a folder of pictures as one video, a frame a picture.")]


@dataclass(frozen=True, kw_only=True)
class VideoChoices:
    """What a user chose about a video; None was left open. `with_option_groups` makes options of it."""

    frame_sampling: Sampling = None
    max_frames: MaxFrames = None
    max_fps: MaxFps = None
    fps: Fps = None
    start: Start = None
    end: End = None
    subtitles: Subtitles = None
    as_video: AsVideo = False

    def overrides(self) -> list[str]:
        """Changes of a model's configuration, for any video it is shown."""
        chosen = given(frame_sampling=self.frame_sampling, max_frames=self.max_frames, max_fps=self.max_fps)
        return [f"{name}={value}" for name, value in chosen.items()]

    def example(self) -> dict[str, Any]:
        """Keys of an example beside its video."""
        return given(start_s=self.start, end_s=self.end, subtitles=self.subtitles)

    def names(self) -> list[str]:
        """The options that were given, as they are typed."""
        return [f"--{f.name.replace('_', '-')}" for f in fields(self) if getattr(self, f.name) not in (None, False)]

    def of_one_clip(self) -> list[str]:
        """Those of `names` that mean a particular video and nothing without it."""
        return [name for name in self.names() if name not in self.for_later_clips().names()]

    def for_later_clips(self) -> VideoChoices:
        """What holds for every video, without what was chosen for a particular one."""
        return VideoChoices(
            frame_sampling=self.frame_sampling, max_frames=self.max_frames, max_fps=self.max_fps, fps=self.fps
        )
