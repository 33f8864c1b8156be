"""Asks a model the questions of a source, a window of rows at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from olmo.config import ConfigEnum
from olmo.data.source import Source
from olmo.engine.bulk import BulkAnswer, answer_all, generated
from olmo.engine.choosing import likeliest_letters
from olmo.eval.items import Item, items_of
from olmo.eval.tasks import EvalTask
from olmo.models.base import ModelBase


class ChooseBy(ConfigEnum):
    """How a model answers a question with options."""

    text = "text"
    likelihood = "likelihood"


@dataclass(frozen=True, kw_only=True)
class AskingOptions:
    """How questions are put to a model; none of it but `choose_by` changes greedy answers.

    Attributes:
        batch_size: questions decoded together.
        n_workers: threads that prepare pictures while the model works.
        generation: arguments of `generate` besides `max_new_tokens`, which the task decides.
        choose_by: `text`: what the model writes counts, also where there are options; `likelihood`: there, the letter
            that it holds for the likeliest beginning of an answer.
    """

    batch_size: int = 16
    n_workers: int = 0
    generation: Mapping[str, Any] | None = None
    choose_by: ChooseBy = ChooseBy.text


def ask(
    model: ModelBase,
    task: EvalTask,
    source: Source,
    options: AskingOptions,
    on_done: Callable[[Item, str], None],
    is_wanted: Callable[[int, int | None], bool] = lambda row, question: True,
) -> None:
    """Put the questions of a task to a model.

    Args:
        model: any model.
        task: how to ask, and about how many rows.
        source: the opened data of the task.
        options: batch size and the like.
        on_done: is called with each question and its answer, in no particular order; the reference knows the size of
            the picture by then.
        is_wanted: whether to ask about a row at all (question None), and whether to ask one of its questions.

    Raises:
        OLMoInputError: a row that cannot be read or prepared; the message says where it is.
    """
    waiting: dict[int, Item] = {}

    def requests() -> Iterator[dict[str, Any]]:
        n_asked = 0
        for row in range(task.n_rows(source)):
            if not is_wanted(row, None):
                continue
            for item in items_of(source.at(row), row, task.style, source.place(row)):
                if is_wanted(row, item.question):
                    # The pictures go with the request, so that they can be let go of when it is done.
                    waiting[n_asked] = replace(item, request={})
                    n_asked += 1
                    yield item.request

    def take(answer: BulkAnswer) -> None:
        item = waiting.pop(answer.index)
        size = answer.image_sizes[0] if answer.image_sizes else None
        seen = replace(item, reference=item.reference.seen_at(size), frame_seconds=answer.frame_seconds)
        on_done(seen, answer.text)

    generation = {"max_new_tokens": task.answer_tokens(), **(options.generation or {})}
    by_likelihood = options.choose_by is ChooseBy.likelihood
    answer_all(
        model,
        requests(),
        generation=generation,
        batch_size=options.batch_size,
        on_done=take,
        n_workers=options.n_workers,
        respond=likeliest_letters(generated(generation)) if by_likelihood else None,
    )
