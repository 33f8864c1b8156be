"""Small videos in memory, and what a VideoOlmo makes of them."""

from __future__ import annotations

from typing import Any

import numpy as np

from olmo.models.video_olmo.video_olmo import VideoOlmo
from olmo.preprocessing.video.open_video import open_video
from olmo.preprocessing.video.source import VideoSource


def video(n_frames: int, fps: float = 1.0, seed: int = 0, size: tuple[int, int] = (56, 56)) -> VideoSource:
    """Random frames."""
    frames = np.random.default_rng(seed).integers(0, 256, (n_frames, *size, 3), dtype=np.uint8)
    return open_video(frames, fps=fps)


def asked(shown: Any, question: str = "what?", answer: str | None = None) -> dict[str, Any]:
    """An example with a video."""
    record = {"video": shown, "question": question}
    return record if answer is None else {**record, "answer": answer}


def prepared(model: VideoOlmo, shown: Any, question: str = "what?") -> dict[str, Any]:
    """The arguments of `forward` and `generate`."""
    inputs = model.config.build_preprocessor(for_inference=True)(asked(shown, question))
    del inputs["metadata"]
    return inputs
