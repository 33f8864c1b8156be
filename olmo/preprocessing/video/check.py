"""Whether the videos of an example can be read, without a model."""

from __future__ import annotations

from pathlib import Path

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.messages import Example
from olmo.preprocessing.video.clip import read_frames
from olmo.preprocessing.video.open_video import open_video
from olmo.preprocessing.video.sampling import sample_frames
from olmo.preprocessing.video.subtitles import load_subtitles


def check_videos(example: Example, is_decoded: bool = True) -> None:
    """Raise for a video or subtitles that would stop a run.

    Args:
        example: what is shown.
        is_decoded: count the frames and decode one of the part that is meant; False only looks whether files are there.

    Raises:
        OLMoInputError: missing, not a video, damaged, without frames in the part from `start_s` to `end_s`, or
            subtitles that cannot be read.
    """
    for video in example.videos:
        if is_decoded:
            source = open_video(video)
            try:
                read_frames(source, sample_frames(source, max_frames=1, start_s=example.start_s, end_s=example.end_s))
            finally:
                if source is not video:
                    source.close()
        elif isinstance(video, str | Path) and not Path(video).exists():
            raise OLMoInputError(f"video {str(video)!r} does not exist; check the path")
    if isinstance(example.subtitles, str | Path):
        load_subtitles(example.subtitles)
