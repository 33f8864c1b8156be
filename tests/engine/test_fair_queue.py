"""Clients take turns."""

from __future__ import annotations

import pytest

from olmo.engine.fair_queue import FairQueue


def filled() -> FairQueue[str]:
    queue: FairQueue[str] = FairQueue()
    for client, items in (("a", "12345"), ("b", "1"), ("c", "12")):
        for item in items:
            queue.put(client, client + item)
    return queue


def test_who_asks_much_waits_behind_their_own() -> None:
    queue = filled()
    assert len(queue) == 8
    assert [queue.take() for _ in range(8)] == ["a1", "b1", "c1", "a2", "c2", "a3", "a4", "a5"]
    with pytest.raises(IndexError):
        queue.take()


def test_what_was_put_back_is_next() -> None:
    queue = filled()
    first = queue.take()
    queue.put_back("a", first)
    assert [queue.take() for _ in range(4)] == ["a1", "b1", "c1", "a2"]


def test_items_can_be_taken_out_of_the_line() -> None:
    queue = filled()
    assert queue.remove(lambda item: item.endswith("1")) == ["a1", "b1", "c1"]
    assert [queue.take() for _ in range(len(queue))] == ["a2", "c2", "a3", "a4", "a5"]
