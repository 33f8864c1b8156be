from __future__ import annotations

import numpy as np
import pytest
from number_videos import numbered_array, shown_number

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.array_source import ArraySource
from olmo.preprocessing.video.clip import read_frames
from olmo.preprocessing.video.kept_source import KeptSource
from olmo.preprocessing.video.sampling import FrameSampling, sample_frames


class Counting(ArraySource):
    """Remembers what is decoded, cannot decode frame 3, and knows whether it was closed."""

    def __init__(self, n: int = 40) -> None:
        super().__init__(numbered_array(n), fps=10)
        self.decoded: list[int] = []
        self.is_closed = False

    def iter_frames(self, indices):
        for index, frame in super().iter_frames(indices):
            self.decoded.append(index)
            if index != 3:
                yield index, frame

    def close(self) -> None:
        self.is_closed = True


@pytest.mark.parametrize("strategy", list(FrameSampling))
def test_frames_are_those_of_the_source_and_are_decoded_once(strategy):
    inner, plain = Counting(), Counting()
    kept = KeptSource(inner)
    assert (kept.n_frames, kept.fps, kept.size, kept.duration_s) == (
        plain.n_frames, plain.fps, plain.size, plain.duration_s,
    )  # fmt: skip
    wanted = read_frames(plain, sample_frames(plain, strategy, max_frames=6))
    for _ in range(2):
        clip = read_frames(kept, sample_frames(kept, strategy, max_frames=6))
        assert np.array_equal(clip.indices, wanted.indices) and np.array_equal(clip.seconds, wanted.seconds)
        assert all(np.array_equal(a, b) for a, b in zip(clip.frames, wanted.frames, strict=True))
    assert inner.decoded == plain.decoded


def test_what_was_asked_for_before_is_not_decoded_again():
    inner = Counting()
    kept = KeptSource(inner)
    assert [shown_number(frame) for _, frame in kept.iter_frames([5, 3, 2])] == [2, 5]
    assert [i for i, _ in kept.iter_frames([2, 3, 5, 7])] == [2, 5, 7]
    assert inner.decoded == [2, 3, 5, 7], "also what cannot be decoded is tried once"
    assert [i for i, _ in kept.iter_luma([2, 7], 8)] == [i for i, _ in kept.iter_luma([7, 2], 8)] == [2, 7]
    assert inner.decoded == [2, 3, 5, 7, 2, 7]


def test_frames_that_are_not_there_are_refused_as_by_any_source():
    with pytest.raises(OLMoInputError, match="frames 0 to 39"):
        list(KeptSource(Counting()).iter_frames([40]))


def test_closing_closes_the_source():
    inner = Counting()
    KeptSource(inner).close()
    assert inner.is_closed
