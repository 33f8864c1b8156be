"""What a run says to whoever started it: a display that redraws itself on a terminal, plain lines elsewhere."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from olmo.train.watch.base import Watcher, run_window
from olmo.train.watch.config import ConsoleMode
from olmo.train.watch.throughput import StepWindow

BARS = "▁▂▃▄▅▆▇█"
_REDRAW_S = 0.25
_CURVE_LENGTH = 48
_SHOWN_TASKS = 8
_TIMED_STEPS = 50


class ConsoleWatcher(Watcher):
    """Shows progress, losses, speed, memory and time left.

    Args:
        every_steps: steps that the numbers shown stand for.
        mode: how to show them.
        peak_tflops: as in `WatchConfig`.
        console: where to write; None is the standard output.
    """

    def __init__(
        self,
        every_steps: int,
        mode: ConsoleMode = ConsoleMode.auto,
        peak_tflops: float | None = None,
        console: Console | None = None,
    ) -> None:
        self.console = console or Console(highlight=False)
        is_live = mode is ConsoleMode.rich or (mode is ConsoleMode.auto and self.console.is_terminal)
        self.every_steps, self.peak_tflops = every_steps, peak_tflops
        self._live: Live | None = Live(console=self.console, auto_refresh=False) if is_live else None
        self._window = StepWindow()
        self._step, self._max_steps = 0, 0
        self._shown: dict[str, float] = {}
        self._evaluation = ""
        self._curve: list[float] = []
        self._times: deque[float] = deque(maxlen=_TIMED_STEPS)
        self._has_warmed_up = False
        self._clock, self._drawn_at = time.perf_counter(), 0.0
        self._name = ""

    def on_start(self, facts: Mapping[str, Any]) -> None:
        """Say what is about to run."""
        self._step, self._max_steps = int(facts.get("step", 0)), int(facts.get("max_steps", 0))
        self._name = Path(str(facts.get("run_dir", ""))).name
        self._window = run_window(facts, self.peak_tflops)
        self._clock = time.perf_counter()
        self.console.print(_opening(facts), soft_wrap=True)
        if self._live is not None:
            self._live.start()

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Move on; show new numbers every `every_steps` steps."""
        self._count_time(metrics)
        self._step = step
        self._window.add(metrics)
        # The first numbers come at once, so that a broken run is seen at once.
        is_due = step % self.every_steps == 0 or step == self._max_steps
        if is_due or not self._shown:
            self._shown = self._window.close()
            if "loss" in self._shown:
                self._curve = [*self._curve, self._shown["loss"]][-_CURVE_LENGTH:]
            if self._live is None:
                self.console.print(self._line(), soft_wrap=True)
        self._redraw()

    def on_evaluation(self, step: int, results: Mapping[str, float]) -> None:
        """Show the results."""
        numbers = ", ".join(f"{name} {value:.4g}" for name, value in results.items())
        self._evaluation = f"evaluation at step {step}: {numbers}"
        if self._live is None:
            self.console.print(Text(self._evaluation), soft_wrap=True)
        self._redraw(is_forced=True)

    def on_warning(self, step: int, message: str) -> None:
        """Show the message above the display, where it stays."""
        self.console.print(Text(f"warning, step {step}: {message}", style="bold yellow"), soft_wrap=True)

    def on_end(self, reason: str) -> None:
        """Leave the last state on the screen."""
        if self._live is not None:
            self._redraw(is_forced=True)
            self._live.stop()
        self.console.print(Text(f"{reason} at step {self._step}"), soft_wrap=True)

    def _count_time(self, metrics: Mapping[str, float]) -> None:
        """Seconds of the last steps; of the first one, which starts workers and reserves memory, only at first."""
        now = time.perf_counter()
        if len(self._times) == 1 and not self._has_warmed_up:
            self._times.clear()
            self._has_warmed_up = True
        self._times.append(float(metrics.get("step_s", now - self._clock)))
        self._clock = now

    def _redraw(self, is_forced: bool = False) -> None:
        now = time.perf_counter()
        if self._live is not None and (is_forced or now - self._drawn_at >= _REDRAW_S):
            self._drawn_at = now
            self._live.update(self._display(), refresh=True)

    def _progress(self) -> str:
        if not self._max_steps:
            return f"step {self._step}"
        return f"step {self._step}/{self._max_steps} ({self._step / self._max_steps:.0%})"

    def _time_left(self) -> str:
        if not self._max_steps or not self._times:
            return ""
        left = max(0.0, (self._max_steps - self._step) * sum(self._times) / len(self._times))
        return f"{timedelta(seconds=round(left))} left"

    def _line(self) -> Text:
        parts = (self._progress(), *number_groups(self._shown), self._time_left())
        return Text(" | ".join(part for part in parts if part))

    def _display(self) -> RenderableType:
        top = Table.grid(padding=(0, 2))
        bar = ProgressBar(total=self._max_steps or None, completed=self._step, width=_CURVE_LENGTH)
        top.add_row(Text(self._name, style="bold"), bar, self._progress(), self._time_left())
        lines: list[RenderableType] = [top]
        groups = [group for group in number_groups(self._shown) if group]
        if groups:
            lines.append(Text.assemble((groups[0], "bold"), "   ", (sparkline(self._curve), "cyan")))
            lines += [Text(group) for group in groups[1:]]
        if self._evaluation:
            lines.append(Text(self._evaluation, style="green"))
        return Group(*lines)


def number_groups(metrics: Mapping[str, float]) -> list[str]:
    """The numbers of a stretch of steps as people read them, in groups: loss, loss of each task, rates, speed.

    Args:
        metrics: what `StepWindow.close` gave.

    Returns:
        One text a group, empty for a group without numbers; more than eight tasks are cut and counted.
    """
    loss = f"loss {metrics['loss']:.4g}" if "loss" in metrics else ""
    tasks = [(name.removeprefix("loss_"), value) for name, value in metrics.items() if name.startswith("loss_")]
    shown = ", ".join(f"{name} {value:.3g}" for name, value in tasks[:_SHOWN_TASKS])
    hidden = f" and {len(tasks) - _SHOWN_TASKS} more" if len(tasks) > _SHOWN_TASKS else ""
    rates = ", ".join(f"{n.removeprefix('lr_')} {v:.2g}" for n, v in metrics.items() if n.startswith("lr_"))
    return [loss, shown + hidden, f"lr {rates}" if rates else "", _speed(metrics)]


def _speed(metrics: Mapping[str, float]) -> str:
    forms = {
        "tokens_per_s": "{:,.0f} tokens/s",
        "examples_per_s": "{:,.3g} examples/s",
        "mfu": "MFU {:.1%}",
        "memory_gib": "{:.2f} GiB",
        "wait_share": "waiting {:.1%}",
    }
    return ", ".join(form.format(metrics[name]) for name, form in forms.items() if name in metrics)


def sparkline(values: Sequence[float]) -> str:
    """A curve in one line of text, lowest to highest; values that are not finite leave a gap."""
    finite = [v for v in values if abs(v) < float("inf")]
    if not finite:
        return ""
    low, span = min(finite), max(finite) - min(finite)
    top = len(BARS) - 1
    return "".join(BARS[round((v - low) / span * top) if span else 0] if abs(v) < float("inf") else " " for v in values)


def _opening(facts: Mapping[str, Any]) -> Text:
    start = int(facts.get("step", 0))
    what = [f"goes on from step {start}" if start else "starts"]
    if facts.get("n_params"):
        what.append(f"{int(facts['n_params']):,} parameters")
    if facts.get("device"):
        n_devices = int(facts.get("n_devices", 1))
        what.append(f"{n_devices} x {facts['device']}" if n_devices > 1 else str(facts["device"]))
    if facts.get("dtype"):
        what.append(str(facts["dtype"]))
    return Text(f"{facts.get('run_dir', 'the run')}: " + ", ".join(what))
