"""`RowSource`: what all sources share (range checks, metadata, places in errors), and sources made of others."""

from __future__ import annotations

from abc import ABC, abstractmethod
from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

from olmo.exceptions import OLMoInputError


class RowSource(ABC):
    """Examples by row. A subclass gives `name`, `__len__` and `_example`."""

    name: str
    """What metrics and messages call this source."""

    @abstractmethod
    def __len__(self) -> int:
        """Number of rows."""

    @abstractmethod
    def _example(self, row: int, epoch: int) -> dict[str, Any]:
        """The example of a row that exists; `metadata` need not be there, and errors need not name the place."""

    def place(self, row: int) -> str:
        """Where a person finds the row: a file and line, or a name and row."""
        return f"{self.name}, row {row}"

    def at(self, row: int, epoch: int = 0) -> dict[str, Any]:
        """The example of `row`, as it is in pass `epoch` over the source.

        Raises:
            OLMoInputError: the row is broken; the message begins with its place.
            IndexError: no such row.
        """
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is outside {self.name}, which has {len(self)} rows")
        try:
            example = self._example(row, epoch)
        except OLMoInputError as error:
            raise OLMoInputError(f"{self.place(row)}: {error}") from None
        metadata = example.get("metadata") or {}
        if not isinstance(metadata, dict):
            raise OLMoInputError(f"{self.place(row)}: 'metadata' is an object, got {metadata!r:.100}")
        return {**example, "metadata": {**metadata, "source": self.name, "row": row}}

    def __getitem__(self, row: int) -> dict[str, Any]:
        """The example of `row` in the first pass."""
        return self.at(row)


class PartialSource(RowSource):
    """Rows `start` to `stop` of another source. Places, and the row in `metadata`, stay those of the whole."""

    def __init__(self, whole: RowSource, start: int, stop: int) -> None:
        self.name, self.whole, self.start, self.stop = whole.name, whole, start, stop

    def __len__(self) -> int:
        return self.stop - self.start

    def place(self, row: int) -> str:
        """Where a person finds the row."""
        return self.whole.place(self.start + row)

    def at(self, row: int, epoch: int = 0) -> dict[str, Any]:
        """The example of `row`, counted from `start`."""
        if not 0 <= row < len(self):
            raise IndexError(f"row {row} is outside this part of {self.name}, which has {len(self)} rows")
        return self._example(row, epoch)

    def _example(self, row: int, epoch: int) -> dict[str, Any]:
        return self.whole.at(self.start + row, epoch)


class WeightedSource(RowSource):
    """Another source with the loss weight of every example multiplied."""

    def __init__(self, whole: RowSource, factor: float) -> None:
        self.name, self.whole, self.factor = whole.name, whole, factor

    def __len__(self) -> int:
        return len(self.whole)

    def place(self, row: int) -> str:
        """Where a person finds the row."""
        return self.whole.place(row)

    def at(self, row: int, epoch: int = 0) -> dict[str, Any]:
        """The example of `row` with its weight multiplied."""
        return self._example(row, epoch)

    def _example(self, row: int, epoch: int) -> dict[str, Any]:
        example = self.whole.at(row, epoch)
        weight = example.get("weight", 1.0)
        # What is no number is left for whoever checks the example, who says so better than a TypeError would.
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        return {**example, "weight": self.factor * weight if is_number else weight}


class JoinedSource(RowSource):
    """The rows of several sources, one behind the other. Places stay those of the parts.

    Args:
        parts: at least one, none of them empty.
        name: what metrics call the whole.
    """

    def __init__(self, parts: Sequence[RowSource], name: str) -> None:
        assert parts, "somebody made sure that there is one"
        self.name, self.parts = name, tuple(parts)
        self._ends = list(accumulate(len(part) for part in parts))

    def __len__(self) -> int:
        return self._ends[-1]

    def place(self, row: int) -> str:
        """Where a person finds the row."""
        part, own = self._locate(row)
        return part.place(own)

    def _example(self, row: int, epoch: int) -> dict[str, Any]:
        part, own = self._locate(row)
        return part._example(own, epoch)

    def _locate(self, row: int) -> tuple[RowSource, int]:
        number = bisect_right(self._ends, row)
        return self.parts[number], row - (self._ends[number - 1] if number else 0)
