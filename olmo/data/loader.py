"""`StepLoader`: the batches of a training run, step by step, prepared by worker processes.

It keeps no state between steps: step s holds the examples `first_example + s * batch_size` on, rank r of W takes every
W-th of them, and the generator of an example is seeded by its index. So a run resumes from its step number, and another
number of ranks or workers learns from the same examples. It knows neither models nor preprocessing: both are handed in.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from olmo.config import ConfigEnum
from olmo.data.packing import pack_lengths
from olmo.exceptions import OLMoConfigurationError, OLMoError, OLMoInputError

EXAMPLES_PER_TASK = 64  # a worker prepares at most so many at a time, and packs among them
EXAMPLES_AHEAD = 64  # each worker is at least two tasks ahead, and about so many examples where tasks are small
MOST_TASKS_AHEAD = 8
N_STAND_INS = 32
SHOWN_BAD = 5

Example = Mapping[str, Any]
Batch = dict[str, Any]


class OnBadExample(ConfigEnum):
    """What happens when an example cannot be used."""

    stop = "raise"
    skip = "skip"


class ExampleStream(Protocol):
    """Raw examples by index, without end; a `Mixture` is one."""

    def __getitem__(self, index: int) -> Example:
        """Example `index`, 0 or more; always the same. Raises OLMoError or OSError where it cannot be read."""


@dataclass(frozen=True, slots=True)
class StepBatch:
    """What one rank learns from in one step."""

    step: int
    """Number of the step, from 0."""

    micro_batches: list[Batch]
    """Collated batches, at least one; of `micro_batch_size` rows each but for the last."""

    wait_s: float
    """Seconds that the caller waited for it."""

    n_examples: int
    """Examples in it."""

    bad: list[str]
    """What was wrong with the examples that were left out."""


class StepLoader:
    """Iterates over the `StepBatch`es of a run, from `first_step` to the end."""

    def __init__(
        self,
        stream: ExampleStream,
        prepare: Callable[[Example, np.random.Generator], Example],
        collate: Callable[[Sequence[Any]], Batch],
        *,
        batch_size: int,
        micro_batch_size: int,
        max_steps: int,
        first_step: int = 0,
        first_example: int = 0,
        rank: int = 0,
        world_size: int = 1,
        pack: bool = False,
        sequence_length: int | None = None,
        seed: int = 0,
        n_workers: int = 0,
        on_bad_example: OnBadExample | str = OnBadExample.stop,
        pin_memory: bool = False,
    ) -> None:
        """Set up; nothing is read before the first step is asked for.

        Args:
            stream: raw examples by index. With workers it is pickled or forked, and so are `prepare` and `collate`.
            prepare: a raw example and a generator to the tensors of one example; packing reads the length of its
                `input_ids`.
            collate: a list of rows to a batch. A row is an example, with `pack` a list of examples that share a row.
            batch_size: examples a step, over all ranks.
            micro_batch_size: rows of a micro-batch.
            max_steps: steps of the whole run; the last one is `max_steps - 1`.
            first_step: step to begin with, which is where a run resumes.
            first_example: index of the first example of step 0.
            rank: this process's place among those that share the data.
            world_size: number of processes that share the data.
            pack: let short examples share a row.
            sequence_length: tokens of a packed row.
            seed: seed of the generators handed to `prepare`, 0 or more.
            n_workers: processes that prepare batches; 0 prepares them in this one.
            on_bad_example: `"raise"`, or `"skip"`: leave it out and say so in `StepBatch.bad`.
            pin_memory: page-locked batches, which copy to a CUDA device without waiting.

        Raises:
            OLMoConfigurationError: a number out of range, or `pack` without a `sequence_length`.
        """
        least = {"batch_size": world_size, "micro_batch_size": 1, "world_size": 1}
        _check_least({"batch_size": batch_size, "micro_batch_size": micro_batch_size, "world_size": world_size}, least)
        starts = {"first_step": first_step, "first_example": first_example, "seed": seed, "n_workers": n_workers}
        _check_least(starts, dict.fromkeys(starts, 0))
        if not 0 <= rank < world_size:
            raise OLMoConfigurationError(f"must be 0 to {world_size - 1}, got {rank}", "rank")
        if pack and (sequence_length is None or sequence_length < 1):
            raise OLMoConfigurationError(
                f"packing needs a length of at least 1, got {sequence_length}", "sequence_length"
            )
        self.batch_size, self.first_example = batch_size, first_example
        self.first_step, self.max_steps = first_step, max_steps
        self.rank, self.world_size = rank, world_size
        self.n_workers, self.pin_memory = n_workers, pin_memory
        try:
            self.on_bad_example = OnBadExample.parse(on_bad_example)
        except OLMoConfigurationError as error:
            raise error.under("on_bad_example") from None
        self.task_size = EXAMPLES_PER_TASK
        if not pack:  # whole micro-batches, so that cutting a step into tasks makes no small ones
            self.task_size = max(1, EXAMPLES_PER_TASK // micro_batch_size) * micro_batch_size
        self._tasks = _TaskDataset(stream, prepare, collate, micro_batch_size, sequence_length if pack else None, seed)

    def __iter__(self) -> Iterator[StepBatch]:
        """The steps still to be taken.

        Raises:
            OLMoInputError: an example cannot be used and the policy is `"raise"`, or no example of a step can be used.
        """
        results = self._results()
        for step in range(self.first_step, self.max_steps):
            since = time.perf_counter()
            n_tasks = -(-len(self.share(step)) // self.task_size)
            done = list(islice(results, n_tasks))
            bad = [message for result in done for message in result.bad]
            if bad and self.on_bad_example is OnBadExample.stop:
                raise OLMoInputError(_bad_examples(step, bad))
            if not any(result.micro_batches for result in done):
                done = [self._stand_in(step, bad)]
            batches = [self._owned(batch) for result in done for batch in result.micro_batches]
            n_examples = sum(result.n_examples for result in done)
            yield StepBatch(step, batches, time.perf_counter() - since, n_examples, bad)

    def share(self, step: int) -> range:
        """Stream indices of the examples that this rank takes in a step."""
        first = self.first_example + step * self.batch_size
        return range(first + self.rank, first + self.batch_size, self.world_size)

    def _requests(self) -> Iterator[range]:
        for step in range(self.first_step, self.max_steps):
            share = self.share(step)
            yield from (share[start : start + self.task_size] for start in range(0, len(share), self.task_size))

    def _results(self) -> Iterator[_TaskResult]:
        if not self.n_workers:
            return (self._tasks[request] for request in self._requests())
        longest = min(self.task_size, len(self.share(0)))
        loader = DataLoader(
            self._tasks,
            batch_size=None,  # a task is a batch already
            sampler=_Lazily(self._requests),
            num_workers=self.n_workers,
            prefetch_factor=min(MOST_TASKS_AHEAD, max(2, EXAMPLES_AHEAD // longest)),
            collate_fn=_unchanged,
            worker_init_fn=_leave_signals_to_the_run,
        )
        return iter(loader)

    def _stand_in(self, step: int, bad: list[str]) -> _TaskResult:
        """The first usable example of the stream after a share that has none.

        A rank without a batch would be left behind by the others, which wait for its gradients.
        """
        last = self.share(step)[-1]
        for index in range(last + 1, last + 1 + N_STAND_INS):
            try:
                result = self._tasks[range(index, index + 1)]
            except IndexError:  # a stream that ends after all, such as a source handed in for evaluation
                break
            if result.micro_batches:
                return result
        raise OLMoInputError(f"no example of this step or after it can be used. {_bad_examples(step, bad)}")

    def _owned(self, batch: Batch) -> Batch:
        """Tensors in memory of this process. Those of a worker hold a file open each, of which there are only some."""
        if self.pin_memory:
            return {key: _each_tensor(value, torch.Tensor.pin_memory) for key, value in batch.items()}
        return (
            {key: _each_tensor(value, torch.Tensor.clone) for key, value in batch.items()} if self.n_workers else batch
        )


class _TaskResult(NamedTuple):
    """What a worker hands back for one task."""

    micro_batches: list[Batch]
    n_examples: int
    bad: list[str]


class _TaskDataset(Dataset[_TaskResult]):
    """Prepares, packs and collates the examples of a task, a range of stream indices."""

    def __init__(
        self,
        stream: ExampleStream,
        prepare: Callable[[Example, np.random.Generator], Example],
        collate: Callable[[Sequence[Any]], Batch],
        micro_batch_size: int,
        row_length: int | None,
        seed: int,
    ) -> None:
        self.stream, self.prepare, self.collate = stream, prepare, collate
        self.micro_batch_size, self.row_length, self.seed = micro_batch_size, row_length, seed

    def __getitem__(self, indices: range) -> _TaskResult:
        good: list[Example] = []
        bad: list[str] = []
        for index in indices:
            origin = f"example {index} of the stream"
            try:
                raw = self.stream[index]
                origin += _origin(raw)
                good.append(self.prepare(raw, np.random.default_rng([self.seed, index])))
            except (OLMoError, OSError) as error:
                bad.append(f"{origin}: {error}")
        rows: list[Any] = list(good)
        if self.row_length is not None:
            lengths = [len(example["input_ids"]) for example in good]
            rows = [[good[i] for i in row] for row in pack_lengths(lengths, self.row_length)]
        size = self.micro_batch_size
        batches = [self.collate(rows[start : start + size]) for start in range(0, len(rows), size)]
        return _TaskResult(batches, len(good), bad)


class _Lazily:
    """An iterable that begins anew each time: the order of a run's tasks, which no list should hold."""

    def __init__(self, begin: Callable[[], Iterator[range]]) -> None:
        self.begin = begin

    def __iter__(self) -> Iterator[range]:
        return self.begin()


def _unchanged(value: Any) -> Any:
    return value


def _leave_signals_to_the_run(worker: int) -> None:
    """Terminals and torchrun signal a whole group; the run then takes one more step and needs its workers for it."""
    del worker
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def _each_tensor(value: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    return change(value) if isinstance(value, torch.Tensor) else value


def _origin(example: Example) -> str:
    place = (example.get("metadata") or {}).get("place")
    return "" if place is None else f" ({place})"


def _bad_examples(step: int, bad: list[str]) -> str:
    shown = "; ".join(bad[:SHOWN_BAD]) + (f"; and {len(bad) - SHOWN_BAD} more" if len(bad) > SHOWN_BAD else "")
    return (
        f"step {step} has {len(bad)} example(s) that cannot be used: {shown}. Mend or remove them (`molmo data check` "
        "finds such rows), or go on without them with on_bad_example=skip"
    )


def _check_least(values: Mapping[str, int], least: Mapping[str, int]) -> None:
    for name, value in values.items():
        if value < least[name]:
            raise OLMoConfigurationError(f"must be at least {least[name]}, got {value}", name)
