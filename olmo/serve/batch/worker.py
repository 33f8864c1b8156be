"""`BatchWorker`: a model in a process of its own that answers chunks of a batch, and what others need to know of it.

How chunks come in and lines go out is for who starts the process, `olmo.serve.batch.processes` or
`olmo.serve.batch.ray`.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from olmo.exceptions import OLMoError
from olmo.models.base import ModelBase
from olmo.serve.answering import Answering, video_spec
from olmo.serve.batch.answers import Write, answer_rows, deciding
from olmo.serve.batch.rows import read_row
from olmo.serve.batch.source import Chunk, RowReader
from olmo.serve.local_media import LocalMedia
from olmo.serve.serve_config import ServeConfig


@dataclass(frozen=True, kw_only=True)
class WorkerPlan:
    """What a process needs to become a worker; can be sent to it.

    Attributes:
        load: loads the model; a function at the top of a module, or a `functools.partial` of one.
        config: limits, and what rows call the model.
        base: folder that relative paths of rows start from.
    """

    load: Callable[[], ModelBase]
    config: ServeConfig
    base: Path


@dataclass(frozen=True)
class Lines:
    """What came back of a chunk, or of a part of it.

    Attributes:
        settings: what decides the answers of the worker's model.
        lines: number and line of each row.
    """

    settings: dict[str, Any]
    lines: list[tuple[int, dict[str, Any]]] = field(default_factory=list)


class Workers(Protocol):
    """Several processes that answer."""

    n_workers: int

    def answers(self, chunks: Sequence[Chunk]) -> Iterator[Lines]:
        """Lines as they come, in any order. Rows at which a worker died may be missing.

        Raises:
            OLMoError: the model cannot be loaded or failed, or rows cannot be read.
        """

    def close(self) -> None:
        """End the processes."""


class BatchWorker:
    """Answers chunks with a model of its own; several may be asked at a time, from several threads.

    Args:
        plan: what to be.

    Attributes:
        settings: what decides the answers of its model.
    """

    def __init__(self, plan: WorkerPlan) -> None:
        model = plan.load()
        self._config = plan.config
        self.settings = deciding(model, plan.config)
        self._answering = Answering(model, plan.config, LocalMedia(plan.config, video_spec(model), plan.base))
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="olmo-batch", daemon=True)
        self._thread.start()

    def answer(self, chunk: Chunk, write: Write) -> None:
        """Answer the rows that a chunk wants.

        Args:
            chunk: rows of a file that this process sees under the same path.
            write: is called from another thread, one row at a time.

        Raises:
            OLMoError: the engine failed, or the rows are not there.
        """
        rows = (read_row(number, line, self._config.model_name) for number, line in RowReader().lines(chunk))
        asyncio.run_coroutine_threadsafe(answer_rows(self._answering, rows, write), self._loop).result()

    def close(self) -> None:
        """End the engine and its threads and processes."""
        asyncio.run_coroutine_threadsafe(self._answering.close(), self._loop).result()
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


def told_failure(error: Exception) -> str:
    """What a worker says of what it cannot go on after.

    Args:
        error: what was raised in it.
    """
    return str(error) if isinstance(error, OLMoError) else f"a worker failed: {type(error).__name__}: {error}"
