"""Answers that are held to JSON: a hook on the logits forbids every token that cannot go on to a valid document.

The work is llguidance's, which walks a grammar over the bytes of tokens.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import llguidance
import numpy as np
import torch

from olmo.exceptions import OLMoInputError
from olmo.generation.step import LogitsProcessor
from olmo.serve.errors import ApiError, too_large
from olmo.serve.protocol import ChatRequest, JsonSchemaFormat, TextFormat
from olmo.tokenizer import Tokenizer

_ANY_OBJECT: dict[str, Any] = {"type": "object"}
_COMPACT: Any = {"whitespace_flexible": False}
"""No blanks between tokens of JSON: a model that is unsure could write them for ever."""


class Constrainer:
    """Makes hooks for one tokenizer.

    Args:
        tokenizer: of the model.
        max_schema_bytes: largest schema that is taken.
    """

    def __init__(self, tokenizer: Tokenizer, max_schema_bytes: int) -> None:
        self._tokenizer, self._max_schema_bytes = tokenizer, max_schema_bytes

    def hooks(self, request: ChatRequest) -> Callable[[], Sequence[LogitsProcessor]] | None:
        """What `Question.hooks` is for a request; None where any answer will do. Compiling may take a while.

        Raises:
            ApiError: 400: the schema cannot be followed; 413: it is too large.
        """
        wanted = request.response_format
        if wanted is None or isinstance(wanted, TextFormat):
            return None
        schema = wanted.json_schema.schema_ if isinstance(wanted, JsonSchemaFormat) else _ANY_OBJECT
        text = json.dumps(schema)
        if len(text) > self._max_schema_bytes:
            raise too_large(
                f"the schema has {len(text):,} bytes, over the limit of {self._max_schema_bytes:,}",
                "schema_too_large",
                "response_format",
            )
        try:
            grammar = llguidance.LLMatcher.grammar_from_json_schema(text, overrides=_COMPACT)
        except ValueError as error:
            raise _bad_schema(str(error)) from None
        is_wrong, messages = llguidance.LLMatcher.validate_grammar_with_warnings(grammar, self._tokens)
        if is_wrong:
            raise _bad_schema(messages[0])
        return lambda: [_Hook(llguidance.LLMatcher(self._tokens, grammar))]

    @cached_property
    def _tokens(self) -> llguidance.LLTokenizer:
        wrapper = llguidance.TokenizerWrapper(_Vocabulary(self._tokenizer))
        return llguidance.LLTokenizer(wrapper, n_vocab=self._tokenizer.vocab_size)


class _Hook:
    """Forbids tokens of one answer.

    Args:
        matcher: of this answer alone.
    """

    def __init__(self, matcher: llguidance.LLMatcher) -> None:
        self._matcher, self._n_seen = matcher, 0

    def __call__(self, ids: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
        """Ids `[1, S]` so far, logits `[1, V]`."""
        self._matcher.consume_tokens(ids[0, self._n_seen :].tolist())
        self._n_seen = ids.shape[1]
        if self._matcher.is_error():
            raise OLMoInputError(f"the answer cannot be held to its schema: {self._matcher.get_error()[:200]}")
        bits = np.unpackbits(np.frombuffer(self._matcher.compute_bitmask(), np.uint8), bitorder="little")
        allowed = torch.zeros(logits.shape[1], dtype=torch.bool)
        n = min(len(bits), len(allowed))
        allowed[:n] = torch.from_numpy(bits[:n].astype(bool))
        return logits.masked_fill(~allowed.to(logits.device), -torch.inf)


class _Vocabulary:
    """A tokenizer as llguidance asks for one."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.eos_token_id, self.bos_token_id = tokenizer.eos_token_id, None
        self.tokens = [tokenizer.token_bytes(i) for i in range(tokenizer.vocab_size)]
        self.special_token_ids = [i for i, data in enumerate(self.tokens) if not data]
        self._tokenizer = tokenizer

    def __call__(self, text: str) -> list[int]:
        return self._tokenizer.encode(text)


def _bad_schema(reason: str) -> ApiError:
    return ApiError(
        400, f"the schema cannot be followed: {reason[:300]}", code="invalid_schema", param="response_format"
    )
