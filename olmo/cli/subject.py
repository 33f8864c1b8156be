"""What a question is about: pictures, videos, or nothing at all."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from olmo.cli.pictures import load_picture
from olmo.cli.video_options import VideoChoices
from olmo.cli.videos import is_video, open_clip
from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.kept_source import KeptSource
from olmo.preprocessing.video.subtitles import load_subtitles


@dataclass(frozen=True)
class Subject:
    """Pictures or videos as they are asked about, opened; a video is decoded once, however often it is asked about."""

    names: tuple[str, ...] = ()
    """Paths as the user named them."""

    pictures: tuple[np.ndarray, ...] = ()
    """Uint8 `[H, W, 3]` each."""

    videos: tuple[KeptSource, ...] = ()
    """Opened videos, where there are no pictures."""

    video_keys: dict[str, Any] = field(default_factory=dict)
    """What an example says beside its video: the part that is meant, and subtitles."""

    def example(self) -> dict[str, Any]:
        """Keys of an example for the preprocessor, without its messages."""
        if self.videos:
            return {"videos": list(self.videos), **self.video_keys}
        return {"images": list(self.pictures)} if self.pictures else {}

    def close(self) -> None:
        """Let go of files and kept frames."""
        for video in self.videos:
            video.close()

    def __str__(self) -> str:
        return f"{len(self.videos)} video(s)" if self.videos else f"{len(self.pictures)} picture(s)"


NOTHING = Subject()


def open_subject(paths: Sequence[str], choices: VideoChoices) -> Subject:
    """Open what is named, before the model is loaded, so that a wrong path shows at once.

    Args:
        paths: of pictures or videos; none is fine.
        choices: about videos. `as_video` takes everything as a video, also a folder.

    Raises:
        OLMoInputError: pictures and videos together, or one that cannot be read.
    """
    are_videos = [choices.as_video or is_video(path) for path in paths]
    if not any(are_videos):
        return Subject(tuple(paths), tuple(load_picture(path) for path in paths))
    if not all(are_videos):
        video, other = paths[are_videos.index(True)], paths[are_videos.index(False)]
        raise OLMoInputError(
            f"{video!r} is a video and {other!r} is not; a question is about pictures or videos, not both. Ask about "
            "one after the other"
        )
    keys = choices.example()
    if "subtitles" in keys:
        keys["subtitles"] = load_subtitles(keys["subtitles"])
    with ExitStack() as opened:  # where one cannot be read, those before it are closed
        videos = tuple(opened.enter_context(KeptSource(open_clip(path, choices.fps))) for path in paths)
        opened.pop_all()
    return Subject(tuple(paths), videos=videos, video_keys=keys)
