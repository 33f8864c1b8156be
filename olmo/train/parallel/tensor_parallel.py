"""Tensor parallelism for the language model: a process computes a share of the heads and of the feed-forward.

The projections of a block come fused (query | key | value, up | gate), and a process needs its rows of each part. So
the fused layers are taken apart into plain ones, which are split by rows, and the layers behind them by columns. What
goes in and comes out of attention and feed-forward is whole in every process, so everything else stays as it is:
norms, embeddings, picture encoder, connector and routed experts are computed by each process.

Source: Shoeybi et al. 2019 (Megatron-LM), section 3.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import Replicate, Shard, distribute_tensor
from torch.distributed.tensor.parallel import (
    ColwiseParallel,
    PrepareModuleInput,
    RowwiseParallel,
    parallelize_module,
)

from olmo.exceptions import OLMoConfigurationError
from olmo.nn.attention import Attention
from olmo.nn.head_shares import (
    RmsNormOfShare,
    attention_parts,
    blocks_of,
    check_divides,
    config_of_share,
    feed_forward_parts,
)
from olmo.nn.linear import linear
from olmo.nn.llm import Llm
from olmo.nn.mlp import GatedMlp
from olmo.nn.norm import RMSNorm
from olmo.train.parallel.sharding import local_part


class SplitLinear(nn.ModuleDict):
    """A fused linear layer taken apart: one layer for each run of its rows, results side by side."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map `[..., in]` to the joined results `[..., out]`, of each part this process's share."""
        return torch.cat([part(x) for part in self.values()], dim=-1)


class SplitRmsNorm(RmsNormOfShare):
    """An RMSNorm over channels that several processes hold, whose gradients know of the others."""

    def __init__(self, norm: RMSNorm, mesh: DeviceMesh) -> None:
        super().__init__(norm, mesh.get_group())
        if norm.weight is not None:
            split = distribute_tensor(norm.weight.detach(), mesh, [Shard(0)], src_data_rank=None)
            self.weight = nn.Parameter(split, requires_grad=norm.weight.requires_grad)

    def summed(self, value: torch.Tensor) -> torch.Tensor:
        """See `RmsNormOfShare`; gradients are summed too."""
        total: torch.Tensor = _SumOverProcesses.apply(value, self.group)
        return total

    def own_weight(self) -> torch.Tensor | None:
        """See `RmsNormOfShare`."""
        return None if self.weight is None else local_part(self.weight)


class _SumOverProcesses(torch.autograd.Function):
    """A sum over processes that every process goes on with, so gradients are summed over them too."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor, group: dist.ProcessGroup) -> torch.Tensor:
        ctx.group = group
        total = value.clone()
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None


def split_heads(module: nn.Module, mesh: DeviceMesh) -> None:
    """Split the blocks and the head of every language model below `module` over `mesh`, in place.

    Args:
        module: weights equal in every process.
        mesh: one dimension.

    Raises:
        OLMoConfigurationError: heads or widths cannot be divided by the number of processes, or there is no language
            model.
    """
    models = [m for m in module.modules() if isinstance(m, Llm)]
    if not models:
        raise OLMoConfigurationError("splits language models, and there is none here", "parallel.tensor_parallel")
    for llm in models:
        check_divides(llm, mesh.size(), "parallel.tensor_parallel", splits_experts=False)
        for block in blocks_of(llm):
            _split_attention(block.attention, mesh)
            if isinstance(block.mlp, GatedMlp):
                _split_mlp(block.mlp, mesh)
        if llm.lm_head is not None:
            # Logits come back whole: the loss reads them only where there is a label.
            _parallelize(llm, mesh, {"lm_head": ColwiseParallel(output_layouts=Replicate())})
        # The cache of keys has the heads of this process. The configuration of the model itself stays as it is.
        llm.config = config_of_share(llm.config, mesh.size())


def join_heads(module: nn.Module) -> None:
    """Undo the splitting in names and shapes: every weight is called as in the published model again.

    For export, as the last thing: the module cannot be run any more. Every process calls it. Weights stay spread over
    the processes.
    """
    for parent in list(module.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, SplitLinear):
                setattr(parent, name, _joined(child))


def _split_attention(attention: Attention, mesh: DeviceMesh) -> None:
    _split_fused(attention, "att_proj", attention_parts(attention), mesh)
    _parallelize(attention, mesh, {"attn_out": RowwiseParallel()})
    for name in ("q_norm", "k_norm"):
        norm = getattr(attention, name)
        if norm is not None:
            setattr(attention, name, SplitRmsNorm(norm, mesh))
    for name in ("n_heads", "n_kv_heads", "q_width", "kv_width"):
        setattr(attention, name, getattr(attention, name) // mesh.size())


def _split_mlp(mlp: GatedMlp, mesh: DeviceMesh) -> None:
    _split_fused(mlp, "ff_proj", feed_forward_parts(mlp.ff_out.in_features), mesh)
    _parallelize(mlp, mesh, {"ff_out": RowwiseParallel()})


def _split_fused(parent: nn.Module, name: str, sizes: Mapping[str, int], mesh: DeviceMesh) -> None:
    """Replace the linear layer `name` of `parent` by one layer for each run of rows, each split by rows."""
    fused = getattr(parent, name)
    weights = fused.weight.split(tuple(sizes.values()))
    biases = [None] * len(sizes) if fused.bias is None else fused.bias.split(tuple(sizes.values()))
    parts = SplitLinear()
    for key, weight, bias in zip(sizes, weights, biases, strict=True):
        with torch.device("meta"):
            part = linear(fused.in_features, sizes[key], bias=bias is not None)
        part.weight = nn.Parameter(weight.detach().clone(), requires_grad=fused.weight.requires_grad)
        if bias is not None:
            part.bias = nn.Parameter(bias.detach().clone(), requires_grad=fused.bias.requires_grad)
        parts[key] = part
    setattr(parent, name, parts)
    # The input is marked as whole once for all parts, so their gradients for it are summed in one message.
    prepared = PrepareModuleInput(input_layouts=(Replicate(),), desired_input_layouts=(Replicate(),))
    _parallelize(parent, mesh, {name: prepared, **{f"{name}.{key}": ColwiseParallel() for key in sizes}})


def _parallelize(module: nn.Module, mesh: DeviceMesh, plan: Mapping[str, Any]) -> None:
    # No source rank: every process holds the same weights and takes its part without a message.
    parallelize_module(module, mesh, dict(plan), src_data_rank=None)


def _joined(parts: SplitLinear) -> nn.Linear:
    """The fused layer again, its rows spread evenly over the processes of its parts."""
    layers = [layer for layer in parts.values() if isinstance(layer, nn.Linear)]
    has_bias = layers[0].bias is not None
    with torch.device("meta"):
        fused = linear(layers[0].in_features, sum(layer.out_features for layer in layers), bias=has_bias)
    for name in ("weight", "bias") if has_bias else ("weight",):
        pieces = [getattr(layer, name) for layer in layers]
        rows = torch.cat([piece.detach().full_tensor() for piece in pieces])
        mesh = pieces[0].device_mesh
        spread = distribute_tensor(rows, mesh, [Shard(0)] * mesh.ndim, src_data_rank=None)
        setattr(fused, name, nn.Parameter(spread, requires_grad=pieces[0].requires_grad))
    return fused
