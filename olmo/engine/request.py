"""What is asked of the continuous engine, and what it tells while it answers."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from olmo.config import ConfigEnum
from olmo.generation.step import LogitsProcessor


class Finish(ConfigEnum):
    """Why an answer ended."""

    stop = "stop"
    length = "length"
    cancelled = "cancelled"
    timeout = "timeout"
    error = "error"


@dataclass(frozen=True)
class Piece:
    """Something new about one answer of a request.

    Attributes:
        choice: number of the answer, below `n`.
        text: new text, whole characters; may be empty.
        token_id: the token that was chosen; None at the end of the text.
        log_prob: of that token under the model's own distribution, where asked for.
        top_log_probs: the likeliest tokens and their log-probabilities, where asked for.
        finish: why this answer ended; None while it goes on.
        error: what went wrong, for `Finish.error`.
    """

    choice: int
    text: str = ""
    token_id: int | None = None
    log_prob: float | None = None
    top_log_probs: tuple[tuple[int, float], ...] = ()
    finish: Finish | None = None
    error: BaseException | None = None


Tell = Callable[[Piece], None]
"""Is called from the engine's thread with each piece, in order. It must not block."""

Hear = Callable[[Mapping[str, torch.Tensor], int], None]
"""Is called from the engine's thread before the first piece, with `aux` of the prompts that were run together and the
row of this one. It must neither block nor fail."""


@dataclass(frozen=True)
class Question:
    """A request as it is handed in.

    Attributes:
        inputs: what the model's preprocessor returned for it.
        options: arguments of `generate`: `max_new_tokens`, `temperature`, `stop_strings`, `selection_ratio` and so on.
            Beams are not decoded here.
        n: answers to give.
        n_top_log_probs: likeliest tokens to tell of with each token; None: no log-probabilities at all.
        hooks: makes the logits hooks of one answer, where there are any: each answer has its own.
        client: whose request it is; clients take turns.
        timeout_s: seconds from handing it in until it is given up; None: never.
        on_prompt: is told what the model says of its choice among the pictures; None: nobody asks.
    """

    inputs: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    n: int = 1
    n_top_log_probs: int | None = None
    hooks: Callable[[], Sequence[LogitsProcessor]] | None = None
    client: str = ""
    timeout_s: float | None = None
    on_prompt: Hear | None = None


class Ticket:
    """A request that was taken in."""

    def __init__(self, n_prompt_tokens: int) -> None:
        self.n_prompt_tokens = n_prompt_tokens
        self._is_cancelled = threading.Event()

    @property
    def is_cancelled(self) -> bool:
        """Whether nobody waits for the answer any more."""
        return self._is_cancelled.is_set()

    def cancel(self) -> None:
        """Give the request up, waiting or running. Its answers end with `Finish.cancelled`; later calls do nothing."""
        self._is_cancelled.set()
