"""How fast a run goes: means over a stretch of steps, tokens a second, MFU, share of time spent waiting, memory.

MFU is the share of the hardware's peak that the model's own operations take: operations of the model (not those of
recomputed activations) over time and peak. Source: Chowdhery et al., "PaLM", 2022, appendix B.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping
from functools import cache

import torch

from olmo.exceptions import OLMoConfigurationError
from olmo.torch_util import resolve_dtype

try:
    import resource
except ImportError:  # Windows has no such module, and no figure for the memory of a process here
    resource = None  # type: ignore[assignment]

PEAK_TFLOPS: dict[str, dict[torch.dtype, float]] = {
    "B200": {torch.bfloat16: 2250.0, torch.float32: 75.0},
    "H200": {torch.bfloat16: 989.4, torch.float32: 66.9},
    "H100 NVL": {torch.bfloat16: 835.0, torch.float32: 60.0},
    "H100 PCIe": {torch.bfloat16: 756.0, torch.float32: 51.2},
    "H100": {torch.bfloat16: 989.4, torch.float32: 66.9},
    "A100": {torch.bfloat16: 312.0, torch.float32: 19.5},
    "L40S": {torch.bfloat16: 362.0, torch.float32: 91.6},
    "L4": {torch.bfloat16: 121.0, torch.float32: 30.3},
    "RTX 4090": {torch.bfloat16: 165.2, torch.float32: 82.6},
    "RTX 3090": {torch.bfloat16: 71.0, torch.float32: 35.6},
    "MI300X": {torch.bfloat16: 1307.4, torch.float32: 163.4},
}
"""Dense peak in TFLOP/s by what a device's name contains, the longer name first; float32 without TF32. float16 is as
bfloat16. Source: the makers' data sheets."""

AMOUNTS = ("step_s", "wait_s", "n_tokens", "n_examples", "flops")
"""Numbers of a step that are summed and turned into rates; see `olmo.train.watch.base`."""

_CPU_SIDE = 512  # of the matrices that a CPU's peak is measured with


def peak_flops_per_s(device: str, dtype: str = "float32", peak_tflops: float | None = None) -> float | None:
    """What one device can do at best.

    Args:
        device: `cpu`, `cuda`, `cuda:1`, ...
        dtype: number format of the products, `bfloat16` under autocast.
        peak_tflops: the answer where it is known, in TFLOP/s.

    Returns:
        Operations a second. A GPU is looked up by its name; None where it is not in the table. A CPU is measured, by a
        float32 product of square matrices whatever `dtype`, on the threads that torch has now.
    """
    if peak_tflops is not None:
        return peak_tflops * 1e12
    kind = torch.device(device).type
    if kind == "cpu":
        return _measured_cpu_peak(torch.get_num_threads())
    if kind != "cuda" or not torch.cuda.is_available():
        return None
    return known_peak(torch.cuda.get_device_name(device), dtype)


def known_peak(device_name: str, dtype: str) -> float | None:
    """Operations a second of a GPU by its name, such as `NVIDIA H100 80GB HBM3`; None for one not in `PEAK_TFLOPS`."""
    number_format = resolve_dtype(dtype)
    assert number_format is not None, "a run has a number format"
    number_format = torch.bfloat16 if number_format is torch.float16 else number_format
    words = f" {device_name.replace('-', ' ')} "
    for name in sorted(PEAK_TFLOPS, key=len, reverse=True):
        if f" {name} " in words and number_format in PEAK_TFLOPS[name]:
            return PEAK_TFLOPS[name][number_format] * 1e12
    return None


@cache
def _measured_cpu_peak(n_threads: int) -> float:
    """Best of five products; once for each number of threads, because it costs some milliseconds."""
    a, b = torch.rand(_CPU_SIDE, _CPU_SIDE), torch.rand(_CPU_SIDE, _CPU_SIDE)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        torch.mm(a, b)
        times.append(time.perf_counter() - start)
    return 2 * _CPU_SIDE**3 / max(min(times), 1e-9)


def peak_memory_gib(device: str) -> float | None:
    """Most memory that this process has held so far, in GiB.

    Args:
        device: for `cuda` the tensors on that GPU; for `cpu` all of the process, without the processes that load data.

    Returns:
        None where the system does not tell.
    """
    if torch.device(device).type == "cuda" and torch.cuda.is_available():
        return torch.cuda.max_memory_allocated(device) / 2**30
    if resource is None:
        return None
    scale = 1 if sys.platform == "darwin" else 1024  # bytes there, KiB elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * scale / 2**30


class StepWindow:
    """Gathers the numbers of some steps and gives one set for all of them.

    Args:
        peak_flops: operations a second of all devices together; None gives no MFU.
        device: whose memory is reported; None reports none.
    """

    def __init__(self, peak_flops: float | None = None, device: str | None = None) -> None:
        if peak_flops is not None and peak_flops <= 0:
            raise OLMoConfigurationError(f"must be above 0, got {peak_flops}", "peak_flops")
        self.peak_flops = peak_flops
        self.device = device
        self._sums: dict[str, float] = {}
        self._counts: dict[str, int] = {}

    def add(self, metrics: Mapping[str, float]) -> None:
        """Take the numbers of one step."""
        for name, value in metrics.items():
            if name.startswith("lr_"):
                self._sums[name], self._counts[name] = float(value), 1  # the last one is what holds now
            else:
                self._sums[name] = self._sums.get(name, 0.0) + float(value)
                self._counts[name] = self._counts.get(name, 0) + 1

    def close(self) -> dict[str, float]:
        """The numbers of all steps since the last call.

        Returns:
            Learning rates as they are now; `step_s`, the mean; `tokens_per_s`, `examples_per_s`, `wait_share` (0 to 1)
            and `mfu` (0 to 1) over the time of all steps, each where its amounts were given; `memory_gib`; and the mean
            of everything else over the steps that had it.
        """
        sums, counts = self._sums, self._counts
        self._sums, self._counts = {}, {}
        closed = {name: sums[name] / counts[name] for name in sums if name not in AMOUNTS}
        closed.update(_rates(sums, counts, self.peak_flops))
        memory = peak_memory_gib(self.device) if self.device is not None else None
        if memory is not None:
            closed["memory_gib"] = memory
        return closed


def _rates(sums: Mapping[str, float], counts: Mapping[str, int], peak_flops: float | None) -> dict[str, float]:
    time_s = sums.get("step_s", 0.0)
    if not (time_s > 0 and math.isfinite(time_s)):
        return {}
    rates = {"step_s": time_s / counts["step_s"]}
    for amount, rate in (("n_tokens", "tokens_per_s"), ("n_examples", "examples_per_s"), ("wait_s", "wait_share")):
        if amount in sums:
            rates[rate] = sums[amount] / time_s
    if "flops" in sums and peak_flops is not None:
        rates["mfu"] = sums["flops"] / time_s / peak_flops
    return rates
