"""Activation checkpointing: which blocks forget what they computed and compute it again in the backward pass.

It trades time for memory and changes no result. Blocks are found by their place (the lists named `blocks`), and their
`forward` is replaced on the instance, so no parameter gets another name and checkpoints do not notice.

Source: Chen et al. 2016, Training deep nets with sublinear memory cost.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import CheckpointPolicy, checkpoint, create_selective_checkpoint_contexts

from olmo.config import ConfigEnum


class ActivationCheckpointing(ConfigEnum):
    """Which blocks are computed twice. `fine_grained`: all, but results of matrix products are kept."""

    whole_layer = "whole_layer"
    one_in_two = "one_in_two"
    one_in_three = "one_in_three"
    one_in_four = "one_in_four"
    two_in_three = "two_in_three"
    three_in_four = "three_in_four"
    fine_grained = "fine_grained"


_KEPT: dict[ActivationCheckpointing, tuple[int, int]] = {
    ActivationCheckpointing.whole_layer: (1, 1),
    ActivationCheckpointing.fine_grained: (1, 1),
    ActivationCheckpointing.one_in_two: (1, 2),
    ActivationCheckpointing.one_in_three: (1, 3),
    ActivationCheckpointing.one_in_four: (1, 4),
    ActivationCheckpointing.two_in_three: (2, 3),
    ActivationCheckpointing.three_in_four: (3, 4),
}
"""So many of each so many blocks are checkpointed."""

_COSTLY = {
    torch.ops.aten.mm.default,
    torch.ops.aten.addmm.default,
    torch.ops.aten.bmm.default,
    torch.ops.aten._scaled_dot_product_flash_attention.default,
    torch.ops.aten._scaled_dot_product_efficient_attention.default,
    torch.ops.aten._scaled_dot_product_cudnn_attention.default,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu.default,
}
"""Operators whose results `fine_grained` keeps: products and fused attention. The rest is cheap to compute again."""


def is_checkpointed(mode: ActivationCheckpointing, layer: int) -> bool:
    """Whether the block at index `layer` (from 0) of its list is computed twice under `mode`."""
    chosen, out_of = _KEPT[mode]
    return layer % out_of < chosen


def transformer_blocks(module: nn.Module) -> Iterator[tuple[int, nn.Module]]:
    """Every block of every list named `blocks` below `module`, with its index in that list."""
    for name, child in module.named_modules():
        if isinstance(child, nn.ModuleList) and name.rpartition(".")[2] == "blocks":
            yield from enumerate(child)


def checkpoint_activations(module: nn.Module, mode: ActivationCheckpointing) -> int:
    """Let the blocks below `module` that `mode` chooses compute their activations again in the backward pass.

    Args:
        module: the model, or a part of it; before it is sharded.
        mode: which blocks.

    Returns:
        How many blocks were changed.
    """
    chosen = [block for layer, block in transformer_blocks(module) if is_checkpointed(mode, layer)]
    context = _keep_products if mode is ActivationCheckpointing.fine_grained else None
    for block in chosen:
        block.forward = functools.partial(_recomputed, block.forward, context)
    return len(chosen)


def _recomputed(forward: Callable[..., Any], context: Callable[[], Any] | None, *args: Any, **kwargs: Any) -> Any:
    """`forward` under a checkpoint, where there will be a backward pass."""
    if not torch.is_grad_enabled():
        return forward(*args, **kwargs)
    if context is None:
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)
    return checkpoint(forward, *args, use_reentrant=False, context_fn=context, **kwargs)


def _keep_products() -> Any:
    return create_selective_checkpoint_contexts(_policy)


def _policy(_context: Any, operator: Any, *_: Any, **__: Any) -> CheckpointPolicy:
    return CheckpointPolicy.MUST_SAVE if operator in _COSTLY else CheckpointPolicy.PREFER_RECOMPUTE
