"""Expert parallelism: each process holds a share of the experts, and tokens travel instead of weights.

The processes that split the data split the experts too. In every routed layer they tell each other how many tokens are
coming, send them, compute, and send the results back. The experts are parameters of their own layout, split along the
first axis, which FSDP2 leaves alone.

Source: Lepikhin et al. 2020 (GShard), section 3; here without a capacity, so no token is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.distributed._functional_collectives import all_to_all_single_autograd
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor, Shard

from olmo.exceptions import OLMoConfigurationError
from olmo.nn.moe import RoutedMlp, expert_products
from olmo.train.parallel.sharding import local_part

EXPERTS = ("experts_in", "experts_out")


def split_experts(module: nn.Module, mesh: DeviceMesh) -> set[nn.Parameter]:
    """Leave to each process of `mesh` its share of the experts of every routed layer below `module`, in place.

    Args:
        module: weights equal in every process, or on the meta device.
        mesh: one dimension, that of the data.

    Returns:
        The split parameters.

    Raises:
        OLMoConfigurationError: there are no experts, or their number cannot be divided.
    """
    layers = [m for m in module.modules() if isinstance(m, RoutedMlp)]
    if not layers:
        raise OLMoConfigurationError("splits experts, and this model has none", "parallel.expert_parallel")
    if layers[0].n_experts % mesh.size():
        raise OLMoConfigurationError(
            f"{mesh.size()} processes do not divide {layers[0].n_experts} experts; start a number that does",
            "parallel.expert_parallel",
        )
    for routed in layers:
        for name in EXPERTS:
            whole = getattr(routed, name)
            part = whole.detach().chunk(mesh.size())[mesh.get_local_rank()].clone()
            part = part if part.is_meta else part.to(mesh.device_type)
            split = DTensor.from_local(part, mesh, [Shard(0)], run_check=False)
            setattr(routed, name, nn.Parameter(split, requires_grad=whole.requires_grad))
        routed.experts = _Dispatch(routed, mesh.get_group())  # type: ignore[method-assign]
    return {getattr(routed, name) for routed in layers for name in EXPERTS}


@contextmanager
def gathered_experts(module: nn.Module) -> Iterator[None]:
    """Give every process all experts until the block ends, so that no message is sent within."""
    found = [m.experts for m in module.modules() if isinstance(m, RoutedMlp) and isinstance(m.experts, _Dispatch)]
    for dispatch in found:
        dispatch.gather()
    try:
        yield
    finally:
        for dispatch in found:
            dispatch.whole = None


class _Dispatch:
    """In the place of `RoutedMlp.experts`: tokens go to the process that holds their expert, and come back."""

    def __init__(self, routed: RoutedMlp, group: dist.ProcessGroup) -> None:
        self.routed, self.group, self.n_processes = routed, group, dist.get_world_size(group)
        self.whole: tuple[Tensor, Tensor] | None = None

    def gather(self) -> None:
        """Hold all experts for a while."""
        full = [getattr(self.routed, name).detach().full_tensor() for name in EXPERTS]
        self.whole = full[0], full[1]

    def __call__(self, tokens: Tensor, counts: Tensor) -> Tensor:
        """As `RoutedMlp.experts`: tokens `[n, D]` sorted by expert, their numbers `[E]`; returns `[n, D]`."""
        if self.whole is not None:
            return expert_products(tokens, counts, *self.whole, self.routed.backend)
        sent = counts.view(self.n_processes, -1).contiguous()  # [processes, experts of each]
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=self.group)
        to, of = sent.sum(1).tolist(), received.sum(1).tolist()
        arrived = all_to_all_single_autograd(tokens.contiguous(), of, to, self.group)
        # They come sorted by process, then by expert.
        experts = torch.arange(sent.shape[1], device=tokens.device).repeat(self.n_processes)
        order = experts.repeat_interleave(received.flatten()).argsort(stable=True)
        weights = [_Averaged.apply(local_part(getattr(self.routed, name)), self.n_processes) for name in EXPERTS]
        results = expert_products(arrived[order], received.sum(0), weights[0], weights[1], self.routed.backend)
        back = torch.empty_like(order).scatter_(0, order, torch.arange(len(order), device=order.device))
        return all_to_all_single_autograd(results[back].contiguous(), to, of, self.group)


class _Averaged(torch.autograd.Function):
    """Passes weights on and divides their gradient.

    An expert's gradient comes from the tokens of all processes already, where that of other weights is averaged over
    the processes; losses are scaled for the latter.
    """

    @staticmethod
    def forward(ctx: Any, weight: Tensor, n_processes: int) -> Tensor:
        ctx.n_processes = n_processes
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] / ctx.n_processes, None
