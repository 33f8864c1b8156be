from __future__ import annotations

import random
from pathlib import Path

import pytest

from olmo.exceptions import OLMoConfigurationError
from olmo.train.watch.base import Watcher
from olmo.train.watch.config import OverfittingConfig
from olmo.train.watch.metrics_log import MetricsLog
from olmo.train.watch.overfitting import OverfittingMonitor

FALLING = [2.0, 1.8, 1.6, 1.4, 1.2, 1.0, 0.9, 0.8, 0.7, 0.6]


class Listener(Watcher):
    def __init__(self) -> None:
        self.heard: list[tuple[int, str]] = []

    def on_warning(self, step: int, message: str) -> None:
        self.heard.append((step, message))


def run(
    train: list[float], validation: list[float], config: OverfittingConfig | None = None, name: str = "loss"
) -> tuple[Listener, OverfittingMonitor]:
    """Ten steps between evaluations, each with the training loss given for it."""
    listener = Listener()
    monitor = OverfittingMonitor(config or OverfittingConfig(), [listener])
    for i, (loss, value) in enumerate(zip(train, validation, strict=True), start=1):
        for step in range(10 * i - 9, 10 * i + 1):
            monitor.on_step(step, {"loss": loss})
        monitor.on_evaluation(10 * i, {name: value, "accuracy": 0.5})
    return listener, monitor


@pytest.mark.parametrize("name", ["loss", "scenes/loss"])
@pytest.mark.parametrize("rise", [0.01, 0.05, 0.5])
def test_p37_a_planted_rise_is_flagged_within_three_evaluations(rise: float, name: str) -> None:
    turn = 4
    planted = [1.5, 1.4, 1.3, 1.2] + [1.2 * (1 + rise * k) for k in range(1, 7)]
    listener, monitor = run(FALLING, planted, name=name)
    assert len(listener.heard) == 1
    step, message = listener.heard[0]
    assert 10 * turn < step <= 10 * (turn + 3)
    assert "overfits" in message and "1.2 at step 40" in message and name in message
    assert monitor.stop_reason is None


def test_several_losses_that_turn_together_are_one_warning() -> None:
    listener = Listener()
    monitor = OverfittingMonitor(OverfittingConfig(), [listener])
    for step, value in enumerate([1.0, 1.1, 1.2, 1.3], start=1):
        monitor.on_step(step, {"loss": FALLING[step]})
        monitor.on_evaluation(step, {"val/loss": value, "loss": value, "other/loss": 1.0})
    ((step, message),) = listener.heard
    assert step == 3 and "val/loss rose" in message and message.endswith("Likewise loss")


def test_a_falling_or_flat_validation_loss_is_no_reason() -> None:
    assert run(FALLING, FALLING)[0].heard == []
    assert run(FALLING, [1.0] * 10)[0].heard == []


def test_noise_around_a_falling_loss_is_no_reason() -> None:
    draw = random.Random(0)
    for _ in range(100):
        noisy = [2.0 - 0.1 * i + draw.uniform(-0.05, 0.05) for i in range(10)]
        assert run(FALLING, noisy)[0].heard == []


def test_a_run_that_diverges_does_not_overfit() -> None:
    rising = list(reversed(FALLING))
    assert run(rising, rising)[0].heard == []


def test_a_single_bad_evaluation_is_no_reason() -> None:
    assert run(FALLING[:5], [1.5, 1.4, 1.9, 1.3, 1.2])[0].heard == []


def test_coming_down_from_a_peak_is_no_reason() -> None:
    assert run(FALLING[:5], [1.5, 1.0, 1.005, 1.4, 1.3])[0].heard == []


def test_it_speaks_again_after_a_new_low() -> None:
    listener, _ = run(FALLING, [1.5, 1.2, 1.3, 1.4, 1.5, 1.1, 1.2, 1.3, 1.4, 1.5])
    assert [step for step, _ in listener.heard] == [40, 80]


def test_it_can_ask_to_stop() -> None:
    _, monitor = run(FALLING[:4], [1.0, 1.1, 1.2, 1.3], OverfittingConfig(stop=True))
    assert monitor.stop_reason == "stopped: overfitting, loss rises"


def test_other_results_are_not_looked_at() -> None:
    assert run(FALLING[:5], [0.1, 0.2, 0.3, 0.4, 0.5], name="accuracy_loss")[0].heard == []
    listener, _ = run(FALLING[:5], [0.1, 0.2, 0.3, 0.4, 0.5], OverfittingConfig(metric="perplexity"), "perplexity")
    assert len(listener.heard) == 1


def test_a_restart_changes_nothing(tmp_path: Path) -> None:
    validation = [1.5, 1.2, 1.3, 1.4]
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for i in (1, 2, 3):
        log.on_step(10 * i, {"loss": FALLING[i]})
        log.on_evaluation(10 * i, {"loss": validation[i - 1]})
    log.on_step(40, {"loss": 0.1})  # taken again
    log.on_evaluation(40, {"loss": 0.1})
    with log.path.open("a") as file:
        file.write('{"step": 5')
    listener = Listener()
    monitor = OverfittingMonitor(OverfittingConfig(), [listener], log.path)
    monitor.on_start({"step": 30})
    monitor.on_step(40, {"loss": FALLING[4]})
    monitor.on_evaluation(40, {"loss": validation[3]})
    assert [step for step, _ in listener.heard] == [40]


def test_a_warning_from_before_a_restart_is_not_said_twice(tmp_path: Path) -> None:
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for i, value in enumerate([1.0, 1.1, 1.2], start=1):
        log.on_step(i, {"loss": FALLING[i]})
        log.on_evaluation(i, {"loss": value})
    listener = Listener()
    monitor = OverfittingMonitor(OverfittingConfig(stop=True), [listener], log.path)
    monitor.on_start({"step": 3})
    assert monitor.stop_reason is not None, "a run that was stopped stays so"
    monitor.on_step(4, {"loss": 0.1})
    monitor.on_evaluation(4, {"loss": 1.3})
    assert listener.heard == []


@pytest.mark.parametrize(("values", "field"), [({"patience": 0}, "patience"), ({"min_rise": -1.0}, "min_rise")])
def test_settings_are_checked(values: dict[str, float], field: str) -> None:
    with pytest.raises(OLMoConfigurationError, match=field):
        OverfittingConfig.new(**values)
