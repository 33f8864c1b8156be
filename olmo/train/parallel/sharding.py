"""Copies (DDP) and shards (FSDP2) of a model, and what has to know how a parameter is spread: norms, gathering.

What is sharded on its own is what `ModelBase.get_fsdp_wrap_policy` names; the rest goes with the root.

Source: Rajbhandari et al. 2020 (ZeRO); Zhao et al. 2023 (PyTorch FSDP).
"""

from __future__ import annotations

import functools
from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import CPUOffloadPolicy, FSDPModule, MixedPrecisionPolicy, OffloadPolicy, fully_shard
from torch.distributed.tensor import DTensor, Replicate
from torch.nn.parallel import DistributedDataParallel

from olmo.models.base import ModelBase
from olmo.torch_util import DTYPES
from olmo.train.parallel.activation_checkpointing import transformer_blocks
from olmo.train.parallel.config import FloatName, ParallelConfig
from olmo.train.parallel.empty_pictures import with_pictures

_EPS = 1e-6  # as the released models were clipped: factor = min(1, limit / (norm + 1e-6))


class _Forward(nn.Module):
    """A module that calls another one's forward; it has the same parameters."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.inner = module
        self.call = module.forward

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the other module's forward gives."""
        return self.call(*args, **kwargs)


def exchange_gradients(module: nn.Module, group: dist.ProcessGroup | None) -> DistributedDataParallel:
    """Let a backward pass through `module` average its gradients over the processes of `group`.

    The module stays the one to call and to save, under the same names: `DistributedDataParallel` stands behind its
    `forward` instead of around it.

    Returns:
        The engine, for its `no_sync`.
    """
    # A batch without pictures, and the last ViT block, leave parameters without a gradient.
    engine = DistributedDataParallel(_Forward(module), process_group=group, find_unused_parameters=True)
    module.forward = functools.partial(engine)
    return engine


def units(module: nn.Module) -> list[nn.Module]:
    """The modules below `module` that are sharded on their own, inner ones first.

    Those that the wrap policy of the model names, where `module` has one; else its transformer blocks.
    """
    make_policy = getattr(module, "get_fsdp_wrap_policy", None)
    if make_policy is None:
        return [block for _, block in transformer_blocks(module)]
    policy = make_policy()
    chosen = [m for m in module.modules() if m is not module and policy(module=m, recurse=False, nonwrapped_numel=0)]
    return chosen[::-1]


def shard(module: nn.Module, mesh: DeviceMesh, config: ParallelConfig, others: Collection[nn.Parameter] = ()) -> None:
    """Split the parameters of `module` over `mesh`, in place.

    Args:
        module: weights equal in every process, on any device; the shards end up on that of the mesh.
        mesh: one dimension, or two of replicas and shards.
        config: types on the way, what happens after a forward pass, where shards live.
        others: parameters to leave as they are.
    """
    gathered = None if config.param_dtype is FloatName.float32 else DTYPES[config.param_dtype]
    # Where nothing is cast, FSDP2 should know: it keeps a second sum of gradients for a type that it thinks another.
    reduced = None if config.reduce_dtype is config.param_dtype else DTYPES[config.reduce_dtype]
    options: dict[str, Any] = {
        "mesh": mesh,
        # Inputs are not cast: the residual stream stays as precise as autocast keeps it on one device.
        "mp_policy": MixedPrecisionPolicy(param_dtype=gathered, reduce_dtype=reduced, cast_forward_inputs=False),
        "offload_policy": CPUOffloadPolicy() if config.cpu_offload else OffloadPolicy(),
        "ignored_params": set(others) or None,
    }
    for unit in units(module):
        if any(True for _ in unit.parameters()):
            fully_shard(unit, reshard_after_forward=config.reshard_after_forward, **options)
    fully_shard(module, reshard_after_forward=False, **options)
    if isinstance(module, ModelBase):
        module.register_forward_pre_hook(_give_pictures, with_kwargs=True)


def _give_pictures(
    model: ModelBase, args: tuple[Any, ...], kwargs: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """Every process runs the picture encoder in every pass, on nothing where it has no picture."""
    if args or kwargs.get("past_key_values") is not None:
        return args, kwargs
    return args, with_pictures(kwargs, model.config)


def gather_once(module: nn.Module) -> None:
    """Gather and free each part of a sharded module.

    Torch 2.13 fails on a part that has never been gathered when gradients are added up in another type than they are
    made in. The blocks of a ViT behind the last one that is read are never gathered otherwise.
    """
    for part in _sharded_parts(module):
        part.unshard()
        part.reshard()


@contextmanager
def whole_weights(module: nn.Module, config: ParallelConfig) -> Iterator[None]:
    """Gather all weights of a sharded module in every process until the block ends; no message is sent within."""
    sharded = _sharded_parts(module)
    for part in sharded:
        part.set_reshard_after_forward(False, recurse=False)
        part.unshard()
    try:
        yield
    finally:
        for part in sharded:
            part.reshard()
            part.set_reshard_after_forward(config.reshard_after_forward and part is not sharded[0], recurse=False)


def _sharded_parts(module: nn.Module) -> list[FSDPModule]:
    """All that is sharded on its own, the root first."""
    parts: list[FSDPModule] = [m for m in module.modules() if isinstance(m, FSDPModule)]
    # Before its first forward the root does not know yet that it is one, and a part of it would take its place.
    parts[0]._get_fsdp_state()._lazy_init()
    return parts


def layout_of(parameter: torch.Tensor) -> Hashable:
    """How a parameter is spread; one call of a fused optimizer takes parameters of one layout only."""
    if not isinstance(parameter, DTensor):
        return None
    return parameter.device_mesh.mesh_dim_names, str(parameter.placements)


def by_layout(parameters: Mapping[str, nn.Parameter]) -> list[dict[str, nn.Parameter]]:
    """Named parameters in groups of one layout each: one group but for tensor parallelism."""
    groups: dict[Hashable, dict[str, nn.Parameter]] = {}
    for name, parameter in parameters.items():
        groups.setdefault(layout_of(parameter), {})[name] = parameter
    return list(groups.values())


def local_part(tensor: torch.Tensor) -> torch.Tensor:
    """What this process holds of a tensor; shares its memory."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def clip_gradients(parameters: Sequence[nn.Parameter], max_norm: float) -> float:
    """Scale gradients down to a common norm of `max_norm`, wherever their parts are.

    `torch.nn.utils.clip_grad_norm_` takes parameters of one layout only; tensor parallelism has several.

    Args:
        parameters: any mixture of plain and sharded ones, the same in every process.
        max_norm: largest norm; 0 only measures.

    Returns:
        The norm before.
    """
    groups = by_layout({str(i): parameter for i, parameter in enumerate(parameters)})
    norm = sum(_squared_norm(list(group.values())) for group in groups) ** 0.5
    gradients = [local_part(p.grad) for p in parameters if p.grad is not None]
    if max_norm > 0 and gradients:
        torch._foreach_mul_(gradients, min(1.0, max_norm / (norm + _EPS)))
    return norm


def _squared_norm(parameters: Sequence[nn.Parameter]) -> float:
    """Sum of the squared gradients of parameters of one layout, over all processes that hold a part."""
    like = parameters[0]
    gradients = [local_part(p.grad) for p in parameters if p.grad is not None]
    square = torch.zeros((), dtype=torch.float32, device=like.device)
    if gradients:
        square += nn.utils.get_total_norm(gradients).square()
    if isinstance(like, DTensor):
        for dim, placement in enumerate(like.placements):
            if not isinstance(placement, Replicate):
                dist.all_reduce(square, group=like.device_mesh.get_group(dim))
    return float(square)
