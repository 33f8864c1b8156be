from __future__ import annotations

import numpy as np
import pytest

from olmo.data.packing import pack_lengths


@pytest.mark.parametrize("seed", range(5))
def test_every_item_once_and_no_row_too_long(seed):
    lengths = np.random.default_rng(seed).integers(1, 40, 200).tolist()
    rows = pack_lengths(lengths, 100)
    assert sorted(i for row in rows for i in row) == list(range(200))
    totals = [sum(lengths[i] for i in row) for row in rows]
    assert max(totals) <= 100
    assert len(rows) <= -(-sum(lengths) // 100) + 1  # short items leave next to no room unused


def test_longest_first_into_the_first_row_with_room():
    assert pack_lengths([3, 7, 6, 4, 1], 10) == [[1, 0], [2, 3], [4]]
    assert pack_lengths([5, 5, 5], 10) == [[0, 1], [2]]
    assert pack_lengths([], 10) == []


def test_an_item_longer_than_a_row_is_alone():
    assert pack_lengths([12, 1, 10], 10) == [[0], [2], [1]]
