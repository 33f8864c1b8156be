"""Continuous batching: one model, many callers. A request joins the running rows after its prompt, leaves at its end.

The engine has a thread of its own, which alone touches the model. Callers hand in prepared inputs and are told of new
text by a callback. An answer is the one that `generate` gives for the request alone; greedy answers are equal token by
token in float32, drawn ones with the same seed.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch

from olmo.engine.fair_queue import FairQueue
from olmo.engine.request import Finish, Piece, Question, Tell, Ticket
from olmo.engine.row import Row
from olmo.engine.running_rows import RunningRows
from olmo.exceptions import OLMoError, OLMoInputError
from olmo.models.base import ModelBase
from olmo.models.generate import prefill
from olmo.models.generation_request import Request, read_request
from olmo.models.text_inputs import text_inputs

_TEXT = ("input_ids", "attention_mask", "position_ids", "subsegment_ids")
_IDLE_S = 0.5
"""Longest sleep of the thread, after which it looks for requests that were given up while they waited."""


class QueueFullError(OLMoError):
    """More requests wait than the engine takes in; try again later."""


class EngineStoppedError(OLMoError):
    """The engine takes no more requests: it was closed, or its thread failed."""


@dataclass
class _Taken:
    """A request that was taken in, and where its answers go."""

    question: Question
    request: Request
    ticket: Ticket
    tell: Tell
    deadline: float | None
    is_over: bool = False

    def ended(self) -> Finish | None:
        """Why it should not go on, or None."""
        if self.ticket.is_cancelled:
            return Finish.cancelled
        if self.deadline is not None and time.monotonic() > self.deadline:
            return Finish.timeout
        return None

    def end(self, finish: Finish, error: BaseException | None = None) -> None:
        """Tell that none of its answers goes on; once is enough."""
        if self.is_over:
            return
        self.is_over = True
        for choice in range(self.question.n):
            self.tell(Piece(choice, finish=finish, error=error))


@dataclass
class EngineCounts:
    """What an engine has done since it was made."""

    n_requests: int = 0
    n_finished: int = 0
    n_prompt_tokens: int = 0
    n_new_tokens: int = 0
    n_steps: int = 0
    finishes: dict[str, int] = field(default_factory=dict)


class ContinuousEngine:
    """Answers requests as they come.

    Args:
        model: any model; the engine puts it into eval mode, and nobody else may use it while the engine runs.
        max_rows: answers that are decoded together, at least 1.
        max_waiting: requests that may wait, at least 1.
        max_prefill_rows: prompts that are run together before the running rows take their next step, at least 1.

    Raises:
        OLMoInputError: a limit below 1.
    """

    def __init__(
        self, model: ModelBase, *, max_rows: int = 16, max_waiting: int = 64, max_prefill_rows: int = 4
    ) -> None:
        limits = {"max_rows": max_rows, "max_waiting": max_waiting, "max_prefill_rows": max_prefill_rows}
        for name, limit in limits.items():
            if limit < 1:
                raise OLMoInputError(f"{name}={limit} is out of range; allowed: 1 and up")
        self.model = model.eval()
        self.max_rows, self.max_waiting, self.max_prefill_rows = max_rows, max_waiting, max_prefill_rows
        self.counts = EngineCounts()
        self._collate = model.config.build_collator(include_metadata=False)
        self._waiting: FairQueue[_Taken] = FairQueue()
        self._starting: list[_Taken] = []  # neither waiting nor running: their prompts are being run
        self._rows: list[tuple[_Taken, Row]] = []
        self._running = RunningRows(model.llm)
        self._news = threading.Condition()
        self._closes = self._drains = False
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="olmo-engine", daemon=True)
        self._thread.start()

    # -- for callers -------------------------------------------------------------------------------------------------

    @property
    def n_waiting(self) -> int:
        """Requests that wait for their prompt to be run."""
        with self._news:
            return len(self._waiting)

    @property
    def n_running(self) -> int:
        """Answers that are being decoded."""
        return len(self._rows)

    @property
    def is_alive(self) -> bool:
        """Whether requests are taken in."""
        return self._failure is None and not self._closes and self._thread.is_alive()

    def submit(self, question: Question, tell: Tell) -> Ticket:
        """Take a request in.

        Args:
            question: the request.
            tell: is called from the engine's thread with each piece of its answers; the last of each has a `finish`.

        Returns:
            What the request can be given up with.

        Raises:
            OLMoInputError: the request cannot be answered as it is.
            QueueFullError: too many wait.
            EngineStoppedError: nothing is taken in any more.
        """
        request = self._checked(question)
        length = int(self.model.lengths_after_choice(request.text, request.pictures).max())
        ticket = Ticket(length)
        deadline = None if question.timeout_s is None else time.monotonic() + question.timeout_s
        taken = _Taken(question, request, ticket, tell, deadline)
        with self._news:
            if self._failure is not None:
                raise EngineStoppedError(f"the engine stopped: {self._failure}")
            if self._closes or self._drains:
                raise EngineStoppedError("the engine is being closed and takes no more requests")
            if len(self._waiting) >= self.max_waiting:
                raise QueueFullError(f"{len(self._waiting)} requests wait already, which is the limit; try again later")
            self._waiting.put(question.client, taken)
            self.counts.n_requests += 1
            self._news.notify()
        return ticket

    def close(self, drain: bool = False, timeout_s: float | None = None) -> None:
        """Stop the thread.

        Args:
            drain: answer what was taken in first; otherwise it ends with `Finish.cancelled`.
            timeout_s: seconds to wait for that at most; what is left then is cancelled.
        """
        with self._news:
            self._drains = True
            self._closes = self._closes or not drain
            self._news.notify()
        self._thread.join(timeout_s)
        with self._news:
            self._closes = True
            self._news.notify()
        self._thread.join()

    def __enter__(self) -> ContinuousEngine:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _checked(self, question: Question) -> Request:
        if question.n < 1 or question.n > self.max_rows:
            raise OLMoInputError(f"n={question.n} is out of range; allowed: 1 to {self.max_rows}")
        tensors = {k: v for k, v in question.inputs.items() if isinstance(v, torch.Tensor)}
        ids = tensors.pop("input_ids")
        request = read_request(self.model, ids, {**tensors, **question.options})
        if len(request.text.input_ids) != 1:
            raise OLMoInputError(f"a request is one example, got a batch of {len(request.text.input_ids)}")
        if request.params.num_beams > 1:
            raise OLMoInputError(f"num_beams={request.params.num_beams}: requests are answered without beams; use 1")
        return request

    # -- the thread ----------------------------------------------------------------------------------------------------

    @torch.no_grad()
    def _run(self) -> None:
        try:
            while self._wait():
                self._leave_early()
                for group in self._next_prompts():
                    self._begin(group)
                self._starting = []
                if self._rows:
                    self._step()
        except BaseException as error:
            self._failure = error
        finally:
            finish = Finish.cancelled if self._failure is None else Finish.error
            with self._news:
                self._closes = True
                left = [taken for taken, _ in self._rows] + self._starting + self._waiting.remove(lambda _: True)
            for taken in dict.fromkeys(map(_ById, left)):
                with contextlib.suppress(Exception):
                    taken.item.end(finish, self._failure)
            self._rows = []

    def _wait(self) -> bool:
        """Sleep until there is work; False when it is time to go."""
        with self._news:
            while not self._closes:
                if self._rows or len(self._waiting):
                    return True
                if self._drains:
                    return False
                self._news.wait(_IDLE_S)
        return False

    def _leave_early(self) -> None:
        """Let go of what was cancelled or is too late, waiting or running."""
        with self._news:
            gone = self._waiting.remove(lambda taken: taken.ended() is not None)
        for taken in gone:
            finish = taken.ended()
            assert finish is not None, "it was taken out for that"
            self._count(finish, taken.question.n)
            taken.end(finish)
        for taken, row in self._rows:
            finish = taken.ended()
            if finish is not None and row.finish is None:
                row.end(finish)
        self._let_finished_go()

    def _next_prompts(self) -> Iterator[list[_Taken]]:
        """Requests that have room among the rows, in groups that can be run together."""
        n_free, taken_in = self.max_rows - len(self._rows), list[_Taken]()
        with self._news:
            while len(self._waiting) and len(taken_in) < self.max_prefill_rows:
                taken = self._waiting.take()
                if taken.question.n > n_free:
                    self._waiting.put_back(taken.question.client, taken)
                    break
                n_free -= taken.question.n
                taken_in.append(taken)
            self._starting = taken_in
        groups: dict[Any, list[_Taken]] = {}
        for taken in taken_in:
            settings = {k: v for k, v in taken.request.pictures.items() if k in self.model.choice_arguments}
            groups.setdefault(repr(sorted(settings.items())), []).append(taken)
        yield from groups.values()

    def _begin(self, group: list[_Taken]) -> None:
        """Run the prompts of some requests; where that fails, each alone, so that only the guilty one fails."""
        try:
            step, logits = self._prefilled(group)
        except Exception as error:
            if len(group) > 1:
                for taken in group:
                    self._begin([taken])
                return
            self._count(Finish.error, group[0].question.n)
            group[0].end(Finish.error, error)
            return
        for i, taken in enumerate(group):
            if taken.question.on_prompt is not None:
                taken.question.on_prompt(step.aux or {}, i)
        repeats = [i for i, taken in enumerate(group) for _ in range(taken.question.n)]
        if repeats != list(range(len(group))):
            step.reorder(torch.tensor(repeats, device=logits.device))
            logits = logits[repeats]
        self._running.join(step)
        started = [(taken, self._row(taken, choice)) for taken in group for choice in range(taken.question.n)]
        self._rows += started
        for (_, row), row_logits in zip(started, logits.split(1), strict=True):
            row.choose(row_logits)
        self.counts.n_prompt_tokens += sum(taken.ticket.n_prompt_tokens for taken in group)
        self._let_finished_go()

    def _prefilled(self, group: list[_Taken]) -> Any:
        batch = self._collate([_tensors(taken.question.inputs) for taken in group])
        batch = {name: value.to(self.model.device) for name, value in batch.items()}
        text = text_inputs(
            batch["input_ids"], self.model.config.llm, device=self.model.device,
            **{k: batch.get(k) for k in _TEXT[1:]},
        )  # fmt: skip
        first = group[0].request.pictures
        settings = {k: v for k, v in first.items() if k in self.model.choice_arguments}
        shown = {"images", "image_masks", "image_input_idx", *self.model.crop_arguments}
        return prefill(self.model, text, 1, **{k: v for k, v in batch.items() if k in shown}, **settings)

    def _row(self, taken: _Taken, choice: int) -> Row:
        question, request = taken.question, taken.request
        hooks = [*request.logits_processors, *(question.hooks() if question.hooks is not None else ())]
        generator = request.generator
        if isinstance(generator, torch.Generator) and question.n > 1:  # answers of one request differ, by its seed
            generator = torch.Generator().manual_seed(generator.initial_seed() + choice)
        return Row(
            self.model.tokenizer, replace(request, generator=generator), hooks, choice, taken.tell,
            question.n_top_log_probs,
        )  # fmt: skip

    def _step(self) -> None:
        """One token for every row."""
        token_ids = torch.tensor([row.last_token for _, row in self._rows], device=self.model.device)
        logits = self._running(token_ids)
        plain = logits.argmax(dim=-1).tolist() if any(row.is_plain for _, row in self._rows) else []
        for i, (_, row) in enumerate(self._rows):
            if row.is_plain:
                row.take(plain[i])
            else:
                row.choose(logits[i : i + 1])
        self.counts.n_steps += 1
        self._let_finished_go()

    def _let_finished_go(self) -> None:
        stays = [i for i, (_, row) in enumerate(self._rows) if row.finish is None]
        if len(stays) == len(self._rows):
            return
        for _, row in self._rows:
            if row.finish is not None:
                self._count(row.finish, 1)
                self.counts.n_new_tokens += len(row.ids)
        self._rows = [self._rows[i] for i in stays]
        self._running.keep(stays)

    def _count(self, finish: Finish, n: int) -> None:
        self.counts.n_finished += n
        self.counts.finishes[finish.value] = self.counts.finishes.get(finish.value, 0) + n


@dataclass(frozen=True)
class _ById:
    """A request as a key: two are the same only where they are one."""

    item: _Taken

    def __hash__(self) -> int:
        return id(self.item)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _ById) and self.item is other.item


def _tensors(inputs: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in inputs.items() if isinstance(value, torch.Tensor)}
