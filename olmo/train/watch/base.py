"""`Watcher`: what is told about a run as it goes. The base does nothing, so a watcher overrides what it cares for.

Names of numbers that mean something to every watcher:

* of a step: `loss`, `loss_<task or source>`, `lr_<component>`, `grad_norm_<component>`;
* amounts of a step, summed and turned into rates: `step_s` (seconds the step took, waiting included), `wait_s` (seconds
  of it spent waiting for data), `n_tokens`, `n_examples` and `flops` (all over all processes);
* of an evaluation: any names; `loss` or `<task>/loss` is a validation loss.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from olmo.train.watch.throughput import StepWindow, peak_flops_per_s


class Watcher:
    """Is told what happens in a run, in the main process only.

    Attributes:
        stop_reason: why the run should end, beginning with `stopped`, or None. Looked at after an evaluation.
    """

    stop_reason: str | None = None

    def on_start(self, facts: Mapping[str, Any]) -> None:
        """The first steps are about to be taken.

        Args:
            facts: all optional: `step` (steps taken before, 0 for a new run), `max_steps`, `run_dir`, `device` (`cpu`,
                `cuda:0`), `dtype` (of the arithmetic: `float32`, `bfloat16`), `n_devices`, `n_params`, `config` (the
                recipe as plain containers).
        """

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """A step was taken; see the module docstring for names.

        Args:
            step: steps taken so far, from 1.
            metrics: numbers of this step.
        """

    def on_evaluation(self, step: int, results: Mapping[str, float]) -> None:
        """The model was evaluated after `step` steps."""

    def on_warning(self, step: int, message: str) -> None:
        """Something a person should know about happened after `step` steps; one sentence."""

    def on_end(self, reason: str) -> None:
        """No more steps are taken. Called once, also after an error.

        Args:
            reason: `finished`; what begins with `stopped` where a watcher asked for it; else what went wrong.
        """


def run_window(facts: Mapping[str, Any], peak_tflops: float | None = None) -> StepWindow:
    """A window that knows the hardware of a run.

    Args:
        facts: what `on_start` was given.
        peak_tflops: peak of one device, where it is known better than by the table.
    """
    device = str(facts.get("device", "cpu"))
    peak = peak_flops_per_s(device, str(facts.get("dtype", "float32")), peak_tflops)
    return StepWindow(None if peak is None else peak * int(facts.get("n_devices", 1)), device)


class Averaged(Watcher):
    """Hands another watcher one set of numbers for every so many steps; everything else is passed on as it comes.

    Args:
        watcher: who is told.
        every_steps: steps of a window, at least 1. Windows end at multiples of it, so that a resumed run has the same.
        peak_tflops: as in `WatchConfig`.
    """

    def __init__(self, watcher: Watcher, every_steps: int, peak_tflops: float | None = None) -> None:
        self.watcher, self.every_steps, self.peak_tflops = watcher, every_steps, peak_tflops
        self._window = StepWindow()
        self._max_steps = 0
        self._last: int | None = None

    def on_start(self, facts: Mapping[str, Any]) -> None:
        """Pass on."""
        self._max_steps = int(facts.get("max_steps", 0))
        self._window = run_window(facts, self.peak_tflops)
        self.watcher.on_start(facts)

    def on_step(self, step: int, metrics: Mapping[str, float]) -> None:
        """Gather; pass on at the end of a window and at the last step."""
        self._window.add(metrics)
        self._last = step
        if step % self.every_steps == 0 or step == self._max_steps:
            self._pass_on()

    def on_evaluation(self, step: int, results: Mapping[str, float]) -> None:
        """Pass on."""
        self.watcher.on_evaluation(step, results)

    def on_warning(self, step: int, message: str) -> None:
        """Pass on."""
        self.watcher.on_warning(step, message)

    def on_end(self, reason: str) -> None:
        """Pass on, after the steps of a window that is not full."""
        if self._last is not None:
            self._pass_on()
        self.watcher.on_end(reason)

    def _pass_on(self) -> None:
        assert self._last is not None, "a window has a step"
        self.watcher.on_step(self._last, self._window.close())
        self._last = None
