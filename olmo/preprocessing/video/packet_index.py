"""The frames of a video file by number, from its packets: counted and timed without decoding any.

Lives here: the table, and the plan of what to decode for the frames that are wanted. Headers are not asked for counts,
because they lie. Knows no decoder: a packet is a time and whether it is a keyframe.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Run:
    """Packets that are decoded one after the other, from a keyframe to the last frame that is wanted of them.

    Attributes:
        start: position of the keyframe, in order of decoding.
        stop: one past the last position.
    """

    start: int
    stop: int


class PacketIndex:
    """Where the frames of a file are.

    Args:
        pts: int64 `[P]`, presentation times of the packets in order of decoding, in ticks.
        is_key: bool `[P]`, whether decoding can begin there.
        is_shown: bool `[P]`; False for packets that are decoded but not displayed.

    Attributes:
        frame_pts: int64 `[n]`, presentation times of the frames, increasing.
        position: int64 `[n]`, the packet of each frame.
    """

    def __init__(self, pts: np.ndarray, is_key: np.ndarray, is_shown: np.ndarray) -> None:
        shown = np.flatnonzero(is_shown)
        self.position = shown[np.argsort(pts[shown], kind="stable")]
        self.frame_pts = pts[self.position]
        self._pts = pts
        self._positions = {p: i for i, p in enumerate(pts.tolist())}
        self._keys = np.flatnonzero(is_key)

    @staticmethod
    def is_usable(pts: Sequence[int | None], is_key: Sequence[bool]) -> bool:
        """Whether every packet can be told by its time, and decoding can begin at the first one."""
        return bool(pts) and None not in pts and len(set(pts)) == len(pts) and bool(is_key[0])

    def position_of(self, pts: int | None) -> int | None:
        """Position of the packet of this time; None for a time that no packet has."""
        return None if pts is None else self._positions.get(pts)

    def pts_at(self, position: int) -> int:
        """Presentation time of a packet, in ticks."""
        return int(self._pts[position])

    def key_before(self, position: int) -> int:
        """Position of the last keyframe before this one; 0 where there is none."""
        place = int(np.searchsorted(self._keys, position, "left")) - 1
        return int(self._keys[place]) if place >= 0 else 0

    def runs(self, indices: np.ndarray) -> list[Run]:
        """What is to be decoded for these frames: from keyframes on, and no packet twice.

        A frame that follows a keyframe in the file but is shown before it may need the pictures before that keyframe,
        so its run begins one keyframe earlier.

        Args:
            indices: int64 `[k]` frame numbers.

        Returns:
            Runs in order of decoding that neither overlap nor touch.
        """
        positions = self.position[np.unique(indices)].tolist()
        runs: list[Run] = []
        for start, stop in sorted((self._key_for(position), position + 1) for position in positions):
            if runs and start <= runs[-1].stop:
                runs[-1] = Run(runs[-1].start, max(runs[-1].stop, stop))
            else:
                runs.append(Run(start, stop))
        return runs

    def _key_for(self, position: int) -> int:
        place = int(np.searchsorted(self._keys, position, "right")) - 1
        while place > 0 and self._pts[self._keys[place]] > self._pts[position]:
            place -= 1
        return int(self._keys[place])
