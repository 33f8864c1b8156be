"""Shares of a language model: what one of several processes computes of each layer, and the sums between them.

A process has a share of the heads, of the width of the feed-forward (of each expert, where there are experts) and of
the logits. Its layers are the usual ones, only smaller. Behind attention and feed-forward the results of all processes
are added up, so what goes from block to block is whole everywhere. For inference: training, which has gradients to sum
too, is in `olmo.train.parallel.tensor_parallel` and follows the same plan.

Source: Shoeybi et al. 2019 (Megatron-LM), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist

from olmo.exceptions import OLMoConfigurationError
from olmo.nn.attention import Attention
from olmo.nn.block import TransformerBlock
from olmo.nn.llm import Llm
from olmo.nn.llm_config import LlmConfig
from olmo.nn.mlp import GatedMlp
from olmo.nn.moe import RoutedMlp
from olmo.nn.norm import LayerNorm, RMSNorm

# -- the plan ------------------------------------------------------------------------------------------------------


def blocks_of(llm: Llm) -> list[TransformerBlock]:
    """The blocks of a language model."""
    return [block for block in llm.blocks if isinstance(block, TransformerBlock)]


def attention_parts(attention: Attention) -> dict[str, int]:
    """Rows of each part of the fused projection."""
    return {"q": attention.q_width, "k": attention.kv_width, "v": attention.kv_width}


def feed_forward_parts(width: int) -> dict[str, int]:
    """Rows of each part of the fused projection of a feed-forward with this inner width."""
    return {"up": width, "gate": width}


def config_of_share(config: LlmConfig, n: int) -> LlmConfig:
    """What one of `n` processes has: fewer heads of the same width. The cache of keys is made by it."""
    n_heads, n_kv_heads = config.n_heads // n, config.resolved_n_kv_heads // n
    return config.replace(n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=config.resolved_head_dim)


def check_divides(llm: Llm, n: int, field: str, splits_experts: bool = True) -> None:
    """Refuse a number of processes that the layers cannot be shared among.

    Args:
        llm: the language model.
        n: processes.
        field: what the user set, for the message.
        splits_experts: experts are shared too, and not computed whole by each process.

    Raises:
        OLMoConfigurationError: heads or widths cannot be divided by `n`, or a layer norm stands over all heads.
    """
    config = llm.config
    numbers = {"n_heads": config.n_heads, "n_kv_heads": config.resolved_n_kv_heads}
    if splits_experts or any(isinstance(block.mlp, GatedMlp) for block in blocks_of(llm)):
        numbers["mlp_hidden_size"] = config.resolved_mlp_hidden_size
    wrong = [f"{name} {value}" for name, value in numbers.items() if value % n]
    if wrong:
        raise OLMoConfigurationError(f"{n} does not divide {', '.join(wrong)} of the model", field)
    if any(isinstance(block.attention.q_norm, LayerNorm) for block in blocks_of(llm)):
        raise OLMoConfigurationError("does not know how to split a layer norm of queries and keys", field)


# -- one process's share -------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShareOfTensor:
    """A parameter of which a process has a part.

    Attributes:
        shape: of the whole.
        cut: from the whole to the part, a view or a new tensor.
    """

    shape: tuple[int, ...]
    cut: Callable[[Tensor], Tensor]


class RmsNormOfShare(RMSNorm):
    """An RMSNorm over channels that several processes hold: the mean square is that of all of them.

    Args:
        norm: the whole one.
        group: the processes.
    """

    def __init__(self, norm: RMSNorm, group: dist.ProcessGroup | None) -> None:
        super().__init__(norm.shape[0], norm.eps, has_weight=False)
        self.group = group
        self.weight = norm.weight

    def forward(self, x: Tensor) -> Tensor:
        """Normalise this process's channels of `x` `[..., dim / processes]`; same shape."""
        wide = x.float()
        total = self.summed(wide.square().sum(-1, keepdim=True))
        normed = (wide * torch.rsqrt(total / self.shape[0] + self.eps)).to(x.dtype)
        weight = self.own_weight()
        return normed if weight is None else normed * weight

    def summed(self, value: Tensor) -> Tensor:
        """The sum of a value over the processes."""
        dist.all_reduce(value, group=self.group)
        return value

    def own_weight(self) -> Tensor | None:
        """This process's channels of the weight."""
        return self.weight


def take_share(llm: Llm, rank: int, n: int, group: dist.ProcessGroup | None = None) -> dict[str, ShareOfTensor]:
    """Leave one process's share of the weights of a language model, in place; `add_up` makes it compute.

    Args:
        llm: whole, with weights that are equal in every process, or on the meta device.
        rank: number of this process in the group.
        n: processes.
        group: of these processes; None: all.

    Returns:
        The parameters that are smaller now, by name, so that a checkpoint can be cut as it is read.

    Raises:
        OLMoConfigurationError: see `check_divides`.
    """
    check_divides(llm, n, "tensor_parallel")
    found: dict[str, ShareOfTensor] = {}
    for number, block in enumerate(blocks_of(llm)):
        shares = {f"attention.{k}": v for k, v in _share_attention(block.attention, rank, n, group).items()}
        shares |= {f"mlp.{k}": v for k, v in _share_feed_forward(block.mlp, rank, n).items()}
        found |= {f"blocks.{number}.{name}": share for name, share in shares.items()}
    if llm.lm_head is not None and llm.lm_head.out_features % n == 0:
        found["lm_head.weight"] = _cut(llm.lm_head, "weight", _rows([llm.lm_head.out_features], rank, n))
        llm.lm_head.out_features //= n
    llm.config = config_of_share(llm.config, n)
    return found


def add_up(llm: Llm, n: int, group: dist.ProcessGroup | None = None) -> None:
    """Let the shares of `n` processes compute together, after `take_share` and whatever else replaces layers.

    Every process calls the model with the same inputs, and gets the same results.
    """
    for block in blocks_of(llm):
        for layer in (block.attention.attn_out, block.mlp):
            layer.register_forward_hook(partial(_sum_up, group))
    if llm.lm_head is not None and llm.lm_head.out_features < llm.config.resolved_embedding_size:
        llm.lm_head.register_forward_hook(partial(_join_logits, group, n))


def _share_attention(
    attention: Attention, rank: int, n: int, group: dist.ProcessGroup | None
) -> dict[str, ShareOfTensor]:
    fused = list(attention_parts(attention).values())
    shares = {f"att_proj.{k}": v for k, v in _cut_linear(attention.att_proj, _rows(fused, rank, n)).items()}
    shares |= {f"attn_out.{k}": v for k, v in _cut_linear(attention.attn_out, _chunk(1, rank, n)).items()}
    for name in ("q_norm", "k_norm"):
        norm = getattr(attention, name)
        if norm is not None:
            setattr(attention, name, RmsNormOfShare(norm, group))
            if norm.weight is not None:
                shares[f"{name}.weight"] = _cut(getattr(attention, name), "weight", _chunk(0, rank, n))
    for name in ("n_heads", "n_kv_heads", "q_width", "kv_width"):
        setattr(attention, name, getattr(attention, name) // n)
    return shares


def _share_feed_forward(mlp: GatedMlp | RoutedMlp, rank: int, n: int) -> dict[str, ShareOfTensor]:
    if isinstance(mlp, GatedMlp):
        fused = list(feed_forward_parts(mlp.ff_out.in_features).values())
        shares = {f"ff_proj.{k}": v for k, v in _cut_linear(mlp.ff_proj, _rows(fused, rank, n)).items()}
        return shares | {f"ff_out.{k}": v for k, v in _cut_linear(mlp.ff_out, _chunk(1, rank, n)).items()}
    # Of every expert a part; the router is whole, so all processes choose alike.
    fused = list(feed_forward_parts(mlp.experts_out.shape[2]).values())
    return {
        "experts_in": _cut(mlp, "experts_in", _rows(fused, rank, n, dim=1)),
        "experts_out": _cut(mlp, "experts_out", _chunk(2, rank, n)),
    }


def _rows(parts: Sequence[int], rank: int, n: int, dim: int = 0) -> Callable[[Tensor], Tensor]:
    """A share of each run of rows."""
    return lambda whole: torch.cat([run.chunk(n, dim)[rank] for run in whole.split(list(parts), dim)], dim)


def _chunk(dim: int, rank: int, n: int) -> Callable[[Tensor], Tensor]:
    return lambda whole: whole.chunk(n, dim)[rank]


def _cut_linear(layer: nn.Linear, cut: Callable[[Tensor], Tensor]) -> dict[str, ShareOfTensor]:
    shares = {"weight": _cut(layer, "weight", cut)}
    if layer.bias is not None:
        shares["bias"] = _cut(layer, "bias", cut)
    layer.out_features, layer.in_features = layer.weight.shape
    return shares


def _cut(module: nn.Module, name: str, cut: Callable[[Tensor], Tensor]) -> ShareOfTensor:
    """Replace a parameter by this process's part."""
    whole = getattr(module, name).detach()
    setattr(module, name, nn.Parameter(cut(whole).clone(memory_format=torch.contiguous_format), requires_grad=False))
    return ShareOfTensor(tuple(whole.shape), cut)


def _sum_up(group: dist.ProcessGroup | None, module: nn.Module, args: Any, out: Tensor) -> Tensor:
    """A forward hook: the results of all processes together."""
    out = out.contiguous()
    dist.all_reduce(out, group=group)
    return out


def _join_logits(group: dist.ProcessGroup | None, n: int, module: nn.Module, args: Any, out: Tensor) -> Tensor:
    """A forward hook: the logits of all processes side by side."""
    parts = [torch.empty_like(out, memory_format=torch.contiguous_format) for _ in range(n)]
    dist.all_gather(parts, out.contiguous(), group=group)
    return torch.cat(parts, dim=-1)
