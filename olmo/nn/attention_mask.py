"""Which token may see which: causality, padding, segments of a message tree, and pictures that see themselves.

Plain causal attention needs no mask here: None stands for it, and the attention kernel takes its own fast path.
"""

from __future__ import annotations

import torch
from torch import Tensor


def build_attention_mask(
    query_length: int,
    *,
    past_length: int = 0,
    key_is_valid: Tensor | None = None,
    segment_ids: Tensor | None = None,
    group_ids: Tensor | None = None,
    free_rows: Tensor | None = None,
    free_keys: Tensor | None = None,
    device: torch.device | str | None = None,
) -> Tensor | None:
    """Combine the rules into one boolean mask, True where a query may look.

    A query sees a key that is not later than itself, or shares its group, or is opened to it by `free_rows` and
    `free_keys`; of those, only valid ones, and with segments only those with `segment[query] <= segment[key]`. Every
    query sees itself, so that no row is empty and the softmax stays finite on padding.

    Rows padded on the right need no `key_is_valid` before the first decoded token: causality already hides the padding
    from the real tokens. Leaving it out keeps the fast path.

    Args:
        query_length: New tokens L; they are the last L of the S = past_length + L tokens.
        past_length: Tokens before them, for example in the cache.
        key_is_valid: Boolean `[B, S]`, False on padding.
        segment_ids: Integers `[B, S]`. Branches of a message tree have one id each, their shared prefix a larger one.
        group_ids: Integers `[B, S]`; tokens with the same id above 0 see each other in both directions.
        free_rows: Boolean `[B, L]`, queries that may look ahead at the free keys. Goes with `free_keys`.
        free_keys: Boolean `[B, S]`, keys that the free rows see.
        device: Where to make the mask; None takes that of the given tensors.

    Returns:
        Boolean `[B, 1, L, S]`, or None when plain causality is all there is.
    """
    assert (free_rows is None) == (free_keys is None), "free_rows and free_keys go together"
    given = [t for t in (key_is_valid, segment_ids, group_ids, free_keys) if t is not None]
    if not given:
        return None
    mask = causal_mask(query_length, past_length, device if device is not None else given[0].device)  # [1, L, S]
    itself = torch.diagonal_scatter(torch.zeros_like(mask), mask.new_ones(1, query_length), past_length, 1, 2)
    if group_ids is not None:
        rows = group_ids[:, past_length:, None]  # [B, L, 1]
        mask = mask | ((rows == group_ids[:, None, :]) & (rows > 0))
    if free_rows is not None and free_keys is not None:
        mask = mask | (free_rows[:, :, None] & free_keys[:, None, :])
    if key_is_valid is not None:
        mask = mask & key_is_valid[:, None, :]
    if segment_ids is not None:
        mask = mask & (segment_ids[:, past_length:, None] <= segment_ids[:, None, :])
    return (mask | itself).unsqueeze(1)  # [B, 1, L, S]


def causal_mask(query_length: int, past_length: int, device: torch.device | str | None = None) -> Tensor:
    """Boolean `[1, L, S]`: each of the last L of S = past_length + L tokens sees itself and all before it."""
    total = past_length + query_length
    keys = torch.arange(total, device=device)
    return (keys[past_length:, None] >= keys[None, :]).unsqueeze(0)


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The same mask as a term to add to attention scores: 0 where True, minus infinity where False."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
