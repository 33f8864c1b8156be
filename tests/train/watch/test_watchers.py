from __future__ import annotations

import io
import json
import math
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from olmo.exceptions import OLMoConfigurationError
from olmo.train.watch.base import Averaged, Watcher
from olmo.train.watch.build import Expendable, build_watchers, stop_reason
from olmo.train.watch.config import ConsoleMode, WatchConfig
from olmo.train.watch.console import ConsoleWatcher, number_groups, sparkline
from olmo.train.watch.metrics_log import MetricsLog
from olmo.train.watch.tensorboard_log import TensorBoardLog, tag_of
from olmo.train.watch.wandb_log import ID_FILE

FACTS = {"step": 0, "max_steps": 4, "run_dir": "runs/trial", "device": "cpu", "dtype": "float32", "n_params": 1234567}


def step_metrics(loss: float, **more: float) -> dict[str, float]:
    return {
        "loss": loss,
        "loss_chart_qa": loss + 1,
        "lr_llm": 1e-3,
        "step_s": 0.5,
        "wait_s": 0.1,
        "n_tokens": 100,
    } | more


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def tell_a_run(watchers: list[Watcher], first: int = 1, last: int = 4, **facts: Any) -> None:
    for watcher in watchers:
        watcher.on_start({**FACTS, "step": first - 1, **facts})
    for step in range(first, last + 1):
        for watcher in watchers:
            watcher.on_step(step, step_metrics(1.0 / step))
        if step == 2:
            for watcher in watchers:
                watcher.on_evaluation(2, {"loss": 0.5, "scenes/naming": 0.9})
    for watcher in watchers:
        watcher.on_end("finished")


class TestMetricsLog:
    def test_a_run_is_written_line_by_line(self, tmp_path: Path) -> None:
        tell_a_run(build_watchers(WatchConfig(every_steps=2, console=ConsoleMode.none, peak_tflops=1.0), tmp_path))
        first, evaluation, second = lines(tmp_path / "metrics.jsonl")
        assert first["step"] == 2 and first["loss"] == 0.75 and first["loss_chart_qa"] == 1.75
        assert first["tokens_per_s"] == 200.0 and first["wait_share"] == 0.2 and first["lr_llm"] == 1e-3
        assert evaluation == {"step": 2, "evaluation": {"loss": 0.5, "scenes/naming": 0.9}}
        assert second["step"] == 4

    def test_a_restart_drops_the_steps_that_are_taken_again(self, tmp_path: Path) -> None:
        config = WatchConfig(every_steps=1, console=ConsoleMode.none)
        tell_a_run(build_watchers(config, tmp_path), last=3)
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"step": 4, "lo')
        tell_a_run(build_watchers(config, tmp_path), first=3)
        written = [(line["step"], "evaluation" in line) for line in lines(tmp_path / "metrics.jsonl")]
        assert written == [(1, False), (2, False), (2, True), (3, False), (4, False)]

    def test_lines_are_json_also_where_a_loss_is_no_number(self, tmp_path: Path) -> None:
        log = MetricsLog(tmp_path / "new" / "metrics.jsonl")
        log.on_step(1, {"loss": math.nan, "lr_llm": 1 / 3})
        log.on_warning(1, "the loss is no number")
        assert lines(log.path) == [
            {"step": 1, "loss": None, "lr_llm": 0.333333},
            {"step": 1, "warning": "the loss is no number"},
        ]

    def test_other_processes_write_nothing(self, tmp_path: Path) -> None:
        assert build_watchers(WatchConfig(), tmp_path, is_main=False) == []
        assert list(tmp_path.iterdir()) == []


class TestAveraged:
    def test_windows_end_at_multiples_also_after_a_restart(self) -> None:
        told: list[tuple[int, float]] = []

        class Sink(Watcher):
            def on_step(self, step: int, metrics: Any) -> None:
                told.append((step, metrics["loss"]))

        averaged = Averaged(Sink(), every_steps=4, peak_tflops=1.0)
        averaged.on_start({"step": 6, "max_steps": 13})
        for step in range(7, 14):
            averaged.on_step(step, {"loss": float(step)})
        averaged.on_end("finished")
        assert told == [(8, 7.5), (12, 10.5), (13, 13.0)]

    def test_an_end_in_between_loses_nothing(self) -> None:
        told: list[int] = []

        class Sink(Watcher):
            def on_step(self, step: int, metrics: Any) -> None:
                told.append(step)

            def on_end(self, reason: str) -> None:
                told.append(-1)

        averaged = Averaged(Sink(), every_steps=10)
        averaged.on_step(1, {"loss": 1.0})
        averaged.on_end("stopped")
        assert told == [1, -1]


class TestConsole:
    def shown(self, mode: ConsoleMode, *, is_terminal: bool = False) -> str:
        console = Console(file=io.StringIO(), force_terminal=is_terminal, width=120, highlight=False)
        watcher = ConsoleWatcher(2, mode, peak_tflops=1.0, console=console)
        tell_a_run([watcher])
        watcher.on_warning(4, "the run overfits [a lot]")
        assert isinstance(console.file, io.StringIO)
        return console.file.getvalue()

    def test_plain_lines_say_what_a_person_wants_to_know(self) -> None:
        first, *rest = self.shown(ConsoleMode.auto).splitlines()
        assert first == "runs/trial: starts, 1,234,567 parameters, cpu, float32"
        assert rest[0].startswith("step 1/4 (25%) | loss 1 | chart_qa 2 | lr llm 0.001 | 200 tokens/s, ")
        assert "waiting 20.0% | 0:00:02 left" in rest[0]
        assert rest[2] == "evaluation at step 2: loss 0.5, scenes/naming 0.9"
        assert rest[-2:] == ["finished at step 4", "warning, step 4: the run overfits [a lot]"]
        assert "\x1b" not in "".join(rest)

    def test_a_terminal_gets_a_display(self) -> None:
        text = self.shown(ConsoleMode.auto, is_terminal=True)
        assert "\x1b[" in text and "4/4 (100%)" in text and "chart_qa 1.29" in text
        assert "evaluation at step 2" in text

    def test_a_run_that_goes_on_says_so(self) -> None:
        console = Console(file=io.StringIO(), width=120)
        ConsoleWatcher(1, console=console).on_start({"step": 7, "n_devices": 2, "device": "cuda"})
        assert isinstance(console.file, io.StringIO)
        assert "goes on from step 7, 2 x cuda" in console.file.getvalue()

    def test_the_first_step_is_not_taken_for_the_rule(self) -> None:
        console = Console(file=io.StringIO(), width=120)
        watcher = ConsoleWatcher(1, ConsoleMode.plain, peak_tflops=1.0, console=console)
        watcher.on_start({"max_steps": 10})
        for step, taken in enumerate([60.0, 1.0, 1.0], start=1):
            watcher.on_step(step, {"loss": 1.0, "step_s": taken})
        assert isinstance(console.file, io.StringIO)
        lines = console.file.getvalue().splitlines()[1:]
        assert [line.rpartition("| ")[2] for line in lines] == ["0:09:00 left", "0:00:08 left", "0:00:07 left"]

    def test_many_tasks_are_cut_and_counted(self) -> None:
        groups = number_groups({f"loss_t{i}": 1.0 for i in range(12)})
        assert groups[0] == "" and groups[1].endswith("t7 1 and 4 more")

    def test_curves_fit_a_line(self) -> None:
        assert sparkline([0.0, 1.0, 0.5]) == "▁█▅"
        assert sparkline([2.0, 2.0]) == "▁▁" and sparkline([]) == "" and sparkline([math.nan, 1.0]) == " ▁"


class TestTensorBoard:
    def test_scalars_can_be_read_back(self, tmp_path: Path) -> None:
        loader = pytest.importorskip("tensorboard.backend.event_processing.event_file_loader")
        config = WatchConfig(every_steps=2, console=ConsoleMode.none, tensorboard=True)
        watchers = build_watchers(config, tmp_path)
        tell_a_run(watchers)
        (file,) = (tmp_path / "tensorboard").iterdir()
        points = {
            (event.step, value.tag): value.tensor.float_val[0]
            for event in loader.EventFileLoader(str(file)).Load()
            for value in event.summary.value
        }
        assert points[2, "train/loss"] == 0.75 and points[2, "loss/chart_qa"] == 1.75
        assert points[4, "learning_rate/llm"] == pytest.approx(1e-3)
        assert points[2, "evaluation/scenes/naming"] == pytest.approx(0.9)

    def test_a_restart_hides_the_steps_that_are_taken_again(self, tmp_path: Path) -> None:
        accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
        for first, last in ((1, 3), (3, 4)):
            log = TensorBoardLog(tmp_path)
            log.on_start({"step": first - 1})
            for step in range(first, last + 1):
                log.on_step(step, {"loss": float(first)})
            log.on_warning(last, "look")
            log.on_end("finished")
        events = accumulator.EventAccumulator(str(tmp_path))
        events.Reload()
        scalars = [(e.step, e.value) for e in events.Scalars("train/loss")]
        assert scalars == [(1, 1.0), (2, 1.0), (3, 3.0), (4, 3.0)]

    def test_names_go_to_sections(self) -> None:
        assert [tag_of(n) for n in ("loss", "loss_a_b", "lr_vit", "grad_norm_llm", "mfu")] == [
            "train/loss",
            "loss/a_b",
            "learning_rate/vit",
            "gradient_norm/llm",
            "train/mfu",
        ]

    def test_a_missing_package_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "tensorboard.compat.proto", None)
        with pytest.raises(OLMoConfigurationError, match=r"molmo\[tensorboard\]"):
            build_watchers(WatchConfig(tensorboard=True), tmp_path)


class FakeWandb:
    """As much of `wandb` as is used."""

    def __init__(self) -> None:
        self.started: list[dict[str, Any]] = []
        self.logged: list[tuple[int, dict[str, float]]] = []
        self.alerts: list[str] = []
        self.exit_codes: list[int] = []
        self.is_broken = False

    def init(self, **settings: Any) -> Any:
        self.started.append(settings)
        return SimpleNamespace(id=settings["id"] or "abc", log=self.log, alert=self.alert, finish=self.finish)

    def log(self, values: dict[str, float], step: int) -> None:
        if self.is_broken:
            raise ConnectionError("no network")
        self.logged.append((step, values))

    def alert(self, title: str, text: str) -> None:
        self.alerts.append(text)

    def finish(self, exit_code: int) -> None:
        self.exit_codes.append(exit_code)


class TestWandb:
    CONFIG = WatchConfig.new(every_steps=2, console="none", wandb={"project": "molmo", "mode": "offline"})

    @pytest.fixture
    def wandb(self, monkeypatch: pytest.MonkeyPatch) -> FakeWandb:
        fake = FakeWandb()
        monkeypatch.setitem(sys.modules, "wandb", fake)
        return fake

    def test_a_run_is_logged(self, wandb: FakeWandb, tmp_path: Path) -> None:
        watchers = build_watchers(self.CONFIG, tmp_path / "trial")
        tell_a_run(watchers, config={"seed": 1})
        (settings,) = wandb.started
        assert (settings["project"], settings["name"], settings["mode"]) == ("molmo", "trial", "offline")
        assert settings["config"] == {"seed": 1} and settings["id"] is None
        assert [step for step, _ in wandb.logged] == [2, 2, 4]
        assert wandb.logged[1][1] == {"evaluation/loss": 0.5, "evaluation/scenes/naming": 0.9}
        assert wandb.exit_codes == [0]

    def test_a_run_that_goes_on_stays_one(self, wandb: FakeWandb, tmp_path: Path) -> None:
        for first in (1, 3):
            tell_a_run(build_watchers(self.CONFIG, tmp_path), first=first)
        assert [s["id"] for s in wandb.started] == [None, "abc"] and wandb.started[1]["resume"] == "allow"
        assert (tmp_path / ID_FILE).read_text() == "abc\n"

    def test_a_lost_connection_does_not_end_the_run(self, wandb: FakeWandb, tmp_path: Path) -> None:
        wandb.is_broken = True
        with pytest.warns(UserWarning, match="WandbLog failed .no network. and is told no more"):
            tell_a_run(build_watchers(self.CONFIG, tmp_path))
        assert [line["step"] for line in lines(tmp_path / "metrics.jsonl")] == [2, 2, 4]

    def test_a_missing_package_is_named(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setitem(sys.modules, "wandb", None)
        with pytest.raises(OLMoConfigurationError, match=r"molmo\[wandb\]"):
            build_watchers(self.CONFIG, tmp_path)


def test_what_fails_at_the_start_is_the_runs_error() -> None:
    class Broken(Watcher):
        def on_start(self, facts: Any) -> None:
            raise ValueError("not logged in")

    with pytest.raises(ValueError, match="not logged in"):
        Expendable(Broken()).on_start({})


def test_an_overfitting_run_is_told_everywhere_and_can_be_stopped(tmp_path: Path) -> None:
    config = WatchConfig.new(every_steps=1, console="none", overfitting={"stop": True})
    watchers = build_watchers(config, tmp_path)
    for watcher in watchers:
        watcher.on_start(FACTS)
    for step in range(1, 5):
        assert stop_reason(watchers) is None
        for watcher in watchers:
            watcher.on_step(step, {"loss": 1.0 / step})
        for watcher in watchers:
            watcher.on_evaluation(step, {"loss": 1.0 + 0.1 * step})
        if stop_reason(watchers):
            break
    assert step == 3 and stop_reason(watchers) == "stopped: overfitting, loss rises"
    assert "overfits" in lines(tmp_path / "metrics.jsonl")[-1]["warning"]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"every_steps": 0}, "every_steps"),
        ({"peak_tflops": 0.0}, "peak_tflops"),
        ({"console": "loud"}, "'plain'"),
        ({"wandb": {}}, "wandb.project"),
        ({"tensorbord": True}, "did you mean 'tensorboard'"),
    ],
)
def test_settings_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(OLMoConfigurationError, match=message):
        WatchConfig.new(**values)
