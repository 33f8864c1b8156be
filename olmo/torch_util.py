"""Small facts about torch that several rooms need: data types by name, speed of bfloat16, this process's place."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch

from olmo.exceptions import OLMoConfigurationError

DTYPES: dict[str, torch.dtype] = {
    "float32": torch.float32,
    "fp32": torch.float32,
    "bfloat16": torch.bfloat16,
    "bf16": torch.bfloat16,
    "float16": torch.float16,
    "fp16": torch.float16,
}
"""Names accepted for the data type of weights."""


def resolve_dtype(dtype: str | torch.dtype | None) -> torch.dtype | None:
    """The data type that a name means.

    Args:
        dtype: a floating `torch.dtype`, one of the names in `DTYPES` (also as `torch.bfloat16`), "auto" or None.

    Returns:
        The data type; float32 for None; None for "auto", which means: the one the weights were saved in.

    Raises:
        OLMoConfigurationError: another name, or a type that is not floating point.
    """
    if dtype is None:
        return torch.float32
    if isinstance(dtype, str) and dtype == "auto":
        return None
    if isinstance(dtype, torch.dtype) and dtype.is_floating_point:
        return dtype
    if isinstance(dtype, str) and dtype.removeprefix("torch.") in DTYPES:
        return DTYPES[dtype.removeprefix("torch.")]
    raise OLMoConfigurationError(f"{dtype!r} is not one of 'auto', {', '.join(map(repr, DTYPES))}", "dtype")


def autocast_dtype(device_type: str) -> torch.dtype | None:
    """The type that autocast computes in on a kind of device; None where it is off, or unknown as on `meta`."""
    if not torch.amp.is_autocast_available(device_type) or not torch.is_autocast_enabled(device_type):
        return None
    return torch.get_autocast_dtype(device_type)


def without_autocast(device_type: str) -> AbstractContextManager[object]:
    """A context in which nothing is cast on a kind of device, `meta` among them."""
    if not torch.amp.is_autocast_available(device_type):
        return nullcontext()
    return torch.autocast(device_type, enabled=False)


def bfloat16_slowdown(side: int = 192) -> float:
    """How many times longer this CPU takes for a product of matrices in bfloat16 than in float32, measured here.

    Below 1 where it has units for it (AVX512-BF16, AMX), about 100 on x86 processors without.

    Args:
        side: of the square matrices.
    """
    fastest: dict[torch.dtype, float] = {}
    for dtype in (torch.float32, torch.bfloat16):
        matrix = torch.ones(side, side, dtype=dtype)
        torch.mm(matrix, matrix)  # the first one prepares the kernel
        spans = []
        for _ in range(10):  # the fastest counts, for other work on the machine only slows
            start = time.perf_counter()
            torch.mm(matrix, matrix)
            spans.append(time.perf_counter() - start)
        fastest[dtype] = min(spans)
    return fastest[torch.bfloat16] / fastest[torch.float32]


@dataclass(frozen=True)
class LaunchFacts:
    """Where this process stands among those that were started together."""

    rank: int = 0
    """Number of this process, 0 to world_size - 1."""

    world_size: int = 1
    """Processes in all."""

    local_rank: int = 0
    """Number of this process on its machine."""

    local_world_size: int = 1
    """Processes on this machine."""


def launch_facts() -> LaunchFacts:
    """What `torchrun` wrote into the environment (RANK, WORLD_SIZE, ...); one process where it did not start this one.

    Raises:
        OLMoConfigurationError: some of the variables are set and others are missing, or one is no number.
    """
    if "RANK" not in os.environ and "WORLD_SIZE" not in os.environ:
        return LaunchFacts()
    wanted = ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
    missing = [name for name in wanted if name not in os.environ]
    if missing:
        raise OLMoConfigurationError(
            f"RANK or WORLD_SIZE is set, so this is one of many processes, but {', '.join(missing)} is not; start with "
            "torchrun, or unset them to run one process"
        )
    values = {}
    for name, otherwise in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "1")):
        text = os.environ.get(name, otherwise)
        if not text.isdigit():
            raise OLMoConfigurationError(f"environment variable {name} is {text!r}, not a number; start with torchrun")
        values[name.lower()] = int(text)
    return LaunchFacts(**values)
