"""The same rule of who sees whom as `olmo.nn.attention_mask`, in blocks: FlexAttention skips blocks that nobody sees.

Rows that hold several examples, and message trees, leave most of a mask empty; a dense mask computes that part and
throws it away. Source: FlexAttention (Dong et al. 2024), as it stands in PyTorch. It has no backward on CPU.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention

from olmo.nn.attention_mask import Pair, may_look


def build_block_mask(
    query_length: int,
    *,
    key_is_valid: Tensor | None = None,
    segment_ids: Tensor | None = None,
    group_ids: Tensor | None = None,
    free_rows: Tensor | None = None,
    free_keys: Tensor | None = None,
) -> BlockMask | None:
    """`build_attention_mask` in blocks, for a pass without a past; the arguments are the same, L = S.

    Returns:
        The mask of B rows and all heads, or None when plain causality is all there is.
    """
    assert (free_rows is None) == (free_keys is None), "free_rows and free_keys go together"
    given = [fact for fact in (key_is_valid, segment_ids, group_ids, free_keys) if fact is not None]
    if not given:
        return None

    def rule(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
        def pair(of_queries: Tensor | None, of_keys: Tensor | None) -> Pair | None:
            return None if of_queries is None or of_keys is None else (of_queries[row, query], of_keys[row, key])

        return may_look(
            query,
            key,
            is_valid=None if key_is_valid is None else key_is_valid[row, key],
            segments=pair(segment_ids, segment_ids),
            groups=pair(group_ids, group_ids),
            free=pair(free_rows, free_keys),
        )

    return create_block_mask(rule, len(given[0]), None, query_length, query_length, device=given[0].device)


def attend_in_blocks(q: Tensor, k: Tensor, v: Tensor, mask: BlockMask) -> Tensor:
    """Attention of queries `[B, H, L, Dh]` over keys and values `[B, Hkv, L, Dh]`; returns `[B, H, L, Dh]`.

    On CUDA the kernel is compiled for these sizes; elsewhere it runs in plain steps, which are slow but the same.
    """
    # Under autocast a norm may have left the queries and keys in float32; the fused kernel wants one type.
    q, k = q.to(v.dtype), k.to(v.dtype)
    grouped = q.shape[1] != k.shape[1]
    if q.is_cuda:
        return _compiled()(q, k, v, block_mask=mask, enable_gqa=grouped)
    heads = flex_attention(q, k, v, block_mask=mask, enable_gqa=grouped)
    assert isinstance(heads, Tensor), "only asked for more, it returns more"
    return heads


@functools.cache
def _compiled() -> Callable[..., Tensor]:
    """The fused kernel. Without compilation FlexAttention makes all scores, which is what it is there to avoid."""
    return torch.compile(flex_attention)
