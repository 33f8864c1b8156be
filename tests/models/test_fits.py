from __future__ import annotations

from pathlib import Path

import pytest
import torch

from olmo.models import fits
from olmo.models.fits import DeviceMemory, Fit, device_memories, needed_bytes
from olmo.models.info import Memory, ModelInfo

GIB = 2**30


def test_a_tenth_comes_on_top() -> None:
    info = ModelInfo(1, 1, {}, 1, {"fp32": Memory(8 * GIB, 2 * GIB), "bf16": Memory(4 * GIB, GIB)})
    assert needed_bytes(info) == {"fp32": 11 * GIB, "bf16": round(5.5 * GIB)}


@pytest.mark.parametrize(
    ("total", "free", "expected"),
    [(16, 12, Fit.yes), (16, 10, Fit.yes), (16, 9, Fit.tight), (9, 9, Fit.no), (16, None, Fit.yes), (None, None, None)],
)
def test_fit(total: int | None, free: int | None, expected: Fit | None) -> None:
    assert DeviceMemory("cpu", "", total, free).fit(10) is expected


def test_the_cpu_is_always_there() -> None:
    cpu = device_memories()[0]
    assert cpu.device == "cpu"
    if cpu.total_bytes is not None and cpu.free_bytes is not None:
        assert 0 < cpu.free_bytes <= cpu.total_bytes


def test_the_limit_of_a_container_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limit = tmp_path / "memory.max"
    facts = tmp_path / "meminfo"
    facts.write_text("MemTotal: 99 kB\nMemAvailable:    4096 kB\n")
    monkeypatch.setattr(fits, "_CGROUP_LIMITS", (str(tmp_path / "none"), str(limit)))
    monkeypatch.setattr(fits, "_MEMORY_FACTS", facts)
    monkeypatch.setattr(fits.os, "sysconf", lambda name: {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": 2048}[name])
    for text, total, free in (("max\n", 8 * 2**20, 4 * 2**20), (f"{2**20}\n", 2**20, 2**20)):
        limit.write_text(text)
        cpu = device_memories()[0]
        assert (cpu.total_bytes, cpu.free_bytes) == (total, free)


def test_a_system_that_does_not_tell(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(name: str) -> int:
        raise ValueError(name)

    monkeypatch.setattr(fits.os, "sysconf", fail)
    cpu = device_memories()[0]
    assert (cpu.total_bytes, cpu.free_bytes, cpu.fit(1)) == (None, None, None)


def test_accelerators_are_listed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda index: (10 + index, 20 + index))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: f"card {index}")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "recommended_max_memory", lambda: 30)
    monkeypatch.setattr(torch.mps, "driver_allocated_memory", lambda: 12)
    assert device_memories()[1:] == [
        DeviceMemory("cuda:0", "card 0", 20, 10),
        DeviceMemory("cuda:1", "card 1", 21, 11),
        DeviceMemory("mps", "", 30, 18),
    ]


@pytest.mark.gpu
def test_the_memory_of_a_real_card() -> None:
    card = device_memories()[1]
    assert card.device == "cuda:0" and card.name
    assert card.total_bytes is not None and card.free_bytes is not None
    assert GIB < card.free_bytes <= card.total_bytes
