"""The overfitting monitor: says so when the validation loss rises while the training loss falls.

It looks at numbers alone. After a restart it reads the run's earlier numbers from `metrics.jsonl`.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from olmo.train.watch.base import Watcher
from olmo.train.watch.config import OverfittingConfig


@dataclass(frozen=True)
class _Evaluation:
    """One validation loss, and the mean training loss of the steps since the evaluation before."""

    step: int
    value: float
    train_loss: float


@dataclass
class _History:
    """Evaluations of one loss from the lowest one on."""

    since_best: list[_Evaluation] = field(default_factory=list)
    is_reported: bool = False


class OverfittingMonitor(Watcher):
    """Warns once for each time a validation loss turns; see `OverfittingConfig` for when.

    Args:
        config: which result to look at, and how patient to be.
        told: watchers that hear the warning.
        metrics_file: `metrics.jsonl` of the run; None knows nothing of what was before a restart.
    """

    def __init__(
        self, config: OverfittingConfig, told: Sequence[Watcher] = (), metrics_file: str | Path | None = None
    ) -> None:
        self.config, self.told = config, tuple(told)
        self.metrics_file = None if metrics_file is None else Path(metrics_file)
        self._histories: dict[str, _History] = {}
        self._losses: list[float] = []

    def on_start(self, facts: Mapping[str, Any]) -> None:
        """Take in what happened before a restart."""
        for step, line in _lines(self.metrics_file, int(facts.get("step", 0))):
            if isinstance(line.get("evaluation"), dict):
                self._take(step, line["evaluation"], is_replay=True)
            elif "loss" in line:
                self._add_loss(line["loss"])

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Remember the training loss."""
        self._add_loss(metrics.get("loss"))

    def on_evaluation(self, step: int, results: Mapping[str, float]) -> None:
        """Compare with the lowest validation loss so far; warn, and ask to stop where that is wanted."""
        self._take(step, results, is_replay=False)

    def _add_loss(self, loss: float | None) -> None:
        if loss is not None and math.isfinite(loss):
            self._losses.append(loss)

    def _take(self, step: int, results: Mapping[str, Any], is_replay: bool) -> None:
        train_loss = sum(self._losses) / len(self._losses) if self._losses else math.nan
        watched = {name: value for name, value in results.items() if self._is_watched(name, value)}
        if watched:
            self._losses = []  # an evaluation without the loss does not divide the run
        judged = {name: self._judge(name, _Evaluation(step, float(v), train_loss)) for name, v in watched.items()}
        warnings = {name: message for name, message in judged.items() if message is not None}
        if not warnings:
            return
        first, *others = warnings
        if self.config.stop:
            self.stop_reason = f"stopped: overfitting, {first} rises"
        if not is_replay:
            likewise = f". Likewise {', '.join(others)}" if others else ""
            for watcher in self.told:
                watcher.on_warning(step, warnings[first] + likewise)

    def _is_watched(self, name: str, value: Any) -> bool:
        is_named = name == self.config.metric or name.endswith(f"/{self.config.metric}")
        return is_named and isinstance(value, int | float) and math.isfinite(value)

    def _judge(self, name: str, now: _Evaluation) -> str | None:
        """The warning that this evaluation gives rise to, or None."""
        history = self._histories.setdefault(name, _History())
        if not history.since_best or now.value <= history.since_best[0].value:
            self._histories[name] = _History([now])
            return None
        history.since_best.append(now)
        best, recent = history.since_best[0], history.since_best[1:][-self.config.patience :]
        limit = best.value + self.config.min_rise * abs(best.value)
        rises = len(recent) == self.config.patience and all(e.value > limit for e in recent)
        rises = rises and recent[-1].value >= recent[0].value  # a peak that is being left is no rise
        learns = now.train_loss < best.train_loss
        if history.is_reported or not (rises and learns):
            return None
        history.is_reported = True
        return (
            f"the run overfits: {name} rose from {best.value:.4g} at step {best.step} to {now.value:.4g}, while the "
            f"training loss fell from {best.train_loss:.4g} to {now.train_loss:.4g}. The best weights are those of "
            f"step {best.step}. More or more varied data, fewer steps, a lower learning rate or more dropout help"
        )


def _lines(path: Path | None, last_step: int) -> Iterator[tuple[int, dict[str, Any]]]:
    """Lines of a metrics file up to a step; a line that a crash cut short is left out."""
    if path is None or not path.is_file():
        return
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            line = json.loads(text)
        except json.JSONDecodeError:
            continue
        if isinstance(line, dict) and line.get("step", 0) <= last_step:
            yield int(line.get("step", 0)), line
