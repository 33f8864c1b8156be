from __future__ import annotations

import itertools

import pytest

from olmo.data.permutation import mixed, permuted


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 16, 17, 100, 1000, 4097])
def test_every_row_once(n):
    assert sorted(permuted(i, n, key=3) for i in range(n)) == list(range(n))


def test_orders_look_random_and_depend_on_the_key():
    n = 2000
    order = [permuted(i, n, key=1) for i in range(n)]
    assert order != [permuted(i, n, key=2) for i in range(n)]
    # Of a random order, one place in n stays where it was, and half of the neighbours go up.
    assert sum(i == row for i, row in enumerate(order)) < 8
    rises = sum(a < b for a, b in itertools.pairwise(order))
    assert abs(rises - n / 2) < 4 * (n / 12) ** 0.5
    halves = sum(row < n // 2 for row in order[: n // 2])
    assert abs(halves - n / 4) < 4 * (n / 16) ** 0.5


def test_every_order_of_few_rows_comes_up_about_as_often():
    orders = [tuple(permuted(i, 4, key) for i in range(4)) for key in range(4800)]
    counts = {order: orders.count(order) for order in set(orders)}
    assert len(counts) == 24
    assert min(counts.values()) > 100 and max(counts.values()) < 320  # 200 each


def test_a_billion_rows_cost_nothing():
    rows = {permuted(i, 10**9, key=5) for i in range(1000)}
    assert len(rows) == 1000 and max(rows) < 10**9


def test_the_same_on_every_machine():
    """Runs resume elsewhere: these numbers must never change."""
    assert mixed(1, 2, 3) == 15020427595393229491
    assert [permuted(i, 10, key=7) for i in range(10)] == [0, 5, 7, 6, 2, 8, 3, 4, 1, 9]


def test_numbers_of_any_size_are_mixed_in():
    assert len({mixed(0), mixed(0, 0), mixed(1), mixed(1 << 64), mixed(1 << 70)}) == 5
