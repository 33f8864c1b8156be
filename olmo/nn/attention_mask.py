"""Which token may see which: causality, padding, segments of packed rows and message trees, pictures that look ahead.

`may_look` writes the rule down once. `build_attention_mask` evaluates it for all pairs, `olmo.nn.flex_mask` for blocks
of them. Plain causal attention needs no mask here: None stands for it, and the kernel takes its own fast path.
"""

from __future__ import annotations

import torch
from torch import Tensor

from olmo.nn.segments import example_of

Pair = tuple[Tensor, Tensor]
"""The same fact about a query and about a key; the two shapes broadcast."""


def may_look(
    place: Tensor,
    key: Tensor,
    *,
    is_valid: Tensor | None = None,
    segments: Pair | None = None,
    groups: Pair | None = None,
    free: Pair | None = None,
) -> Tensor:
    """Whether a query may look at a key; all arguments broadcast, and the result is boolean.

    Args:
        place: position of the query within its row.
        key: position of the key.
        is_valid: whether the key is no padding.
        segments: segment of each; see `olmo.nn.segments`.
        groups: group of each, 0 for none.
        free: whether the query may look ahead, and whether the key lets it.
    """
    may = key <= place
    if groups is not None:
        may = may | ((groups[0] == groups[1]) & (groups[0] > 0))
    if free is not None:
        may = may | (free[0] & free[1])
    if is_valid is not None:
        may = may & is_valid
    if segments is not None:
        may = may & (segments[0] <= segments[1])
        if groups is not None or free is not None:
            # Who cannot look ahead is kept from other examples by the order of segments alone.
            may = may & (example_of(segments[0]) == example_of(segments[1]))
    return may | (key == place)


def build_attention_mask(
    query_length: int,
    *,
    past_length: int = 0,
    key_is_valid: Tensor | None = None,
    segment_ids: Tensor | None = None,
    group_ids: Tensor | None = None,
    free_rows: Tensor | None = None,
    free_keys: Tensor | None = None,
) -> Tensor | None:
    """Combine the rules into one boolean mask, True where a query may look.

    A query sees a key that is not later than itself, or shares its group, or is opened to it by `free_rows` and
    `free_keys`; of those, only valid ones, and with segments only those of its own example with `segment[query] <=
    segment[key]`. Every query sees itself, so that no row is empty and the softmax stays finite on padding.

    Rows padded on the right need no `key_is_valid` before the first decoded token: causality already hides the padding
    from the real tokens. Leaving it out keeps the fast path.

    Args:
        query_length: New tokens L; they are the last L of the S = past_length + L tokens.
        past_length: Tokens before them, for example in the cache.
        key_is_valid: Boolean `[B, S]`, False on padding.
        segment_ids: Integers `[B, S]`; see `olmo.nn.segments`.
        group_ids: Integers `[B, S]`; tokens with the same id above 0 see each other in both directions.
        free_rows: Boolean `[B, L]`, queries that may look ahead at the free keys. Goes with `free_keys`.
        free_keys: Boolean `[B, S]`, keys that the free rows see.

    Returns:
        Boolean `[B, 1, L, S]`, or None when plain causality is all there is.
    """
    assert (free_rows is None) == (free_keys is None), "free_rows and free_keys go together"
    given = [fact for fact in (key_is_valid, segment_ids, group_ids, free_keys) if fact is not None]
    if not given:
        return None

    def pair(of_queries: Tensor | None, of_keys: Tensor | None) -> Pair | None:
        """`[B, 1, L, 1]` and `[B, 1, 1, S]`."""
        if of_queries is None or of_keys is None:
            return None
        return of_queries[:, None, -query_length:, None], of_keys[:, None, None, :]

    keys = torch.arange(past_length + query_length, device=given[0].device)
    return may_look(  # [B, 1, L, S]
        keys[past_length:, None],
        keys,
        is_valid=None if key_is_valid is None else key_is_valid[:, None, None, :],
        segments=pair(segment_ids, segment_ids),
        groups=pair(group_ids, group_ids),
        free=pair(free_rows, free_keys),
    )


def causal_mask(query_length: int, past_length: int, device: torch.device | str | None = None) -> Tensor:
    """Boolean `[1, L, S]`: each of the last L of S = past_length + L tokens sees itself and all before it."""
    total = past_length + query_length
    keys = torch.arange(total, device=device)
    return (keys[past_length:, None] >= keys[None, :]).unsqueeze(0)


def additive_mask(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """The same mask as a term to add to attention scores: 0 where True, minus infinity where False."""
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, float("-inf"))
