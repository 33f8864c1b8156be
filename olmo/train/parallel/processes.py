"""The processes of a run: who this one is, how the model is spread over them, and what they tell each other.

On one process every method is trivial and no process group exists. The model code knows nothing of this module.

    parallel = init_parallel(config.parallel)
    parallel.wrap(module)                     # every parameter that will ever learn requires a gradient by now
    for i, batch in enumerate(micro_batches):
        with parallel.micro_batch(is_last=i == n - 1):
            (loss(module, batch) * parallel.gradient_scale).backward()
    norms = parallel.clip(components, 1.0)
"""

from __future__ import annotations

import contextlib
import datetime
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import overload

import torch
from torch import distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel

from olmo.exceptions import OLMoConfigurationError, OLMoTrainingError
from olmo.torch_util import LaunchFacts, launch_facts
from olmo.train.parallel.activation_checkpointing import ActivationCheckpointing, checkpoint_activations
from olmo.train.parallel.compile import compile_blocks
from olmo.train.parallel.config import ParallelConfig, Strategy
from olmo.train.parallel.expert_parallel import gathered_experts, split_experts
from olmo.train.parallel.sharding import clip_gradients, exchange_gradients, gather_once, shard, whole_weights
from olmo.train.parallel.tensor_parallel import join_heads, split_heads

Number = float | torch.Tensor


@dataclass(frozen=True)
class Layout:
    """How the processes are arranged.

    Attributes:
        strategy: how processes with different data share the model; never `auto`.
        replicas: groups that hold a copy of the weights each (`hsdp`).
        shards: processes that split one copy.
        tensor: processes that compute one example together.
    """

    strategy: Strategy
    replicas: int = 1
    shards: int = 1
    tensor: int = 1

    @property
    def data(self) -> int:
        """Processes, or groups of `tensor` processes, that see different data."""
        return self.replicas * self.shards


def plan_layout(config: ParallelConfig, world_size: int, local_world_size: int = 1) -> Layout:
    """How `world_size` processes are arranged.

    Args:
        config: what is wanted.
        world_size: processes in all.
        local_world_size: processes on a machine.

    Raises:
        OLMoConfigurationError: the numbers do not divide, or every process would train alone.
    """
    if world_size == 1:
        return Layout(Strategy.none)
    tensor = config.tensor_parallel
    if world_size % tensor:
        raise OLMoConfigurationError(f"{tensor} does not divide the {world_size} processes", "parallel.tensor_parallel")
    data, strategy = world_size // tensor, config.strategy
    if strategy is Strategy.auto:
        strategy = Strategy.none if data == 1 else Strategy.fsdp2
    if strategy is Strategy.none and data > 1:
        raise OLMoConfigurationError(
            f"none on {world_size} processes would train {data} models that know nothing of each other; use auto, "
            "fsdp2, hsdp or ddp, or start one process",
            "parallel.strategy",
        )
    if config.cpu_offload and not strategy.shards:
        raise OLMoConfigurationError("needs strategy fsdp2 or hsdp and several processes", "parallel.cpu_offload")
    if strategy is not Strategy.hsdp:
        return Layout(strategy, shards=data, tensor=tensor)
    size = config.shard_size or max(1, local_world_size // tensor)
    if data % size:
        raise OLMoConfigurationError(
            f"{size} does not divide the {data} processes that see different data; give one that does",
            "parallel.shard_size",
        )
    return Layout(strategy, replicas=data // size, shards=size, tensor=tensor)


class Parallel:
    """The processes of a run as one of them sees them. Made by `init_parallel`.

    Attributes:
        rank: number of this process, from 0.
        world_size: processes in all.
        local_rank: number of this process on its machine, which is the number of its GPU.
        device: where this process computes.
        data_rank: which share of the data is this process's, from 0. Tensor-parallel neighbours have the same one. Seed
            what is random in the model with it too.
        data_world_size: number of shares.
        gradient_scale: factor for the loss of a micro-batch, because gradients are averaged over processes where they
            should be added up.
    """

    def __init__(self, config: ParallelConfig, layout: Layout, facts: LaunchFacts, device: torch.device) -> None:
        self.config, self.layout, self.device = config, layout, device
        self.rank, self.world_size, self.local_rank = facts.rank, facts.world_size, facts.local_rank
        self.data_rank, self.data_world_size = facts.rank // layout.tensor, layout.data
        self.gradient_scale = float(layout.data)
        self.mesh: DeviceMesh | None = None
        self._data_group: dist.ProcessGroup | None = None
        self._module: nn.Module | None = None
        self._exchange: DistributedDataParallel | None = None
        if facts.world_size > 1:
            shape = (layout.replicas, layout.shards, layout.tensor)
            self.mesh = init_device_mesh(device.type, shape, mesh_dim_names=("replica", "shard", "tensor"))
            self._data_group = _group_of_data(layout, facts.rank)

    @property
    def is_main(self) -> bool:
        """True in the one process that writes logs and shows progress."""
        return self.rank == 0

    # -- the model -------------------------------------------------------------------------------------------------

    def wrap(
        self,
        module: nn.Module,
        *,
        activation_checkpointing: ActivationCheckpointing | None = None,
        compile: bool = False,
    ) -> nn.Module:
        """Bring the model to the device and spread it over the processes.

        Whatever parameter will ever learn requires a gradient when this is called; freezing it afterwards for some
        steps is fine. Every process must hold the same weights, or none yet (a module on the meta device, which a
        checkpoint fills afterwards). Build the optimizer from the parameters that the module has after the call.

        Args:
            module: what is trained.
            activation_checkpointing: which blocks are computed again in the backward pass.
            compile: compile each block.

        Returns:
            The same module; parameters keep their names, but for `tensor_parallel` (see `join`).
        """
        # What is sharded goes to the device part by part, because the whole may not fit there.
        if not self.layout.strategy.shards and not _is_meta(module):
            module.to(self.device)
        if self.layout.tensor > 1:
            assert self.mesh is not None, "several processes have a mesh"
            split_heads(module, self.mesh["tensor"])
        if compile:
            compile_blocks(module)
        if activation_checkpointing is not None:
            checkpoint_activations(module, activation_checkpointing)
        if self.layout.strategy is Strategy.ddp:
            if _is_meta(module):
                raise OLMoTrainingError("ddp needs weights in every process; a module without any goes with fsdp2")
            self._exchange = exchange_gradients(module, self._data_group)
        elif self.layout.strategy.shards:
            assert self.mesh is not None, "several processes have a mesh"
            dims = ("replica", "shard") if self.layout.strategy is Strategy.hsdp else ("shard",)
            others = split_experts(module, self.mesh["shard"]) if self.config.expert_parallel else ()
            shard(module, self.mesh[dims], self.config, others)
        if _is_meta(module):
            module.to_empty(device="cpu" if self.config.cpu_offload else self.device)
        if self.layout.strategy.shards and self.config.param_dtype is not self.config.reduce_dtype:
            gather_once(module)
        self._module = module
        return module

    @contextlib.contextmanager
    def micro_batch(self, is_last: bool) -> Iterator[None]:
        """Around forward and backward of one micro-batch: gradients are exchanged in the last one of a step only.

        With `exchange_each_micro_batch` they are in each.
        """
        is_last = is_last or self.config.exchange_each_micro_batch
        if isinstance(self._module, FSDPModule):
            self._module.set_requires_gradient_sync(is_last)
            yield
        elif self._exchange is not None and not is_last:
            with self._exchange.no_sync():
                yield
        else:
            yield

    @contextlib.contextmanager
    def whole(self) -> Iterator[None]:
        """Gather all weights in every process for a while, so that processes may run the model independently.

        For evaluation by generation, where one process needs more steps than another. The model must fit the memory of
        one device in `param_dtype`. With `tensor_parallel`, neighbours still have to run the same calls.
        """
        if isinstance(self._module, FSDPModule):
            with whole_weights(self._module, self.config), gathered_experts(self._module):
                yield
        else:
            yield

    def join(self) -> None:
        """Before export: give weights the names of the published model again. Every process calls it.

        Tensor parallelism takes fused layers apart; the module cannot be run after this. Without it nothing changes.
        """
        if self.layout.tensor > 1 and self._module is not None:
            join_heads(self._module)

    def clip(
        self, components: Mapping[str, Mapping[str, nn.Parameter] | Iterable[nn.Parameter]], max_norm: float
    ) -> dict[str, float]:
        """Scale the gradients of each component down to a norm of `max_norm`, over all processes.

        Args:
            components: parameters by component.
            max_norm: largest norm; 0 only measures.

        Returns:
            Norm of each component before, the same in every process.
        """
        return {
            name: clip_gradients(list(p.values() if isinstance(p, Mapping) else p), max_norm)
            for name, p in components.items()
        }

    # -- talking ---------------------------------------------------------------------------------------------------

    @overload
    def sum(self, values: Number) -> float: ...
    @overload
    def sum(self, values: Sequence[Number]) -> list[float]: ...
    def sum(self, values: Number | Sequence[Number]) -> float | list[float]:
        """Sums over the shares of the data, in float64; the same in every process. One message for a whole list."""
        many = isinstance(values, Sequence)
        numbers: Sequence[Number] = values if isinstance(values, Sequence) else [values]
        plain = [float(v.detach()) if isinstance(v, torch.Tensor) else float(v) for v in numbers]
        if self._data_group is not None and plain:
            tensor = torch.tensor(plain, dtype=torch.float64, device=self.device)
            dist.all_reduce(tensor, group=self._data_group)
            plain = tensor.tolist()
        return plain if many else plain[0]

    def max(self, value: int) -> int:
        """The largest of an integer over all processes."""
        if self.world_size == 1:
            return value
        tensor = torch.tensor([value], dtype=torch.int64, device=self.device)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
        return int(tensor)

    def barrier(self) -> None:
        """Wait for all processes."""
        self.max(0)

    def close(self) -> None:
        """Leave the process group. The last thing a run does; harmless where there is none."""
        if self.world_size > 1 and dist.is_initialized():
            self.barrier()
            dist.destroy_process_group()


def init_parallel(config: ParallelConfig | None = None, device: torch.device | str | None = None) -> Parallel:
    """Join the other processes, where `torchrun` started several.

    Args:
        config: how to spread the model.
        device: where to compute; None: the GPU of this process's local rank if there is one, else the CPU.

    Raises:
        OLMoConfigurationError: the configuration does not fit the number of processes, or the environment is half set.
    """
    config, facts = config or ParallelConfig(), launch_facts()
    layout = plan_layout(config, facts.world_size, facts.local_world_size)
    place = _device(device, facts)
    if config.cpu_offload and place.type != "cuda" and facts.world_size > 1:
        raise OLMoConfigurationError("is for GPUs; this process computes on the CPU", "parallel.cpu_offload")
    if facts.world_size > 1 and not dist.is_initialized():
        # With weights kept on the CPU their gradients' norms travel there too.
        backend = "cpu:gloo,cuda:nccl" if place.type == "cuda" else "gloo"
        patience = datetime.timedelta(seconds=config.timeout_s)
        dist.init_process_group(backend, rank=facts.rank, world_size=facts.world_size, timeout=patience)
    return Parallel(config, layout, facts, place)


def _device(device: torch.device | str | None, facts: LaunchFacts) -> torch.device:
    if device is not None:
        return torch.device(device)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    if facts.local_rank >= torch.cuda.device_count():
        raise OLMoConfigurationError(
            f"this is process {facts.local_rank} of its machine, which has {torch.cuda.device_count()} GPUs; start at "
            "most so many processes on it (torchrun --nproc-per-node)"
        )
    torch.cuda.set_device(facts.local_rank)
    return torch.device("cuda", facts.local_rank)


def _group_of_data(layout: Layout, rank: int) -> dist.ProcessGroup | None:
    """The processes with the same place among their tensor-parallel neighbours; every process makes every group."""
    mine = None
    for place in range(layout.tensor):
        group = dist.new_group(list(range(place, layout.data * layout.tensor, layout.tensor)))
        if rank % layout.tensor == place:
            mine = group
    return mine


def _is_meta(module: nn.Module) -> bool:
    return any(parameter.is_meta for parameter in module.parameters())
