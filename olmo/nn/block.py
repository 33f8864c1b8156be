"""One transformer block: attention and feed-forward with their norms, before (Qwen2, OLMoE) or after (OLMo 2) them."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from olmo.nn.attention import Attention, AttentionContext
from olmo.nn.llm_config import BlockType, LlmConfig
from olmo.nn.mlp import GatedMlp
from olmo.nn.moe import RoutedMlp
from olmo.nn.norm import build_norm
from olmo.nn.router import RouterStatistics


class TransformerBlock(nn.Module):
    """Residual attention, then residual feed-forward.

    Args:
        config: Kind of block, sizes, place of the norms, dropout.
        layer: Index of the block.
    """

    mlp: GatedMlp | RoutedMlp

    def __init__(self, config: LlmConfig, layer: int = 0) -> None:
        super().__init__()
        self.norm_after = config.norm_after
        self.residual_dropout = config.residual_dropout
        self.attn_norm = build_norm(config, config.d_model)
        self.attention = Attention(config, layer)
        self.ff_norm = build_norm(config, config.d_model)
        self.mlp = RoutedMlp(config) if config.block_type is BlockType.olmoe else GatedMlp(config)

    def forward(
        self, x: Tensor, context: AttentionContext, keep: Tensor | None = None, counted: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, RouterStatistics | None]:
        """Apply the block.

        Args:
            x: `[B, L, D]`.
            context: Positions, mask and cache of this pass.
            keep: Probability of keeping a channel of a branch output, per token `[B, L, 1]`; None: one rate for all.
            counted: Boolean `[B, L]`, tokens that the statistics of the router take in (routed blocks); None: none
                are made.

        Returns:
            `[B, L, D]`, the attention weights `[B, H, L, S]` where asked for, and the statistics where asked for.
        """
        branch, weights = self.attention(x if self.norm_after else self.attn_norm(x), context)
        x = x + self._finish(branch, self.attn_norm, keep)
        normed = x if self.norm_after else self.ff_norm(x)
        branch, statistics = self._feed_forward(normed, counted)
        return x + self._finish(branch, self.ff_norm, keep), weights, statistics

    def _feed_forward(self, x: Tensor, counted: Tensor | None) -> tuple[Tensor, RouterStatistics | None]:
        """The feed-forward, and what its router did."""
        if counted is None or not isinstance(self.mlp, RoutedMlp):
            return self.mlp(x), None
        routing = self.mlp.route(x.reshape(-1, x.shape[-1]))
        return self.mlp(x, routing), self.mlp.statistics(routing, counted.flatten())

    def _finish(self, branch: Tensor, norm: nn.Module, keep: Tensor | None) -> Tensor:
        """Post-norm where the model has it, then dropout when training."""
        if self.norm_after:
            branch = norm(branch)
        if not self.training:
            return branch
        if keep is not None:
            return branch * (torch.bernoulli(keep.expand_as(branch)) / keep).to(branch.dtype)
        return F.dropout(branch, self.residual_dropout) if self.residual_dropout > 0.0 else branch
