"""The language model: embeddings, blocks, final norm and output head, over tensors alone.

It knows nothing of text, pictures or generation. A pass takes embeddings, so that whoever calls it can add picture
features to them first.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.attention.flex_attention import BlockMask

from olmo.nn.attention import AttentionContext
from olmo.nn.attention_mask import additive_mask, causal_mask
from olmo.nn.block import TransformerBlock
from olmo.nn.embedding import TokenEmbedding
from olmo.nn.kv_cache import KVCache, LayerCache
from olmo.nn.linear import linear, project
from olmo.nn.llm_config import AttentionBackend, BlockType, LlmConfig
from olmo.nn.moe import RoutedMlp
from olmo.nn.norm import RMSNorm, build_norm
from olmo.nn.rope import RotaryEmbedding
from olmo.nn.router import RouterStatistics
from olmo.torch_util import autocast_dtype


@dataclass(frozen=True, slots=True)
class LlmOutput:
    """What a pass gives.

    Args:
        hidden: State after the final norm `[B, L, D]`; `Llm.logits` turns it into logits.
        hidden_states: The input of every block and, last, `hidden`: n_layers + 1 tensors `[B, L, D]`, or None.
        attentions: Weights of every block `[B, H, L, S]`, or None.
        router: Statistics of the routers, stacked over the layers, where asked for and there are routers.
    """

    hidden: Tensor
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    router: RouterStatistics | None = None


class Llm(nn.Module):
    """Decoder-only transformer of the Molmo family.

    Freshly made, it has random weights; built on the meta device it has none until `to_empty` and `reset_parameters` or
    a checkpoint.

    Args:
        config: Everything about the model.
    """

    lm_head: nn.Linear | None

    layer_devices: Sequence[torch.device] | None = None
    """Where each block computes, and with it its cache, where that is not one device for all."""

    def __init__(self, config: LlmConfig) -> None:
        super().__init__()
        self.config = config
        self.wte = TokenEmbedding(config.resolved_embedding_size, config.additional_vocab_size, config.d_model)
        self.blocks = nn.ModuleList(TransformerBlock(config, layer) for layer in range(config.n_layers))
        self.ln_f = build_norm(config, config.d_model)
        self.lm_head = None if config.weight_tying else linear(config.d_model, config.resolved_embedding_size)
        self.rope = RotaryEmbedding(config.rope, config.resolved_head_dim)
        if not self.wte.embedding.is_meta:
            self.reset_parameters()

    def embed(self, input_ids: Tensor) -> Tensor:
        """Embeddings `[B, L, D]` of `input_ids` `[B, L]`.

        Ids from `embedding_size` on take a row of the second table; negative ids, which are padding, take row 0.
        """
        return self.wte(input_ids)

    def forward(
        self,
        embeds: Tensor,
        *,
        position_ids: Tensor,
        attention_mask: Tensor | BlockMask | None = None,
        cache: LayerCache | None = None,
        response_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
        router_counts: Tensor | None = None,
        n_layers: int | None = None,
    ) -> LlmOutput:
        """Run the blocks and the final norm.

        Args:
            embeds: `[B, L, D]`.
            position_ids: Integers `[B, L]` or `[1, L]`, from 0; the value on padding does not matter.
            attention_mask: Boolean `[B, 1, L, S]`, True where a query may look, S = cached length + L; or the
                same in blocks, for a pass without cache, attention dropout and `output_attentions`. None: causal.
            cache: Past keys and values; the new ones are appended.
            response_mask: Boolean `[B, L]`, True on tokens of the answer. Used for `response_residual_dropout`.
            output_hidden_states: Return the states between blocks.
            output_attentions: Return attention weights; slower.
            router_counts: Boolean `[B, L]`, tokens that the statistics of the routers take in; None: none are made.
            n_layers: Run only so many blocks from the first on, without a cache; None: all.

        Returns:
            Hidden states and what was asked for. With a cache, it is advanced by L.
        """
        context = self._context(embeds, position_ids, attention_mask, cache, output_attentions)
        keep = self._keep_probability(response_mask)
        x = embeds
        if self.training and self.config.embedding_dropout > 0.0:
            x = F.dropout(x, self.config.embedding_dropout)
        states: list[Tensor] = []
        attentions: list[Tensor] = []
        routers: list[RouterStatistics] = []
        assert n_layers is None or cache is None, "a cache is advanced by all layers together"
        for block in self.blocks[:n_layers]:
            if output_hidden_states:
                states.append(x)
            x, weights, of_router = block(x, context, keep, router_counts)
            if weights is not None:
                attentions.append(weights)
            if of_router is not None:
                routers.append(of_router)
        hidden = self.ln_f(x)
        if cache is not None:
            cache.advance(embeds.shape[1])
        return LlmOutput(
            hidden,
            (*states, hidden) if output_hidden_states else None,
            tuple(attentions) if output_attentions else None,
            RouterStatistics(*(torch.stack(parts) for parts in zip(*routers, strict=True))) if routers else None,
        )

    def logits(self, hidden: Tensor) -> Tensor:
        """Logits `[..., V]` over the base table's rows for states `[..., D]` after the final norm."""
        if self.lm_head is None:
            return project(hidden, self.wte.embedding)
        return self.lm_head(hidden)

    def takes_blocks(self, has_segments: bool) -> bool:
        """Whether the configured backend wants a pass without cache and attention weights to have its mask in blocks.

        Args:
            has_segments: rows are packed or hold message trees.
        """
        config, is_cuda = self.config, self.wte.embedding.is_cuda
        if self.training and config.attention_dropout > 0.0:  # FlexAttention has none
            return False
        if config.attention_backend is AttentionBackend.auto:
            return is_cuda and has_segments and self.training
        # Asked for by name it is used wherever it can be; there is no backward on CPU.
        return config.attention_backend is AttentionBackend.flex and (is_cuda or not torch.is_grad_enabled())

    def new_cache(self, batch_size: int, max_length: int, dtype: torch.dtype | None = None) -> KVCache:
        """An empty cache for this model, on its device or devices; `dtype` None takes that of the weights."""
        config, like = self.config, self.wte.embedding
        return KVCache(
            config.n_layers,
            batch_size,
            config.resolved_n_kv_heads,
            config.resolved_head_dim,
            max_length,
            like.dtype if dtype is None else dtype,
            self.layer_devices or like.device,
        )

    @torch.no_grad()
    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draw all weights anew: normal with `init_std` for matrices, ones for norms, zeros for biases.

        Args:
            generator: Source of randomness. Weights on another device than its own are drawn there and copied, so one
                seed gives one model everywhere. None uses the global source.
        """
        for module in self.modules():
            if isinstance(module, RMSNorm):
                module.reset_parameters()
                continue
            for name, parameter in module.named_parameters(recurse=False):
                if name == "bias":
                    parameter.zero_()
                else:
                    _draw_normal(parameter, self.config.init_std, generator)
            if isinstance(module, RoutedMlp) and module.selection_bias is not None:
                module.selection_bias.zero_()

    def num_params(self, include_inactive: bool = True) -> int:
        """Number of weights.

        Args:
            include_inactive: Count all experts; False counts only the `experts_per_token` that a token passes.
        """
        total = sum(parameter.numel() for parameter in self.parameters())
        if include_inactive or self.config.block_type is not BlockType.olmoe:
            return total
        idle = self.config.n_experts - self.config.experts_per_token
        one_expert = 3 * self.config.d_model * self.config.resolved_mlp_hidden_size
        return total - self.config.n_layers * idle * one_expert

    def _context(
        self,
        embeds: Tensor,
        position_ids: Tensor,
        mask: Tensor | BlockMask | None,
        cache: LayerCache | None,
        output_attentions: bool,
    ) -> AttentionContext:
        """What all layers share, made once: rotary tables, and the mask in the form the kernel takes."""
        cos, sin = self.rope.tables(position_ids)
        if isinstance(mask, BlockMask):
            assert cache is None and not output_attentions, "block masks are for passes without either"
            return AttentionContext(cos, sin, blocks=mask)
        length, past = embeds.shape[1], cache.length if cache is not None else 0
        if mask is None and length > 1 and (past > 0 or output_attentions):
            mask = causal_mask(length, past, embeds.device).unsqueeze(1)  # [1, 1, L, S]
        is_causal = True if mask is None and length > 1 else False  # noqa: SIM210 - of a symbol a branch makes a bool
        bias = None if mask is None else additive_mask(mask, _compute_dtype(embeds))
        return AttentionContext(cos, sin, bias, None, is_causal, cache, output_attentions)

    def _keep_probability(self, response_mask: Tensor | None) -> Tensor | None:
        """Per-token keep probability `[B, L, 1]` when answers have a dropout rate of their own, else None."""
        config = self.config
        if not self.training or response_mask is None or config.response_residual_dropout == 0.0:
            return None
        rates = torch.where(response_mask, config.response_residual_dropout, config.residual_dropout)
        return (1.0 - rates).unsqueeze(-1)


def _compute_dtype(embeds: Tensor) -> torch.dtype:
    """Dtype that projections of `embeds` will have."""
    return autocast_dtype(embeds.device.type) or embeds.dtype


def _draw_normal(parameter: Tensor, std: float, generator: torch.Generator | None) -> None:
    if generator is None or generator.device == parameter.device:
        parameter.normal_(0.0, std, generator=generator)
    else:
        drawn = torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)
        parameter.copy_(drawn.normal_(0.0, std, generator=generator))
