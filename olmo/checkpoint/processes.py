"""The processes that write one checkpoint together: who is here, and agreeing on what went well.

Works without `torch.distributed` as one process. Where a process group exists, a group of its own over gloo is made, so
a checkpoint that is written in the background never mixes its messages with those of the training step.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import distributed as dist

from olmo.exceptions import OLMoCheckpointError

# A process waits this long for the slowest one, which may be writing tens of gigabytes to a slow disk.
_PATIENCE = datetime.timedelta(hours=2)


@dataclass(frozen=True)
class Processes:
    """All processes of a run, as a checkpoint sees them.

    Attributes:
        rank: number of this process, from 0.
        size: how many there are.
        group: their own process group; None where this process is alone.
    """

    rank: int = 0
    size: int = 1
    group: dist.ProcessGroup | None = None

    @classmethod
    def join(cls) -> Processes:
        """The processes of the default group; every process calls this at the same point."""
        if not dist.is_available() or not dist.is_initialized() or dist.get_world_size() == 1:
            return cls()
        return cls(dist.get_rank(), dist.get_world_size(), dist.new_group(backend="gloo", timeout=_PATIENCE))

    def leave(self) -> None:
        """Give back the process group; nothing is sent any more."""
        if self.group is not None and dist.is_initialized():
            dist.destroy_process_group(self.group)

    @property
    def is_main(self) -> bool:
        """True in the one process that makes folders and writes what exists once."""
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """What each process handed in (plain JSON values), in the order of ranks. Every process calls this."""
        if self.group is None:
            return [value]
        data = torch.frombuffer(bytearray(json.dumps(value).encode("utf-8")), dtype=torch.uint8)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        dist.all_gather(sizes, torch.tensor([len(data)]), group=self.group)
        longest = max(int(size) for size in sizes)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: len(data)] = data
        parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
        dist.all_gather(parts, padded, group=self.group)
        return [json.loads(bytes(part[: int(n)].numpy()).decode("utf-8")) for part, n in zip(parts, sizes, strict=True)]

    def from_main(self, value: Any) -> Any:
        """What the main process handed in. Every process calls this."""
        return self.gather(value if self.is_main else None)[0]

    @contextmanager
    def together(self, doing: str) -> Iterator[None]:
        """Wait for all at the end of a block; where it failed in one process, it fails in all.

        The block itself must not wait for other processes.

        Args:
            doing: what the block does, for the message in the processes in which it went well.

        Raises:
            OLMoCheckpointError: the block failed in another process. Its own error is raised as it is.
        """
        mine: Exception | None = None
        try:
            yield
        except Exception as error:
            mine = error
        errors = self.gather(None if mine is None else f"{type(mine).__name__}: {mine}")
        if mine is not None:
            raise mine
        for rank, failure in enumerate(errors):
            if failure is not None:
                raise OLMoCheckpointError(f"{doing} failed in process {rank}: {failure}")
