"""What every benchmark shares: options, interleaved timing, limits of the machine, the table and the closing JSON line.

Sides that are compared take turns in one process, so that whatever else the machine does hits all of them alike. It
knows nothing of what is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, kw_only=True)
class Row:
    """One line of a result. All three figures are in the unit of the result.

    Args:
        case: What was measured, `batch 1` say.
        ours: This library's figure, a median.
        peer: The peer's figure, or None where there is no peer.
        limit: What the hardware allows at best, or what a promise sets; None where nothing is known.
        extra: Further facts for the JSON: spread, name of the peer, checks.
        is_higher_better: False for times and memory.
    """

    case: str
    ours: float
    peer: float | None = None
    limit: float | None = None
    extra: Mapping[str, Any] | None = None
    is_higher_better: bool = True

    @property
    def ratio(self) -> float | None:
        """Ours over the peer's, turned so that above 1 is better for us; None without a peer."""
        if self.peer is None:
            return None
        return self.ours / self.peer if self.is_higher_better else self.peer / self.ours

    def as_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        figures = {"case": self.case, "ours": self.ours, "peer": self.peer, "limit": self.limit, "ratio": self.ratio}
        return {**figures, **(self.extra or {})}


def parse_options(description: str, add_more: Callable[[argparse.ArgumentParser], Any] | None = None) -> Any:
    """Options from the command line; sets the number of threads of torch.

    Args:
        description: First line of the help.
        add_more: Is called with the parser to add options of one script.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs, under a minute in all")
    parser.add_argument("--save", action="store_true", help="write benchmarks/results/<name>.json")
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1), help="threads of torch")
    if add_more is not None:
        add_more(parser)
    options = parser.parse_args()
    if options.threads < 1:
        parser.error(f"--threads must be at least 1, got {options.threads}")
    torch.set_num_threads(options.threads)
    return options


def seconds(action: Callable[[], object]) -> float:
    """Wall-clock time of one call."""
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


def interleave(sides: Mapping[str, Callable[[], float]], n_runs: int) -> dict[str, list[float]]:
    """Run all sides in turn, `n_runs` times; every other round backwards, so that no side is always first.

    Args:
        sides: By name, a function that does one run and returns its figure, so that it may prepare off the clock.
        n_runs: Rounds.

    Returns:
        The figures of each side, round by round.
    """
    figures: dict[str, list[float]] = {name: [] for name in sides}
    for turn in range(n_runs):
        for name in sides if turn % 2 == 0 else reversed(sides):
            figures[name].append(sides[name]())
    return figures


def paired_ratio(ours: Sequence[float], peer: Sequence[float]) -> float:
    """Median over rounds of ours / peer: a round in which the machine was slow counts for both."""
    return statistics.median(a / b for a, b in zip(ours, peer, strict=True))


def read_bandwidth(n_bytes: int = 512 * 1024**2, device: str = "cpu") -> float:
    """Bytes a second that a GPU or the current threads read from memory; the best of seven sums over a large tensor."""
    numbers = torch.ones(n_bytes // 4, device=device)
    return numbers.nbytes / _best_of_seven(numbers.sum, device)


def matmul_peak(side: int = 1536, device: str = "cpu", dtype: torch.dtype = torch.float32) -> float:
    """Operations a second in a square matrix product; the best of seven."""
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    return 2 * side**3 / _best_of_seven(lambda: a @ b, device)


def _best_of_seven(action: Callable[[], object], device: str) -> float:
    """Least seconds of a call, with what it left running on a GPU."""

    def run() -> None:
        action()
        if torch.device(device).type == "cuda":
            torch.cuda.synchronize()

    return min(seconds(run) for _ in range(7))


def hardware() -> dict[str, Any]:
    """The machine, as far as speed depends on it."""
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "vector": torch.backends.cpu.get_cpu_capability(),
        "memory_gib": _memory_gib(),
        "threads": torch.get_num_threads(),
        "load_before": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
    }


def versions(*packages: str) -> dict[str, str]:
    """Versions of Python, torch, and `packages` that are installed."""
    found = {"python": platform.python_version(), "torch": torch.__version__}
    for package in packages:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The commit that was measured, with `+changes` where files of the package differ from it; None outside git."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(["git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True)
        except (OSError, subprocess.CalledProcessError):
            return None
        return done.stdout.strip()

    head = git("rev-parse", "HEAD")
    if head is None:
        return None
    return head + ("+changes" if git("status", "--porcelain", "--", "olmo", "benchmarks/*.py") else "")


def report(
    name: str,
    unit: str,
    rows: Sequence[Row],
    *,
    options: Any,
    packages: Sequence[str] = (),
    machine: Mapping[str, Any],
    notes: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Print the table and, as the last line, one JSON object; write that to a file with `--save`.

    Args:
        name: Name of the benchmark and of its file.
        unit: Unit of all figures.
        rows: The measurements. The `ratio` of the result is the worst of theirs.
        options: What `parse_options` gave.
        packages: Packages whose versions matter.
        machine: What `hardware` gave before anything was measured.
        notes: Further facts for the JSON.

    Returns:
        The object that was printed.
    """
    ratios = [row.ratio for row in rows if row.ratio is not None]
    result = {
        "name": name,
        "ratio": min(ratios) if ratios else None,
        "unit": unit,
        "rows": [row.as_dict() for row in rows],
        **(notes or {}),
        "quick": options.quick,
        "hardware": dict(machine),
        "versions": versions(*packages),
        "commit": commit(),
        "command": _command(),
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
    }
    _print_table(name, unit, rows)
    if options.save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.json").write_text(json.dumps(_rounded(result), indent=1) + "\n", encoding="utf-8")
    print(json.dumps(_rounded(result)), flush=True)
    return result


def _print_table(name: str, unit: str, rows: Sequence[Row]) -> None:
    table = Table(title=f"{name} ({unit})")
    table.add_column("case")
    for column in ("ours", "peer", "limit", "ratio"):
        table.add_column(column, justify="right")
    for row in rows:
        figures = (row.ours, row.peer, row.limit, row.ratio)
        table.add_row(row.case, *("-" if figure is None else f"{figure:.4g}" for figure in figures))
    Console().print(table)


def _rounded(value: Any) -> Any:
    """Floats to five digits: more would be noise, and would make every diff of a result long."""
    if isinstance(value, float):
        return float(f"{value:.5g}")
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _command() -> str:
    script = Path(sys.argv[0]).resolve()
    shown = script.relative_to(ROOT).as_posix() if script.is_relative_to(ROOT) else script.name
    return " ".join(["python", shown, *sys.argv[1:]])


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _memory_gib() -> float | None:
    try:
        return round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1024**3, 1)
    except (ValueError, OSError, AttributeError):
        return None
