"""The watchers of a run, built from its configuration."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from olmo.train.watch.base import Averaged, Watcher
from olmo.train.watch.config import ConsoleMode, WatchConfig
from olmo.train.watch.console import ConsoleWatcher
from olmo.train.watch.metrics_log import MetricsLog
from olmo.train.watch.overfitting import OverfittingMonitor
from olmo.train.watch.tensorboard_log import TensorBoardLog
from olmo.train.watch.wandb_log import WandbLog

METRICS_FILE = "metrics.jsonl"


def build_watchers(config: WatchConfig, run_dir: str | Path, is_main: bool = True) -> list[Watcher]:
    """The watchers of one process.

    Args:
        config: what to show and write.
        run_dir: folder of the run.
        is_main: False for all processes of a run but one; they watch nothing.

    Returns:
        Watchers in the order they are to be told.

    Raises:
        OLMoConfigurationError: a package is asked for that is not installed.
    """
    if not is_main:
        return []
    folder = Path(run_dir)
    metrics_file = folder / METRICS_FILE
    every, peak = config.every_steps, config.peak_tflops
    watchers: list[Watcher] = [Averaged(MetricsLog(metrics_file), every, peak)]
    if config.tensorboard:
        watchers.append(Averaged(Expendable(TensorBoardLog(folder / "tensorboard")), every, peak))
    if config.wandb is not None:
        watchers.append(Averaged(Expendable(WandbLog(config.wandb, folder)), every, peak))
    if config.console is not ConsoleMode.none:
        watchers.append(ConsoleWatcher(every, config.console, peak))
    if config.overfitting is not None:
        # After the log, which drops what a restart takes back.
        watchers.append(OverfittingMonitor(config.overfitting, list(watchers), metrics_file))
    return watchers


def stop_reason(watchers: Sequence[Watcher]) -> str | None:
    """Why a watcher wants the run to end, or None.

    Only the main process has watchers, so with several processes the answer has to be shared before one acts on it.
    """
    return next((w.stop_reason for w in watchers if w.stop_reason is not None), None)


class Expendable(Watcher):
    """Keeps a run alive whose watcher fails after the start: it is warned about once and told no more.

    A dashboard that cannot be reached for a minute must not end days of training. What fails at the start, a missing
    login say, is an error: nothing is lost yet.

    Args:
        watcher: who is told.
    """

    def __init__(self, watcher: Watcher) -> None:
        self.watcher: Watcher | None = watcher

    def on_start(self, facts: Mapping[str, Any]) -> None:
        """Pass on; errors are the run's."""
        assert self.watcher is not None, "nothing has failed before the start"
        self.watcher.on_start(facts)

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Pass on."""
        self._tell(lambda watcher: watcher.on_step(step, metrics))

    def on_evaluation(self, step: int, results: Mapping[str, float]) -> None:
        """Pass on."""
        self._tell(lambda watcher: watcher.on_evaluation(step, results))

    def on_warning(self, step: int, message: str) -> None:
        """Pass on."""
        self._tell(lambda watcher: watcher.on_warning(step, message))

    def on_end(self, reason: str) -> None:
        """Pass on."""
        self._tell(lambda watcher: watcher.on_end(reason))

    def _tell(self, say: Callable[[Watcher], None]) -> None:
        if self.watcher is None:
            return
        try:
            say(self.watcher)
        except Exception as error:
            name, self.watcher = type(self.watcher).__name__, None
            warnings.warn(f"{name} failed ({error}) and is told no more; the run goes on", stacklevel=2)
