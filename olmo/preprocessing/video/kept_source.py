"""A video that is asked about again and again: what was decoded once is kept."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from olmo.preprocessing.video.source import VideoSource


class KeptSource(VideoSource):
    """Another source, whose frames are decoded once each. All that is asked for stays in memory until `close`.

    Args:
        source: where the frames come from; closing this one closes it too.
    """

    def __init__(self, source: VideoSource) -> None:
        self._source = source
        self.name = source.name
        self.limits = source.limits
        self.n_frames = source.n_frames
        self.seconds = source.seconds
        self.fps = source.fps
        self.size = source.size
        self._frames: dict[int, np.ndarray | None] = {}
        self._luma: dict[tuple[int, int], np.ndarray | None] = {}

    @property
    def duration_s(self) -> float | None:
        """See `VideoSource`."""
        return self._source.duration_s

    def iter_frames(self, indices: Sequence[int] | np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        """See `VideoSource`. A frame that could not be decoded is not tried again."""
        wanted = np.unique(self.check_indices(indices)).tolist()
        if new := [i for i in wanted if i not in self._frames]:
            found = dict(self._source.iter_frames(new))
            self._frames |= {i: found.get(i) for i in new}
        for index in wanted:
            if (frame := self._frames[index]) is not None:
                yield index, frame

    def iter_luma(self, indices: Sequence[int] | np.ndarray, side: int) -> Iterator[tuple[int, np.ndarray]]:
        """See `VideoSource`."""
        wanted = np.unique(self.check_indices(indices)).tolist()
        if new := [i for i in wanted if (i, side) not in self._luma]:
            found = dict(self._source.iter_luma(new, side))
            self._luma |= {(i, side): found.get(i) for i in new}
        for index in wanted:
            if (luma := self._luma[index, side]) is not None:
                yield index, luma

    def close(self) -> None:
        """Forget the frames and let go of the file."""
        self._frames.clear()
        self._luma.clear()
        self._source.close()
