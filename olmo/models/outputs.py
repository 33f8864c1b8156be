"""What models return. NamedTuples of tensors; no behaviour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple, Self

import torch


class PastKeyValues(tuple[tuple[torch.Tensor, torch.Tensor], ...]):
    """Keys and values of the tokens so far: one `(k, v)` pair a layer, each `[B, Hkv, S, Dh]`.

    A plain tuple but for one thing: it remembers which of the S tokens were padding, so that handing it back needs no
    mask. A tuple made by someone else is taken to hold real tokens only.
    """

    key_is_valid: torch.Tensor | None
    """`[B, S]` bool, False on padding; None when nothing is padded."""

    def __new__(
        cls, pairs: Iterable[tuple[torch.Tensor, torch.Tensor]], key_is_valid: torch.Tensor | None = None
    ) -> Self:
        """Keep the pairs and the padding that belongs to them."""
        past = super().__new__(cls, pairs)
        past.key_is_valid = key_is_valid
        return past


class OLMoOutput(NamedTuple):
    """Output of a forward pass."""

    logits: torch.Tensor
    """`[B, L, V]` next-token logits (`[B, 1, V]` or `[n, V]` where fewer were asked for)."""

    loss: torch.Tensor | None = None
    """Scalar float32 loss when labels were given."""

    past_key_values: tuple[tuple[torch.Tensor, torch.Tensor], ...] | None = None
    """One `(k, v)` pair a layer, each `[B, Hkv, S, Dh]`; may be passed back to `forward`."""

    hidden_states: torch.Tensor | None = None
    """`[n_layers + 1, B, L, D]`: the input of each block and the normed final state, if asked for."""

    attentions: tuple[torch.Tensor, ...] | None = None
    """One `[B, H, L, S]` a layer, if asked for."""

    aux: dict[str, torch.Tensor] | None = None
    """Auxiliary results by name (router load, selection), if there are any."""


class OLMoGenerateOutput(NamedTuple):
    """Output of generation."""

    token_ids: torch.Tensor
    """`[B, S]` new tokens only, `pad_token_id` after a row's end."""

    text: list[str]
    """Decoded text of each row, without special tokens and without the leading space."""

    scores: torch.Tensor | None = None
    """`[B, S]` log-probability of each token (beam search: `[B]`, of the sequence), if asked for."""

    aux: dict[str, torch.Tensor] | None = None
    """Auxiliary results of the prompt by name (selection), if there are any."""
