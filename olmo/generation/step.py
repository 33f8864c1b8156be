"""What generation asks of a model, and what it hands back.

A model is seen only as a step: tokens in, logits of the next token out. Its cache, its pictures and its device
placement stay on the other side. Legend: B rows, S generated tokens, L prompt tokens, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import torch
from torch import Tensor

from olmo.exceptions import OLMoInputError
from olmo.generation.params import GenerationParams

LogitsProcessor: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A user's hook: (generated ids [B, S] int64, logits [B, V]) -> logits [B, V]. -inf forbids a token."""

StopCheck: TypeAlias = Callable[[int, list[int]], bool]
"""(row of the batch, its generated ids so far) -> whether the row ends here. Called once for each new token."""


class DecodeStep(Protocol):
    """A model with a cache, ready to go on after its prompt."""

    def __call__(self, token_ids: Tensor) -> Tensor:
        """Append one token to each row of the cache.

        Args:
            token_ids: int64 [B]. Rows that have ended get the pad id, which may be -1.

        Returns:
            Logits of the next token, float [B, V].
        """
        ...

    def reorder(self, rows: Tensor) -> None:
        """Make new cache row i a copy of old row `rows[i]`.

        Args:
            rows: int64 [B'], B' may differ from B.
        """
        ...


@dataclass(frozen=True)
class GeneratedTokens:
    """The outcome of a generation.

    Attributes:
        token_ids: int64 [B, S], new tokens only, filled with the pad id after a row's end.
        scores: float32, log-probabilities [B, S] (0 after a row's end); from beam search the sequence score [B];
            None unless asked for.
    """

    token_ids: Tensor
    scores: Tensor | None = None


def check_start(
    first_logits: Tensor, params: GenerationParams, prompt_ids: Tensor | None, is_stopped: StopCheck | None
) -> None:
    """Check what a decoding loop is started with, once.

    Args:
        first_logits: float [B, V], logits after the prompt.
        params: the settings.
        prompt_ids: int64 [B, L], or None.
        is_stopped: the callback, or None.

    Raises:
        OLMoInputError: a wrong shape, an end id outside the vocabulary, stop strings that nothing looks for, or logits
            that are not numbers.
    """
    if first_logits.dim() != 2 or 0 in first_logits.shape:
        raise OLMoInputError(f"first logits have shape {list(first_logits.shape)}, wanted [rows, vocabulary].")
    n_rows, vocab_size = first_logits.shape
    if prompt_ids is not None and (prompt_ids.dim() != 2 or prompt_ids.shape[0] != n_rows):
        raise OLMoInputError(
            f"prompt ids have shape {list(prompt_ids.shape)}, wanted [{n_rows}, length], as many rows as the logits."
        )
    outside = [i for i in params.eos_token_ids if i >= vocab_size]
    if outside:
        raise OLMoInputError(
            f"eos_token_ids {outside} can never be generated: the model's ids go from 0 to {vocab_size - 1}. "
            "Take the ids from this model's own tokenizer."
        )
    if params.stop_strings and is_stopped is None:
        raise OLMoInputError(
            f"stop_strings={params.stop_strings} need a tokenizer, which decoding does not know: pass "
            "is_stopped=StopStringMatcher(stop_strings, decode)."
        )
    if torch.isnan(first_logits).any():
        raise OLMoInputError(
            "the model's logits after the prompt are NaN. Usual causes: float16 overflow (use bfloat16 or float32), "
            "or damaged weights or pixels."
        )
