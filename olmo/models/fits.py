"""What fits where: the memory of the devices that torch can use here, and the models that have room in it.

Memory of a model is the arithmetic of `olmo.models.info`: its weights, and the cache of one full context. A tenth comes
on top for activations and workspaces. Nothing is allocated, so the answer is a plan and no promise.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import torch

from olmo.models.info import ModelInfo

HEADROOM = 1.1
"""What a model needs for each byte of its weights and cache."""

_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")
_MEMORY_FACTS = Path("/proc/meminfo")


class Fit(StrEnum):
    """Whether a model has room on a device."""

    yes = "yes"
    """It fits into what is free now."""

    tight = "tight"
    """It fits into the device, but not beside what is there now."""

    no = "no"
    """It needs more than the device has."""


@dataclass(frozen=True)
class DeviceMemory:
    """A device that models can run on."""

    device: str
    """As `device=` takes it: cpu, cuda:0, mps."""

    name: str
    """What it is called by its maker; empty where torch does not tell."""

    total_bytes: int | None
    """Memory of the device, or what this process may use of it; None where it cannot be found out."""

    free_bytes: int | None
    """What is free of it now; None where it cannot be found out."""

    def fit(self, needed_bytes: int) -> Fit | None:
        """Whether `needed_bytes` have room; None where the memory is not known."""
        if self.total_bytes is None:
            return None
        if needed_bytes > self.total_bytes:
            return Fit.no
        return Fit.yes if self.free_bytes is None or needed_bytes <= self.free_bytes else Fit.tight


def needed_bytes(info: ModelInfo) -> dict[str, int]:
    """Bytes that a model needs to answer, by number format: fp32, bf16, int8."""
    return {name: round(memory.total_bytes * HEADROOM) for name, memory in info.memory.items()}


def device_memories() -> list[DeviceMemory]:
    """Every device that torch can use here: the CPU, then GPUs."""
    found = [DeviceMemory("cpu", "", *_cpu_memory())]
    for index in range(torch.cuda.device_count()):
        free, total = torch.cuda.mem_get_info(index)
        found.append(DeviceMemory(f"cuda:{index}", torch.cuda.get_device_name(index), total, free))
    if torch.backends.mps.is_available():
        total = torch.mps.recommended_max_memory()
        found.append(DeviceMemory("mps", "", total, total - torch.mps.driver_allocated_memory()))
    return found


def _cpu_memory() -> tuple[int | None, int | None]:
    """Memory of the machine, or the limit of the container, and what is free; None where the system does not tell."""
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, OSError, ValueError):  # Windows has no such call
        return None, None
    for file in map(Path, _CGROUP_LIMITS):
        limit = _read(file).strip()
        if limit.isdigit():
            total = min(total, int(limit))
    return total, _available(total)


def _available(total: int) -> int | None:
    """What Linux would hand out without swapping, at most `total`."""
    for line in _read(_MEMORY_FACTS).splitlines():
        name, _, value = line.partition(":")
        if name == "MemAvailable":
            return min(total, int(value.split()[0]) * 1024)
    return None


def _read(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError:
        return ""
