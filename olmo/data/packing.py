"""Which short examples share a row of a batch: first fit, longest first."""

from __future__ import annotations

from collections.abc import Sequence


def pack_lengths(lengths: Sequence[int], capacity: int) -> list[list[int]]:
    """Put items into as few rows as first-fit-decreasing finds: at most 11/9 of the fewest possible, plus 1.

    Args:
        lengths: tokens of each item; one longer than `capacity` has a row of its own.
        capacity: tokens of a row, at least 1.

    Returns:
        Rows of indices into `lengths`, each index once, longest item first within a row.
    """
    assert capacity >= 1, f"capacity {capacity}"
    rows: list[list[int]] = []
    room: list[int] = []
    for item in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = min(lengths[item], capacity)
        row = next((r for r, free in enumerate(room) if free >= length), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(capacity)
        rows[row].append(item)
        room[row] -= length
    return rows
