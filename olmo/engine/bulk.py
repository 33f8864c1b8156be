"""Answers to many requests: prepared a window at a time, batched by length, handed back in the order asked.

Works with any `ModelBase`. Knows nothing of tasks, files or scores. Requests are prepared only a little ahead of the
model, because the crops of one large picture take some 17 MB and those of a whole benchmark would fill any memory.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch

from olmo.exceptions import OLMoInputError
from olmo.models.base import ModelBase

WINDOW_BATCHES = 4
"""Batches whose requests are prepared and sorted together. More means less padding and more memory."""

Inputs = dict[str, Any]
Prepare = Callable[[Mapping[str, Any]], Inputs]
Collate = Callable[[list[Inputs]], Inputs]
Respond = Callable[[ModelBase, Collate, list[Inputs]], list[str]]
"""The texts of one batch: model, what makes a batch, and prepared requests."""


@dataclass(frozen=True)
class BulkAnswer:
    """One answer, as soon as it is there.

    Attributes:
        index: place of the request among those given, from 0.
        text: what the model answered.
        image_sizes: (width, height) of each picture of the request, px.
        n_prompt_tokens: length of the prompt, pictures included.
        frame_seconds: times of the frames that were shown of each video, from the start of the part that was meant.
    """

    index: int
    text: str
    image_sizes: tuple[tuple[int, int], ...] = ()
    n_prompt_tokens: int = 0
    frame_seconds: tuple[tuple[float, ...], ...] = ()


def answer_all(
    model: ModelBase,
    examples: Iterable[Mapping[str, Any]],
    *,
    generation: Mapping[str, Any] | None = None,
    batch_size: int = 16,
    on_done: Callable[[BulkAnswer], None] | None = None,
    n_workers: int = 0,
    respond: Respond | None = None,
) -> list[str]:
    """Generate an answer to each request.

    With greedy decoding or beams the answers do not depend on how requests are batched. Drawn answers (`do_sample`)
    repeat only with the same seed, requests and batch size.

    Args:
        model: any model; it is in eval mode while it generates.
        examples: requests as a preprocessor takes them, or what one returned for them. Read once, a window at a time.
        generation: arguments of `model.generate`, such as `max_new_tokens`.
        batch_size: requests decoded together, at least 1. A batch that does not fit the device's memory is halved.
        on_done: is called with each answer when its batch is done, in no particular order.
        n_workers: threads that prepare the next window while the model works; 0 prepares in between.
        respond: makes the texts of a batch in another way than by generating them; `generation` is its own matter then.

    Returns:
        Texts in the order of `examples`.

    Raises:
        OLMoInputError: a batch size below 1, or a request that cannot be prepared; the message begins with the
            `place` in its `metadata`, or with its index.
    """
    if batch_size < 1:
        raise OLMoInputError(f"batch_size={batch_size} is out of range; allowed: 1 and up")
    if n_workers < 0:
        raise OLMoInputError(f"n_workers={n_workers} is out of range; allowed: 0 and up")
    prepare = model.config.build_preprocessor(for_inference=True)
    collate = model.config.build_collator(include_metadata=False)
    respond = respond or generated(generation or {})
    answers: dict[int, str] = {}
    for window in _windows(examples, prepare, batch_size * WINDOW_BATCHES, n_workers):
        # The longest first: a batch that does not fit shows at once, and the next ones need less.
        window.sort(key=lambda numbered: -len(numbered[1]["input_ids"]))
        for start in range(0, len(window), batch_size):
            batch = window[start : start + batch_size]
            texts = _respond(respond, model, collate, [inputs for _, inputs in batch])
            for (index, inputs), text in zip(batch, texts, strict=True):
                answers[index] = text
                if on_done is not None:
                    on_done(_answer(index, inputs, text))
    return [answers[i] for i in range(len(answers))]


def generated(generation: Mapping[str, Any]) -> Respond:
    """Texts that a model writes.

    Args:
        generation: arguments of `model.generate`.
    """
    options = dict(generation)

    def respond(model: ModelBase, collate: Collate, examples: list[Inputs]) -> list[str]:
        return model.generate(**on_device(collate(examples), model), **options).text

    return respond


def on_device(batch: Inputs, model: ModelBase) -> Inputs:
    """A batch where the model is."""
    return {name: value.to(model.device) for name, value in batch.items()}


def _respond(respond: Respond, model: ModelBase, collate: Collate, examples: list[Inputs]) -> list[str]:
    """Texts of one batch; halved where it does not fit the device's memory."""
    try:
        return respond(model, collate, examples)
    except torch.OutOfMemoryError:
        if len(examples) == 1:
            raise
    # Outside the handler, where the failed call's tensors are still held by the traceback.
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    middle = len(examples) // 2
    return [text for half in (examples[:middle], examples[middle:]) for text in _respond(respond, model, collate, half)]


def _windows(
    examples: Iterable[Mapping[str, Any]], prepare: Prepare, size: int, n_workers: int
) -> Iterator[list[tuple[int, Inputs]]]:
    """Numbered, prepared requests, `size` at a time."""
    numbered = enumerate(examples)
    if n_workers == 0:
        while chunk := list(islice(numbered, size)):
            yield [(i, _prepared(prepare, i, example)) for i, example in chunk]
        return
    pool = ThreadPoolExecutor(n_workers)

    def begin() -> list[tuple[int, Future[Inputs]]]:
        return [(i, pool.submit(_prepared, prepare, i, example)) for i, example in islice(numbered, size)]

    try:
        ahead = begin()
        while ahead:
            current, ahead = ahead, begin()
            yield [(i, future.result()) for i, future in current]
    finally:
        pool.shutdown(cancel_futures=True)


def _prepared(prepare: Prepare, index: int, example: Mapping[str, Any]) -> Inputs:
    if isinstance(example.get("input_ids"), torch.Tensor):
        return dict(example)
    try:
        return prepare(example)
    except OLMoInputError as error:
        place = (example.get("metadata") or {}).get("place", f"request {index}")
        raise OLMoInputError(f"{place}: {error}") from None


def _answer(index: int, inputs: Inputs, text: str) -> BulkAnswer:
    metadata = inputs.get("metadata", {})
    sizes = tuple((int(w), int(h)) for w, h in metadata.get("image_sizes", ()))
    seconds = tuple(tuple(times) for times in metadata.get("frame_seconds", ()))
    return BulkAnswer(index, text, sizes, len(inputs["input_ids"]), seconds)
