"""`Registry`: what is known of the workers of a Ray batch. It has a process of its own, so it imports nothing large."""

from __future__ import annotations

import time
from typing import Any

_MAX_LOAD_S = 1800.0  # until a worker that loads its model counts as lost where its machine is gone


class Registry:
    """Handles of the workers of a pool, and how often each chunk was begun.

    Args:
        max_begins: times that a chunk may be begun; a worker died at all but the last.
    """

    def __init__(self, max_begins: int) -> None:
        self._max_begins = max_begins
        self._workers: dict[str, Any] = {}
        self._loading_since: dict[str, float] = {}
        self._begins: dict[int, int] = {}

    def add(self, name: str, worker: Any) -> None:
        """Note a worker that loads its model; one that was restarted keeps its name.

        Args:
            name: id of the worker.
            worker: its handle.
        """
        self._workers[name], self._loading_since[name] = worker, time.monotonic()

    def is_loaded(self, name: str) -> None:
        """Note that a worker answers from now on.

        Args:
            name: id of the worker.
        """
        self._loading_since.pop(name, None)

    def forget(self, names: list[str]) -> None:
        """Drop workers.

        Args:
            names: their ids.
        """
        for name in names:
            self._workers.pop(name, None)
            self._loading_since.pop(name, None)

    def known(self) -> dict[str, Any]:
        """Handles by id of all workers that would say that they are alive."""
        late = time.monotonic() - _MAX_LOAD_S
        return {name: worker for name, worker in self._workers.items() if self._loading_since.get(name, late) <= late}

    def begin(self, start: int) -> bool:
        """Note that a chunk is begun, and say whether it may be.

        Args:
            start: number of its first row.
        """
        self._begins[start] = self._begins.get(start, 0) + 1
        return self._begins[start] <= self._max_begins

    def end(self, start: int) -> None:
        """Note that a chunk was answered.

        Args:
            start: number of its first row.
        """
        self._begins.pop(start, None)
