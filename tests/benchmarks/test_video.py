"""The benchmark of videos: both sides do the same work, and its count of frames is that of the plan of decoding."""

from __future__ import annotations

import importlib
from pathlib import Path

import numpy as np
import pytest

from olmo.preprocessing.video.adaptive import spread
from olmo.preprocessing.video.open_video import open_video

pytest.importorskip("av")

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch):
    """The modules `video` and `video_clip`."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("video"), importlib.import_module("video_clip")


def test_both_sides_give_the_same_pixels_of_a_clip_that_moves(scripts, tmp_path):
    video, maker = scripts
    path = maker.write_clip(tmp_path / "clip.mp4", 26, 12, 1)
    ours = video.build()({"video": str(path), "question": "what?"})["images"]
    assert (ours - video.read_plainly(path, spread(26, 16), 1)).abs().max() <= video.TOLERANCE
    with open_video(path) as source:
        assert (source.n_frames, source.size) == (26, (maker.WIDTH, maker.HEIGHT))
        assert [run.start for run in source._index.runs(np.array([1, 13, 25]))] == [0, 12, 24]
        assert np.abs(np.diff(source.get([3, 4]).astype(int), axis=0)).mean() > 1


@pytest.mark.parametrize(
    ("wanted", "every", "n"), [([0], 24, 1), ([0, 23, 24], 24, 25), ([5, 50], 24, 9), ([9], 99, 10)]
)
def test_frames_on_the_way(scripts, wanted, every, n):
    assert scripts[0].frames_on_the_way(np.array(wanted), every) == n
