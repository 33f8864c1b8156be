"""Metrics of a run as JSON lines, one object a line, appended; survives a restart.

Three kinds of line, all with `step`: metrics of steps (`loss`, ...), an `evaluation` with its results, a `warning`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olmo.io import write_atomic
from olmo.train.watch.base import Watcher


class MetricsLog(Watcher):
    """Appends to `metrics.jsonl` in the run folder."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def on_start(self, facts: Mapping[str, Any]) -> None:
        """Drop lines of steps that this run takes again."""
        self.truncate_after(int(facts.get("step", 0)))

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """One line of metrics."""
        self.write(step=step, **metrics)

    def on_evaluation(self, step: int, results: Mapping[str, float]) -> None:
        """One line of results."""
        self.write(step=step, evaluation=dict(results))

    def on_warning(self, step: int, message: str) -> None:
        """One line of text."""
        self.write(step=step, warning=message)

    def write(self, **values: Any) -> None:
        """Append one line; floats are rounded to 6 significant digits, what is not finite becomes null."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(_plain(values), allow_nan=False) + "\n")

    def truncate_after(self, step: int) -> None:
        """Drop lines of later steps than `step`, and a line that a crash cut short."""
        if not self.path.exists():
            return
        kept = []
        for line in self.path.read_text(encoding="utf-8").splitlines():
            try:
                if json.loads(line).get("step", 0) <= step:
                    kept.append(line)
            except json.JSONDecodeError:
                continue  # a line cut by a crash
        write_atomic(self.path, "".join(f"{line}\n" for line in kept))


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
