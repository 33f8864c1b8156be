"""A random order of n rows of which any place can be asked for alone: no list, no state, n as large as one likes.

A Feistel network permutes the numbers of 2k bits whatever its round function is; numbers that land at n or above are
sent through again until they land below ("cycle walking"). Source: Black and Rogaway 2002, "Ciphers with arbitrary
finite domains"; the round function is the finaliser of SplitMix64 (Steele et al. 2014).
"""

from __future__ import annotations

N_ROUNDS = 6
_MASK = (1 << 64) - 1


def permuted(place: int, n: int, key: int) -> int:
    """The row at `place` of the order that `key` names.

    Args:
        place: 0 to n - 1.
        n: number of rows, at least 1.
        key: non-negative; each key names another order.

    Returns:
        0 to n - 1; over all places each row exactly once.
    """
    assert 0 <= place < n, f"place {place} of {n}"
    half = max(1, ((n - 1).bit_length() + 1) // 2)  # bits of each side; both sides together hold at least n numbers
    low = (1 << half) - 1
    rounds = [mixed(key, number) for number in range(N_ROUNDS)]
    row = place
    while True:
        left, right = row >> half, row & low
        for salt in rounds:
            left, right = right, left ^ (mixed(salt, right) & low)
        row = left << half | right
        if row < n:
            return row


def mixed(*values: int) -> int:
    """64 well-mixed bits of some non-negative numbers, the same on every machine."""
    state = 0
    for value in values:
        while True:
            state = _finalised((state ^ (value & _MASK)) + 0x9E3779B97F4A7C15)
            value >>= 64
            if not value:
                break
    return state


def _finalised(z: int) -> int:
    z &= _MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & _MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & _MASK
    return z ^ (z >> 31)
