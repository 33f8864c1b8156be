"""Several processes of this machine that answer one batch, each with a model of its own."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

import torch

from olmo.exceptions import OLMoError
from olmo.serve.batch.source import Chunk
from olmo.serve.batch.worker import BatchWorker, Lines, WorkerPlan, told_failure

_MAX_EARLY_DEATHS = 3  # of processes in a row that answered nothing
_CLOSE_S = 10.0


@dataclass
class _Running:
    process: BaseProcess
    connection: Connection
    place: int
    is_asked: bool = False


class ProcessWorkers:
    """Processes that answer chunks; one that dies is replaced.

    Args:
        plans: what each is to be.
    """

    def __init__(self, plans: Sequence[WorkerPlan]) -> None:
        self._plans = plans
        self.n_workers = len(plans)
        self._context = multiprocessing.get_context("spawn")
        self._running: list[_Running] = []

    def answers(self, chunks: Sequence[Chunk]) -> Iterator[Lines]:
        """Lines as they come, in any order; those of a chunk at which a process died are missing from there on.

        Args:
            chunks: what is to be answered.

        Raises:
            OLMoError: the model cannot be loaded or failed, rows cannot be read, or each process dies at once.
        """
        waiting, n_deaths = deque(chunks), 0
        while len(self._running) < self.n_workers:
            self._running.append(self._start(len(self._running)))
        for one in self._running:
            self._ask(one, waiting)
        while asked := [one for one in self._running if one.is_asked]:
            for ready in wait([one.connection for one in asked]):
                one = next(one for one in asked if one.connection is ready)
                try:
                    found = one.connection.recv()
                except (EOFError, OSError):  # it died; nobody knows at which row
                    n_deaths += 1
                    if n_deaths >= _MAX_EARLY_DEATHS * self.n_workers:
                        raise OLMoError("each process dies at once; is there memory for so many?") from None
                    self._replace(one)
                    self._ask(self._running[one.place], waiting)
                    continue
                if isinstance(found, Exception):
                    raise found
                if isinstance(found, Lines):
                    n_deaths = 0
                    yield found
                else:
                    one.is_asked = False
                    self._ask(one, waiting)

    def close(self) -> None:
        """End the processes."""
        for one in self._running:
            if one.is_asked:
                one.process.kill()
            with contextlib.suppress(OSError):  # it is gone already
                one.connection.send(None)
            one.connection.close()
        for one in self._running:
            one.process.join(_CLOSE_S)
            if one.process.is_alive():
                one.process.kill()
                one.process.join()
        self._running = []

    def _ask(self, one: _Running, waiting: deque[Chunk]) -> None:
        if waiting:
            one.is_asked = True
            with contextlib.suppress(OSError):  # it died; that shows when its answer is read
                one.connection.send(waiting.popleft())

    def _replace(self, one: _Running) -> None:
        one.connection.close()
        one.process.join()
        self._running[one.place] = self._start(one.place)

    def _start(self, place: int) -> _Running:
        ours, theirs = self._context.Pipe()
        n_threads = max(1, (os.cpu_count() or 1) // self.n_workers)
        process = self._context.Process(
            target=_serve, args=(self._plans[place], theirs, n_threads), name=f"olmo-batch-{place}", daemon=False
        )
        process.start()
        theirs.close()
        return _Running(process, ours, place)


def _serve(plan: WorkerPlan, connection: Connection, n_threads: int) -> None:
    """The life of a process: chunks come in, lines go out, and after each chunk None."""
    torch.set_num_threads(n_threads)
    try:
        worker = BatchWorker(plan)
        while (chunk := connection.recv()) is not None:
            connection.send(Lines(worker.settings))
            worker.answer(chunk, lambda number, line: connection.send(Lines(worker.settings, [(number, line)])))
            connection.send(None)
        worker.close()
    except (EOFError, BrokenPipeError, KeyboardInterrupt):
        os._exit(1)  # whoever asked is gone; threads of the engine are not waited for
    except Exception as error:
        with contextlib.suppress(OSError):  # nobody is there to hear it
            connection.send(OLMoError(told_failure(error)))
        os._exit(1)
