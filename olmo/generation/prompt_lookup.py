"""Decoding with guesses from the text so far: several tokens in one pass of the model, and the same answer.

Where the last few tokens have stood before, in the prompt or in the answer, what followed them there is likely to
follow again. The model reads such a guess in one pass; as long as the tokens that are then chosen are the guessed ones,
their logits are there already. A wrong guess costs the time that its tokens took in that pass, and nothing else: the
choice is made from the model's own logits in any case.

Source: prompt lookup decoding, Saxena 2023, a case of speculative decoding, Leviathan et al. 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from torch import Tensor

LONGEST_MATCH, SHORTEST_MATCH = 4, 2
"""So many last tokens are looked for; where they are not found, fewer. A single one says too little of what follows."""


class ManyTokenStep(Protocol):
    """A step that can take several tokens of a single row at once, and take them back."""

    def run(self, token_ids: Tensor) -> Tensor:
        """Append tokens `[1, n]`; returns the logits `[1, n, V]` after each."""

    def take_back(self, n: int) -> None:
        """Forget the last `n` tokens."""

    @property
    def room(self) -> int:
        """Tokens that can still be appended."""


class LookupStep:
    """A `DecodeStep` for one row that guesses ahead.

    Args:
        step: the model after its prompt.
        prompt_ids: tokens of the prompt; negative ones are passed over.
        n_guesses: most tokens to guess at a time, at least 1.

    Attributes:
        n_passes: passes of the model so far.
        n_tokens: tokens that were asked for so far.
    """

    def __init__(self, step: ManyTokenStep, prompt_ids: Sequence[int], n_guesses: int) -> None:
        self.step, self.n_guesses = step, n_guesses
        self.history = [token for token in prompt_ids if token >= 0]
        self.n_passes = self.n_tokens = 0
        self._ahead: list[tuple[int, Tensor]] = []  # guessed tokens the model has read, with the logits after each

    def __call__(self, token_ids: Tensor) -> Tensor:
        """Append `token_ids` `[1]`; returns the logits `[1, V]` after it."""
        token = int(token_ids[0])
        self.history.append(token)
        self.n_tokens += 1
        if self._ahead and self._ahead[0][0] == token:
            return self._ahead.pop(0)[1]
        self.step.take_back(len(self._ahead))
        guess = lookup(self.history, min(self.n_guesses, self.step.room - 1))
        logits = self.step.run(token_ids.new_tensor([[token, *guess]]))  # [1, n, V]
        self.n_passes += 1
        self._ahead = [(guessed, logits[:, i + 1]) for i, guessed in enumerate(guess)]
        return logits[:, 0]

    def reorder(self, rows: Tensor) -> None:
        """There is one row, and it stays."""
        assert rows.tolist() == [0], "beams are refused at the door"


def lookup(tokens: Sequence[int], n: int) -> list[int]:
    """Up to `n` tokens that followed the last time that the end of `tokens` stood there; the longer match counts."""
    if n < 1:
        return []
    for size in range(min(LONGEST_MATCH, len(tokens) - 1), SHORTEST_MATCH - 1, -1):
        end = tuple(tokens[-size:])
        for start in range(len(tokens) - size - 1, -1, -1):
            if tuple(tokens[start : start + size]) == end:
                return list(tokens[start + size : start + size + n])
    return []
