"""Tensor parallel inference: the processes that answer together, and weights of which each keeps its share.

`torchrun` starts the processes. Each calls the same model with the same inputs, and each gets the answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch import distributed as dist

from olmo.checkpoint.module_tensors import WideTensor
from olmo.exceptions import OLMoConfigurationError
from olmo.nn.head_shares import ShareOfTensor
from olmo.torch_util import launch_facts

_PREFIX = "llm."


@dataclass(frozen=True)
class Together:
    """The processes that answer together, as one of them sees them."""

    rank: int
    """Number of this process."""

    size: int
    """Processes."""

    device: torch.device
    """Where this one computes."""


def join_processes(device: str | torch.device = "cpu") -> Together:
    """Meet the other processes that `torchrun` started; once is enough. Random draws are the same in all afterwards.

    Args:
        device: `cpu`, or `cuda`: then each process takes the GPU of its own number on its machine.

    Raises:
        OLMoConfigurationError: there is only this process, or its machine has too few GPUs.
    """
    facts = launch_facts()
    if facts.world_size < 2:
        raise OLMoConfigurationError(
            "takes several processes and this is the only one; start them with torchrun --standalone "
            "--nproc-per-node 2 -m olmo.cli.main ...",
            "tensor_parallel",
        )
    place = torch.device(device)
    if place.type == "cuda":
        if facts.local_rank >= torch.cuda.device_count():
            raise OLMoConfigurationError(
                f"process {facts.local_rank} of this machine has no GPU, there are {torch.cuda.device_count()}; start "
                "at most so many (torchrun --nproc-per-node)",
                "tensor_parallel",
            )
        place = torch.device("cuda", facts.local_rank)
        torch.cuda.set_device(place)
    if not dist.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
        dist.init_process_group(backend, rank=facts.rank, world_size=facts.world_size)
        seed = torch.tensor([torch.seed() % 2**62])
        dist.broadcast(seed, src=0)
        torch.manual_seed(int(seed))
    return Together(facts.rank, facts.world_size, place)


def leave_processes() -> None:
    """Part from the others, after the last answer; harmless where there are none."""
    if dist.is_initialized():
        dist.destroy_process_group()


def shares_to_read(
    model: nn.Module,
    shares: Mapping[str, ShareOfTensor],
    narrow: Mapping[str, WideTensor],
    dtype: torch.dtype | None,
    device: torch.device,
) -> dict[str, WideTensor]:
    """For loading whole weights into one process's share: what is cut as it is read, with what else is changed then.

    Args:
        model: on the meta device, with its share taken.
        shares: of its language model, by name there.
        narrow: matrices that are rounded as they are read.
        dtype: type of what stays floating point; None keeps the stored one.
        device: where the weights go.
    """

    def reader(name: str, share: ShareOfTensor) -> WideTensor:
        parent, _, leaf = name.rpartition(".")
        rounded = narrow.get(name)

        def take(whole: Tensor) -> None:
            part = share.cut(whole)
            if rounded is not None:
                rounded.take(part)
                return
            made = torch.empty(part.shape, dtype=dtype or part.dtype, device=device).copy_(part)
            setattr(model.get_submodule(parent), leaf, nn.Parameter(made, requires_grad=False))

        return WideTensor(share.shape, (name,) if rounded is None else rounded.replaces, take)

    return {**narrow, **{_PREFIX + name: reader(_PREFIX + name, share) for name, share in shares.items()}}
