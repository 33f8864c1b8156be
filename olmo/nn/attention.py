"""Causal self-attention of the language model: grouped heads, QK norm, rotary positions, cached keys and values.

It knows nothing of padding or pictures: the mask it is handed says who sees whom.
Source: grouped-query attention, Ainslie et al. 2023; QK norm over the whole width, OLMo 2 (2025), section 3.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from olmo.nn.attention_kernel import attend
from olmo.nn.flex_mask import attend_in_blocks
from olmo.nn.kv_cache import LayerCache
from olmo.nn.linear import linear
from olmo.nn.llm_config import LlmConfig
from olmo.nn.norm import RMSNorm, build_norm
from olmo.nn.rope import rotate


@dataclass(slots=True)
class AttentionContext:
    """What all layers of one forward pass share.

    Args:
        cos: Rotary cosines, float32 `[B, L, 1, Dh]`.
        sin: Rotary signed sines, float32 `[B, L, 1, Dh]`.
        bias: Term added to the scores `[B, 1, L, S]` in the dtype of the queries, or None.
        blocks: The mask in blocks, in place of `bias`; or None.
        is_causal: Query and key lengths are equal and nothing but causality holds; `bias` and `blocks` are None then.
        cache: Past keys and values, or None.
        output_attentions: Return the weights; takes the slow path that makes them, which wants causality in `bias`.
        elsewhere: Copies for layers on other devices, by device; see `on`.
    """

    cos: Tensor
    sin: Tensor
    bias: Tensor | None = None
    blocks: BlockMask | None = None
    is_causal: bool = False
    cache: LayerCache | None = None
    output_attentions: bool = False
    elsewhere: dict[torch.device, AttentionContext] = field(default_factory=dict)

    def on(self, device: torch.device) -> AttentionContext:
        """The same for a layer on another device; copied once for all layers there. The cache has its own places."""
        if self.cos.device == device:
            return self
        if device not in self.elsewhere:
            bias = None if self.bias is None else self.bias.to(device)
            blocks = None if self.blocks is None else self.blocks.to(device)
            self.elsewhere[device] = replace(
                self, cos=self.cos.to(device), sin=self.sin.to(device), bias=bias, blocks=blocks, elsewhere={}
            )
        return self.elsewhere[device]


class Attention(nn.Module):
    """Self-attention with one fused projection for queries, keys and values.

    Args:
        config: Sizes, bias, clipping and norms.
        layer: Index of the block, which is its place in the cache.
    """

    q_norm: RMSNorm | None
    k_norm: RMSNorm | None

    def __init__(self, config: LlmConfig, layer: int = 0) -> None:
        super().__init__()
        self.layer = layer
        self.n_heads, self.n_kv_heads = config.n_heads, config.resolved_n_kv_heads
        self.head_dim = config.resolved_head_dim
        self.q_width, self.kv_width = self.n_heads * self.head_dim, self.n_kv_heads * self.head_dim
        self.clip_qkv = config.clip_qkv
        self.dropout = config.attention_dropout
        self.att_proj = linear(config.d_model, self.q_width + 2 * self.kv_width, bias=config.qkv_bias)
        self.attn_out = linear(self.q_width, config.d_model)
        self.q_norm = build_norm(config, self.q_width) if config.qk_norm else None
        self.k_norm = build_norm(config, self.kv_width) if config.qk_norm else None

    def forward(self, x: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor | None]:
        """Attend.

        Args:
            x: `[B, L, D]`.
            context: Positions, mask and cache of this pass.

        Returns:
            The result `[B, L, D]`, and the weights `[B, H, L, S]` where asked for, else None.
        """
        q, k, v = self._project(x, context)
        if context.cache is not None:
            k, v = context.cache.update(self.layer, k, v)
        if context.output_attentions:
            heads, weights = self._attend_eager(q, k, v, context)
        else:
            heads, weights = self._attend(q, k, v, context), None
        return self.attn_out(heads), weights

    def _project(self, x: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor, Tensor]:
        """Rotated queries `[B, H, L, Dh]`, rotated keys and plain values `[B, Hkv, L, Dh]`."""
        batch, length, _ = x.shape
        qkv = self.att_proj(x)  # [B, L, (H + 2 Hkv) Dh]
        if self.clip_qkv is not None:
            qkv = qkv.clamp(-self.clip_qkv, self.clip_qkv)
        n_heads, n_kv_heads, cos, sin = self.n_heads, self.n_kv_heads, context.cos, context.sin
        if self.q_norm is None or self.k_norm is None:
            # Queries and keys turn together: half as many small operations when decoding.
            heads = qkv.view(batch, length, n_heads + 2 * n_kv_heads, self.head_dim)
            turned, v = heads.split((n_heads + n_kv_heads, n_kv_heads), 2)
            q, k = rotate(turned, cos, sin).split((n_heads, n_kv_heads), 2)
        else:
            flat_q, flat_k, flat_v = qkv.split((self.q_width, self.kv_width, self.kv_width), -1)
            q = rotate(self.q_norm(flat_q).view(batch, length, n_heads, self.head_dim), cos, sin)
            k = rotate(self.k_norm(flat_k).view(batch, length, n_kv_heads, self.head_dim), cos, sin)
            v = flat_v.view(batch, length, n_kv_heads, self.head_dim)
        return q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2)

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> Tensor:
        """Attention by the quickest kernel; heads joined, `[B, L, H Dh]`."""
        batch, n_heads, length, head_dim = q.shape
        dropout = self.dropout if self.training else 0.0
        if context.blocks is not None:
            heads = attend_in_blocks(q, k, v, context.blocks)
            return heads.transpose(1, 2).reshape(batch, length, self.q_width)
        grouped = n_heads != self.n_kv_heads
        if length == 1 and grouped:
            # One query token: the heads that share a key head stand in for query positions, and nothing is repeated.
            q = q.reshape(batch, self.n_kv_heads, -1, head_dim)  # [B, Hkv, H/Hkv, Dh]
            heads = F.scaled_dot_product_attention(q, k, v, attn_mask=context.bias, dropout_p=dropout)
            return heads.reshape(batch, 1, self.q_width)
        heads = attend(q, k, v, context.bias, dropout, context.is_causal)
        return heads.transpose(1, 2).reshape(batch, length, self.q_width)

    def _attend_eager(self, q: Tensor, k: Tensor, v: Tensor, context: AttentionContext) -> tuple[Tensor, Tensor]:
        """Attention in plain steps, softmax in float32; heads joined `[B, L, H Dh]`, and weights `[B, H, L, S]`."""
        batch, n_heads, length, head_dim = q.shape
        repeats = n_heads // self.n_kv_heads
        k, v = k.repeat_interleave(repeats, 1), v.repeat_interleave(repeats, 1)
        scores = (q @ k.transpose(-1, -2)) * head_dim**-0.5  # [B, H, L, S]
        if context.bias is not None:
            scores = scores + context.bias
        weights = torch.softmax(scores, -1, dtype=torch.float32).to(v.dtype)
        heads = F.dropout(weights, self.dropout, self.training) @ v  # [B, H, L, Dh]
        return heads.transpose(1, 2).reshape(batch, length, self.q_width), weights
