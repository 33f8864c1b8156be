"""Metrics of a run as TensorBoard event files. Needs the extra `tensorboard`; TensorFlow is not needed."""

from __future__ import annotations

import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from olmo.exceptions import OLMoConfigurationError
from olmo.train.watch.base import Watcher

SECTIONS = {"loss_": "loss", "lr_": "learning_rate", "grad_norm_": "gradient_norm"}
"""Section of the page that numbers whose names begin so go to; the others share `train`."""


class TensorBoardLog(Watcher):
    """Writes scalars, and warnings as text.

    Args:
        folder: where event files go; one more is added each time the run is started.

    Raises:
        OLMoConfigurationError: the package `tensorboard` is not installed.
    """

    def __init__(self, folder: str | Path) -> None:
        try:
            from tensorboard.compat.proto import event_pb2, summary_pb2
            from tensorboard.plugins.text.summary_v2 import text_pb
            from tensorboard.summary.writer.event_file_writer import EventFileWriter
        except ImportError:
            raise OLMoConfigurationError(
                "needs the package tensorboard: pip install 'molmo[tensorboard]', or set watch.tensorboard=false",
                "watch.tensorboard",
            ) from None
        self._events, self._summaries, self._text_pb = event_pb2, summary_pb2, text_pb
        self._writer = EventFileWriter(str(folder))

    def on_start(self, facts: Mapping[str, Any]) -> None:
        """Have TensorBoard hide what earlier event files say of steps that this run takes again."""
        step = int(facts.get("step", 0))
        if step:
            session = self._events.SessionLog(status=self._events.SessionLog.START)
            self._write(self._events.Event(step=step + 1, session_log=session))

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """One point of every curve."""
        self._scalars(step, {tag_of(name): value for name, value in metrics.items()})

    def on_evaluation(self, step: int, results: Mapping[str, float]) -> None:
        """One point of every curve of the section `evaluation`."""
        self._scalars(step, {f"evaluation/{name}": value for name, value in results.items()})
        self._writer.flush()

    def on_warning(self, step: int, message: str) -> None:
        """One entry among the texts."""
        self._write(self._events.Event(step=step, summary=self._text_pb("warning", message)))

    def on_end(self, reason: str) -> None:
        """Close the file."""
        self._writer.close()

    def _scalars(self, step: int, values: Mapping[str, float]) -> None:
        points = [self._summaries.Summary.Value(tag=tag, simple_value=value) for tag, value in values.items()]
        self._write(self._events.Event(step=step, summary=self._summaries.Summary(value=points)))

    def _write(self, event: Any) -> None:
        event.wall_time = time.time()
        self._writer.add_event(event)


def tag_of(name: str) -> str:
    """Where a number is shown: `lr_vit` as `learning_rate/vit`, `mfu` as `train/mfu`."""
    for beginning, section in SECTIONS.items():
        if name.startswith(beginning):
            return f"{section}/{name.removeprefix(beginning)}"
    return f"train/{name}"
