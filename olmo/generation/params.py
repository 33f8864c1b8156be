"""The settings of one generation call, checked at the door.

Knows nothing of models or tokenizers: ids are plain numbers here. Defaults are those of `generate` in the product
documents.
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Sequence
from dataclasses import dataclass

from olmo.exceptions import OLMoInputError

MOST_GUESSES = 64


@dataclass(frozen=True, kw_only=True)
class GenerationParams:
    """What to generate and when to stop.

    Raises:
        OLMoInputError: a value is outside its range, or two values contradict each other.
    """

    max_new_tokens: int = 200
    """Most tokens to generate per row, at least 1."""

    min_new_tokens: int = 0
    """No end id before this many tokens, 0 to max_new_tokens. A stop string ends a row at any time."""

    do_sample: bool = False
    """Draw tokens at random; otherwise take the likeliest."""

    temperature: float = 1.0
    """Divides the logits before drawing, at least 0. 0 means the likeliest token. Read when do_sample is on."""

    top_p: float = 1.0
    """Draw from the smallest set of tokens whose probability reaches this, in (0, 1]. Read when do_sample is on."""

    top_k: int | None = None
    """Draw from the k likeliest tokens, at least 1; None: from all. Read when do_sample is on."""

    num_beams: int = 1
    """Beams of the search, at least 1. More than 1 excludes do_sample."""

    eos_token_ids: tuple[int, ...] = ()
    """Ids that end a row; the end id is part of the output. An int or any sequence is taken too."""

    pad_token_id: int | None = None
    """Fills a row after its end, at least -1. None: the first end id, or 0 where there is none."""

    stop_strings: tuple[str, ...] = ()
    """Texts that end a row. A single string or any sequence is taken too."""

    repetition_penalty: float = 1.0
    """Above 1 makes tokens of the prompt and the output less likely, below 1 more likely; above 0, 1 is off."""

    length_penalty: float = 1.0
    """Beam search divides a log-probability by length ** length_penalty; -10 to 10. Above 0 favours long sequences."""

    output_scores: bool = False
    """Return log-probabilities."""

    prompt_lookup: int = 0
    """Guess so many tokens ahead from the text so far and let the model read them in one pass; the answer stays the
    same. For one row, 0 to 64; 0 is off. It pays where answers repeat parts of the prompt or of themselves."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "eos_token_ids", as_token_ids(self.eos_token_ids))
        strings = (self.stop_strings,) if isinstance(self.stop_strings, str) else tuple(self.stop_strings or ())
        object.__setattr__(self, "stop_strings", strings)
        self._check_lengths()
        self._check_sampling()
        self._check_ends()
        self._check_guesses()
        _check_number("repetition_penalty", self.repetition_penalty, "a number above 0; 1.0 switches it off")
        if self.repetition_penalty <= 0:
            raise _wrong("repetition_penalty", self.repetition_penalty, "a number above 0; 1.0 switches it off")
        _check_number("length_penalty", self.length_penalty, "a number from -10 to 10; 0.0 switches it off")
        if abs(self.length_penalty) > 10:
            raise _wrong("length_penalty", self.length_penalty, "a number from -10 to 10; 0.0 switches it off")

    def _check_guesses(self) -> None:
        allowed = f"a whole number from 0, which is off, to {MOST_GUESSES}"
        _check_count("prompt_lookup", self.prompt_lookup, 0, allowed)
        if self.prompt_lookup > MOST_GUESSES:
            raise _wrong("prompt_lookup", self.prompt_lookup, allowed)
        if self.prompt_lookup and self.num_beams > 1:
            raise OLMoInputError(
                f"prompt_lookup={self.prompt_lookup} with num_beams={self.num_beams}: guesses are for a single "
                "sequence. Leave out one of the two."
            )

    def _check_lengths(self) -> None:
        _check_count("max_new_tokens", self.max_new_tokens, 1, "a whole number of at least 1")
        allowed = f"a whole number from 0 to max_new_tokens={self.max_new_tokens}"
        _check_count("min_new_tokens", self.min_new_tokens, 0, allowed)
        if self.min_new_tokens > self.max_new_tokens:
            raise _wrong("min_new_tokens", self.min_new_tokens, allowed)

    def _check_sampling(self) -> None:
        _check_number("temperature", self.temperature, "a number of at least 0; 0 takes the likeliest token")
        if self.temperature < 0:
            raise _wrong("temperature", self.temperature, "a number of at least 0; 0 takes the likeliest token")
        _check_number("top_p", self.top_p, "a number in (0, 1]; 1.0 switches it off")
        if not 0 < self.top_p <= 1:
            raise _wrong("top_p", self.top_p, "a number in (0, 1]; 1.0 switches it off")
        if self.top_k is not None:
            _check_count("top_k", self.top_k, 1, "a whole number of at least 1, or None to switch it off")
        _check_count("num_beams", self.num_beams, 1, "a whole number of at least 1")
        if self.num_beams > 1 and self.do_sample:
            raise OLMoInputError(
                f"num_beams={self.num_beams} with do_sample=True: beam search takes the likeliest sequences and does "
                "not draw at random. Set do_sample=False for beams, or num_beams=1 for sampling."
            )

    def _check_ends(self) -> None:
        for token_id in self.eos_token_ids:
            _check_count("eos_token_ids", token_id, 0, "token ids of at least 0")
        if self.pad_token_id is not None:
            _check_count("pad_token_id", self.pad_token_id, -1, "a token id of at least 0, -1 for a filler, or None")
        for text in self.stop_strings:
            if not isinstance(text, str) or not text:
                raise _wrong("stop_strings", text, "strings of at least one character")

    @property
    def is_greedy(self) -> bool:
        """Whether each token is the likeliest one, so that no random number is needed."""
        return not self.do_sample or self.temperature == 0 or self.top_k == 1

    @property
    def fill_id(self) -> int:
        """The id that fills a row after its end."""
        if self.pad_token_id is not None:
            return self.pad_token_id
        return self.eos_token_ids[0] if self.eos_token_ids else 0


def as_token_ids(value: int | Sequence[int] | None) -> tuple[int, ...]:
    """One id, several or none, as the documented `eos_token_id` argument takes them, as a tuple without repeats."""
    if value is None:
        return ()
    ids = (value,) if isinstance(value, numbers.Integral) else value
    if isinstance(ids, str) or not hasattr(ids, "__iter__"):
        raise _wrong("eos_token_ids", value, "a token id, a sequence of token ids, or None")
    return tuple(dict.fromkeys(ids))


def _check_count(name: str, value: object, lowest: int, allowed: str) -> None:
    if not isinstance(value, numbers.Integral) or isinstance(value, bool) or value < lowest:
        raise _wrong(name, value, allowed)


def _check_number(name: str, value: object, allowed: str) -> None:
    if not isinstance(value, numbers.Real) or isinstance(value, bool) or not math.isfinite(value):
        raise _wrong(name, value, allowed)


def _wrong(name: str, value: object, allowed: str) -> OLMoInputError:
    return OLMoInputError(f"{name} is {value!r}, allowed: {allowed}.")
