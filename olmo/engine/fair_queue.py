"""A waiting line in which clients take turns: whoever asks much waits behind their own requests, not others'."""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class FairQueue(Generic[T]):
    """First in, first out for each client; one of each client in turn. Not safe for threads by itself."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, deque[T]] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._waiting.values()))

    def put(self, client: str, item: T) -> None:
        """Add at the end of this client's line."""
        self._waiting.setdefault(client, deque()).append(item)

    def take(self) -> T:
        """The first item of the client whose turn it is; their next one comes after every other client's.

        Raises:
            IndexError: nothing waits.
        """
        if not self._waiting:
            raise IndexError("nothing waits")
        client, line = next(iter(self._waiting.items()))
        item = line.popleft()
        del self._waiting[client]
        if line:
            self._waiting[client] = line
        return item

    def put_back(self, client: str, item: T) -> None:
        """Return what was taken to the very front."""
        self._waiting.setdefault(client, deque()).appendleft(item)
        self._waiting.move_to_end(client, last=False)

    def remove(self, is_wanted: Callable[[T], bool]) -> list[T]:
        """Take out all items that a test holds for."""
        taken = []
        for client in list(self._waiting):
            line = self._waiting[client]
            taken += [item for item in line if is_wanted(item)]
            rest = deque(item for item in line if not is_wanted(item))
            if rest:
                self._waiting[client] = rest
            else:
                del self._waiting[client]
        return taken
