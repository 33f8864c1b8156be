"""Frames where something happens: at least one from every shot, more where there is more change.

Lives here: candidates, their change from one to the next, and the choice among them; pure functions but for
`luma_changes`, which reads small gray frames. Cuts are found as PySceneDetect's AdaptiveDetector finds them, with its
defaults, and once more without the cuts already found; how frames are given to shots is our own.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from olmo.exceptions import OLMoInputError
from olmo.preprocessing.video.source import VideoSource

LUMA_SIDE = 64
"""Candidates are compared at 64 x 64 pixels of brightness."""

MIN_CANDIDATES, MAX_CANDIDATES, CANDIDATES_PER_FRAME = 64, 512, 4

CUT_RATIO = 3.0
"""A cut changes so many times as much as its neighbours on average."""

CUT_CHANGE = 15 / 255
"""And at least so much, as a share of full brightness."""

_WINDOW = 2  # neighbours on each side that a cut is compared with
_STILL = 1e-6  # mean change below which a video stands still


def candidate_indices(n: int, max_frames: int) -> np.ndarray:
    """Evenly spread frames that are looked at: four for each wanted one, 64 at least, 512 at most.

    Args:
        n: frames there are, at least 1.
        max_frames: frames wanted at most.

    Returns:
        int64 `[C]`, strictly increasing; never fewer than can be chosen.
    """
    usual = min(max(CANDIDATES_PER_FRAME * max_frames, MIN_CANDIDATES), MAX_CANDIDATES)
    return spread(n, min(n, max(usual, max_frames)))


def spread(n: int, m: int) -> np.ndarray:
    """Evenly spread numbers, 0 and n - 1 among them; a single one from the middle.

    Args:
        n: numbers there are.
        m: numbers wanted, 1 to n.

    Returns:
        int64 `[m]`, strictly increasing: `k * (n - 1) / (m - 1)` rounded with halves up, in whole numbers.
    """
    if m == 1:
        return np.array([n // 2], np.int64)
    k = np.arange(m, dtype=np.int64)
    return (2 * k * (n - 1) + (m - 1)) // (2 * (m - 1))


def luma_changes(source: VideoSource, indices: Sequence[int] | np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How much each frame differs from the one before it in the list.

    Args:
        source: the video.
        indices: frames to compare, increasing.

    Returns:
        The frames that could be decoded, int64 `[C]`, and their changes, float64 `[C]` in 0..1 with the first one 0:
        the mean absolute difference of brightness.

    Raises:
        OLMoInputError: none can be decoded.
    """
    seen: list[int] = []
    changes: list[float] = []
    before: np.ndarray | None = None
    for index, luma in source.iter_luma(indices, LUMA_SIDE):
        now = luma.astype(np.int16)
        seen.append(index)
        changes.append(0.0 if before is None else float(np.abs(now - before).mean()) / 255)
        before = now
    if not seen:
        raise OLMoInputError(f"no frame of {source.name} can be decoded; copy or download it again")
    return np.array(seen, np.int64), np.array(changes)


def adaptive_indices(n: int, m: int, candidates: np.ndarray, changes: np.ndarray) -> np.ndarray:
    """Choose m frames by shot and by change.

    Every shot gets a frame while there are enough; the others go, one at a time, to the shot with the most length and
    change for the frames it has. Inside a shot frames stand at equal shares of length and change.

    Args:
        n: frames of the video.
        m: frames wanted, 1 to n.
        candidates: int64 `[C]`, frames to choose among, strictly increasing in `[0, n)`.
        changes: float64 `[C]`, change of each candidate from the one before it, in 0..1; the first is not read.

    Returns:
        int64 `[m]`, strictly increasing. A video that stands still gives `spread(n, m)`.
    """
    if m == n:
        return np.arange(n, dtype=np.int64)
    d = np.asarray(changes, np.float64).copy()
    d[:1] = 0.0
    if d.sum() < _STILL * len(d):
        return spread(n, m)
    if len(candidates) <= m:
        return _fill(candidates, np.arange(n), m)
    cuts = find_cuts(d, m - 1)
    d[cuts] = 0.0
    starts = [0, *cuts.tolist()]
    shots = [np.arange(a, b) for a, b in zip(starts, [*starts[1:], len(d)], strict=True)]
    counts = _share_out(shots, d, m)
    chosen = np.concatenate([_place(shot, d[shot], a) for shot, a in zip(shots, counts, strict=True)])
    return candidates[chosen]


def find_cuts(changes: np.ndarray, most: int) -> np.ndarray:
    """Candidates that begin a new shot.

    Args:
        changes: float64 `[C]`, change of each candidate from the one before it, in 0..1.
        most: the strongest so many are kept.

    Returns:
        int64, increasing positions in `changes`; never 0.
    """
    is_cut = np.zeros(len(changes), bool)
    while True:
        # A cut must not hide a weaker one beside it, so found ones are no longer neighbours to compare with.
        others = _window_sums(np.where(is_cut, 0.0, changes))
        n_others = _window_sums((~is_cut).astype(np.float64))
        is_new = ~is_cut & (changes >= CUT_CHANGE) & (changes * n_others >= CUT_RATIO * others) & (n_others > 0)
        is_new[:1] = False
        if not is_new.any():
            break
        is_cut |= is_new
    found = np.flatnonzero(is_cut)
    strongest = found[np.argsort(-changes[found], kind="stable")[: max(most, 0)]]
    return np.sort(strongest)


def _window_sums(values: np.ndarray) -> np.ndarray:
    """Sum of the neighbours of each value, itself not counted; there are fewer at the ends."""
    windows = np.lib.stride_tricks.sliding_window_view(np.pad(values, _WINDOW), 2 * _WINDOW + 1)
    return windows.sum(axis=1) - values


def _share_out(shots: list[np.ndarray], changes: np.ndarray, m: int) -> list[int]:
    """How many frames each shot gets, at least one and at most its candidates."""
    lengths = np.array([len(shot) for shot in shots], np.float64)
    within = np.array([changes[shot].sum() for shot in shots])
    weights = 0.5 * lengths / lengths.sum() + (0.5 * within / within.sum() if within.sum() > 0 else 0.0)
    counts = np.ones(len(shots))
    for _ in range(m - len(shots)):
        gain = np.where(counts < lengths, weights / (counts + 0.5), -1.0)
        counts[int(np.argmax(gain))] += 1
    return [int(c) for c in counts]


def _place(shot: np.ndarray, changes: np.ndarray, a: int) -> np.ndarray:
    """`a` candidates of a shot at equal shares of its length and change."""
    mass = np.full(len(shot), 0.5 / len(shot))
    if changes.sum() > 0:
        mass += 0.5 * changes / changes.sum()
    reached = np.cumsum(mass) / mass.sum()
    quantiles = (np.arange(a) + 0.5) / a
    places = np.minimum(np.searchsorted(reached, quantiles), len(shot) - 1)
    return _fill(shot[np.unique(places)], shot, a)


def _fill(chosen: np.ndarray, candidates: np.ndarray, m: int) -> np.ndarray:
    """`m` of the sorted candidates: the chosen ones, and each time the one farthest from all of them."""
    taken = np.asarray(chosen, np.int64)
    distance = np.full(len(candidates), np.iinfo(np.int64).max)
    for c in taken:
        distance = np.minimum(distance, np.abs(candidates - c))
    added = []
    for _ in range(m - len(taken)):
        c = int(candidates[int(np.argmax(distance))])
        added.append(c)
        distance = np.minimum(distance, np.abs(candidates - c))
    return np.sort(np.concatenate([taken, np.array(added, np.int64)]))
