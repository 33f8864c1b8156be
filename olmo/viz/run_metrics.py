"""The numbers of a run as curves, read from its `metrics.jsonl`. Nothing is drawn here."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olmo.exceptions import OLMoInputError

METRICS_FILE = "metrics.jsonl"


@dataclass(frozen=True)
class Curve:
    """Numbers over steps, in order of the steps.

    Attributes:
        steps: steps taken.
        values: finite numbers, one a step.
    """

    steps: tuple[int, ...]
    values: tuple[float, ...]


@dataclass(frozen=True)
class RunMetrics:
    """What a run wrote down about itself.

    Attributes:
        name: of the run folder.
        curves: numbers of steps by name.
        evaluations: results of evaluations by name.
        warnings: (step, text).
    """

    name: str
    curves: dict[str, Curve] = field(default_factory=dict)
    evaluations: dict[str, Curve] = field(default_factory=dict)
    warnings: tuple[tuple[int, str], ...] = ()


def read_run(path: str | Path) -> RunMetrics:
    """The numbers of a run, also of one that is still going on.

    Args:
        path: run folder, or its `metrics.jsonl`.

    Raises:
        OLMoInputError: there is no such file, or nothing in it.
    """
    given = Path(path)
    file = given / METRICS_FILE if given.is_dir() else given
    if not file.is_file():
        raise OLMoInputError(f"{given} is no run: there is no {file}; give the run_dir of a run of `molmo train`")
    steps: dict[str, dict[int, float]] = {}
    evaluations: dict[str, dict[int, float]] = {}
    warnings = []
    for line in _objects(file):
        step = line.get("step", 0)
        if isinstance(line.get("evaluation"), dict):
            _take(evaluations, step, line["evaluation"])
        elif "warning" in line:
            warnings.append((step, str(line["warning"])))
        else:
            _take(steps, step, {name: value for name, value in line.items() if name != "step"})
    if not steps and not evaluations:
        raise OLMoInputError(f"{file} holds no metrics yet; a line is written every watch.every_steps steps")
    name = file.parent.resolve().name if file.name == METRICS_FILE else file.stem
    return RunMetrics(name, _curves(steps), _curves(evaluations), tuple(warnings))


def smoothed(values: Sequence[float], span: float) -> list[float]:
    """A running mean in which values count e times less every `span` values to either side, so that it does not lag.

    Args:
        values: finite numbers.
        span: in values; 0 leaves them as they are.
    """
    if span <= 0:
        return list(values)
    before, after = _running_sums(values, span), _running_sums(values[::-1], span)[::-1]
    # Both sums hold the value itself.
    return [(a + b - value) / (m + n - 1) for value, (a, m), (b, n) in zip(values, before, after, strict=True)]


def _running_sums(values: Sequence[float], span: float) -> list[tuple[float, float]]:
    """(weighted sum, sum of weights) of each value and those before it."""
    keep = math.exp(-1 / span)
    total = weight = 0.0
    sums = []
    for value in values:
        total, weight = keep * total + value, keep * weight + 1
        sums.append((total, weight))
    return sums


def _objects(file: Path) -> Iterator[dict[str, Any]]:
    """The JSON objects of a file; what else is in it, the beginning of a line that is being written, is left out."""
    for text in file.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and isinstance(line.get("step", 0), int):
            yield line


def _take(into: dict[str, dict[int, float]], step: int, values: dict[str, Any]) -> None:
    for name, value in values.items():
        if isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
            into.setdefault(name, {})[step] = float(value)  # of a step written twice the later line counts


def _curves(values: dict[str, dict[int, float]]) -> dict[str, Curve]:
    return {name: Curve(tuple(sorted(v)), tuple(v[step] for step in sorted(v))) for name, v in values.items()}
