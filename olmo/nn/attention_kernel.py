"""Scaled dot-product attention by whichever of torch's ways is quickest: the fused kernel, or plain products.

Knows nothing of models. The fused kernel is right nearly always. Its backward on a CPU in bfloat16 is not: plain
products take half the time over 450 tokens and a third over 144. They hold the scores, so long rows stay fused.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

MOST_SCORES = 2**25
"""Scores that plain products may hold: 64 MiB in bfloat16."""


def attend(
    q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, dropout: float = 0.0, is_causal: bool = False
) -> Tensor:
    """Attention of queries `[B, H, L, Dh]` over keys and values `[B, Hkv, S, Dh]`; returns `[B, H, L, Dh]`.

    Args:
        q: queries; H is a multiple of Hkv.
        k: keys.
        v: values.
        bias: term added to the scores, broadcast to `[B, H, L, S]`.
        dropout: probability of dropping a weight.
        is_causal: L equals S and a query sees itself and what is before; `bias` is None then.
    """
    if _products_are_quicker(q, k):
        return _products(q, k, v, bias, dropout, is_causal)
    is_grouped = q.shape[1] != k.shape[1]
    return F.scaled_dot_product_attention(
        q, k, v, attn_mask=bias, dropout_p=dropout, is_causal=is_causal, enable_gqa=is_grouped
    )


def _products_are_quicker(q: Tensor, k: Tensor) -> bool:
    if q.device.type != "cpu" or not (q.requires_grad and torch.is_grad_enabled()) or q.shape[2] == 1:
        return False
    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else q.dtype
    return dtype is torch.bfloat16 and q[..., 0].numel() * k.shape[2] <= MOST_SCORES


def _products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None, dropout: float, is_causal: bool) -> Tensor:
    repeats = q.shape[1] // k.shape[1]
    if repeats > 1:
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
    scores = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)  # [B, H, L, S]
    if is_causal:
        length = scores.shape[-1]
        bias = torch.full((length, length), float("-inf"), dtype=scores.dtype, device=q.device).triu(1)
    if bias is not None:
        scores = scores + bias.to(scores.dtype)
    return F.dropout(torch.softmax(scores, -1), dropout, dropout > 0.0) @ v
