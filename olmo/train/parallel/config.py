"""Configuration of a run on many processes: who holds which part of the weights, and in which types they travel."""

from __future__ import annotations

from dataclasses import dataclass

from olmo.config import BaseConfig, ConfigEnum
from olmo.exceptions import OLMoConfigurationError


class Strategy(ConfigEnum):
    """How processes that see different data share the model."""

    auto = "auto"
    none = "none"
    ddp = "ddp"
    fsdp2 = "fsdp2"
    hsdp = "hsdp"

    @property
    def shards(self) -> bool:
        """Whether a process holds a part of each weight only."""
        return self in (Strategy.fsdp2, Strategy.hsdp)


class FloatName(ConfigEnum):
    """A type that numbers are sent in."""

    float32 = "float32"
    bfloat16 = "bfloat16"


@dataclass(kw_only=True)
class ParallelConfig(BaseConfig):
    """How a run is spread over processes. On one process nothing of it matters."""

    strategy: Strategy = Strategy.auto
    """`auto`: `none` on one process, `fsdp2` on several. `ddp`: every process holds everything. `fsdp2`: weights,
    gradients and moments are split over all processes. `hsdp`: split inside groups of `shard_size`, repeated over the
    groups."""

    tensor_parallel: int = 1
    """Processes that compute one example together, each a share of the heads and of the feed-forward; neighbours by
    rank. They see the same data. Goes with `none`, `fsdp2` and `hsdp`."""

    expert_parallel: bool = False
    """For a routed model with `fsdp2`: each process holds a share of the experts, and tokens travel to them and back
    instead of the experts' weights."""

    shard_size: int = 0
    """For `hsdp`: processes that split one copy of the weights; 0 takes those of one machine."""

    reshard_after_forward: bool = True
    """For `fsdp2` and `hsdp`: free the gathered weights of a block after its forward and gather them again for the
    backward. False keeps them: less traffic, more memory."""

    param_dtype: FloatName = FloatName.float32
    """Type in which split weights are gathered and handed to the layers. `float32` with `precision: amp_bf16` is what
    the released models were trained with; `bfloat16` halves traffic and gathered memory."""

    reduce_dtype: FloatName = FloatName.float32
    """Type in which gradients are summed over processes. bfloat16 was measurably worse for the released models."""

    exchange_each_micro_batch: bool = False
    """Exchange gradients after every micro-batch instead of once a step. More traffic; but with `fsdp2` and `hsdp` no
    process holds whole gradients between micro-batches, which take 4 bytes a parameter."""

    cpu_offload: bool = False
    """For `fsdp2` and `hsdp` on GPUs: keep weights, gradients and moments in the memory of the machine."""

    timeout_s: float = 1800.0
    """Seconds that a process waits for the others before the run ends with an error."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.tensor_parallel < 1:
            raise OLMoConfigurationError(f"must be at least 1, got {self.tensor_parallel}", "tensor_parallel")
        if self.shard_size < 0:
            raise OLMoConfigurationError(f"must be 0 (one machine) or more, got {self.shard_size}", "shard_size")
        if self.timeout_s <= 0:
            raise OLMoConfigurationError(f"must be above 0 seconds, got {self.timeout_s}", "timeout_s")
        if self.shard_size and self.strategy is not Strategy.hsdp:
            raise OLMoConfigurationError("is for strategy: hsdp; leave it at 0 or set that strategy", "shard_size")
        if self.expert_parallel and (self.strategy not in (Strategy.auto, Strategy.fsdp2) or self.tensor_parallel > 1):
            raise OLMoConfigurationError(
                "goes with strategy: fsdp2 and without tensor_parallel; leave it out or change those", "expert_parallel"
            )
        if self.expert_parallel and self.cpu_offload:
            raise OLMoConfigurationError("does not go with cpu_offload; leave one of them out", "expert_parallel")
        if self.tensor_parallel > 1 and self.strategy is Strategy.ddp:
            raise OLMoConfigurationError("does not go with strategy: ddp; use fsdp2, hsdp or none", "tensor_parallel")
