"""The benchmark of clips: reports about parts of the clips add up to the report about all of them."""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from olmo.eval.moving_eval import MovingReport, View
from olmo.eval.report import TaskResult

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


def test_parts_add_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    script = importlib.import_module("nano_video")
    first = MovingReport(2, View.clip, {"action": TaskResult(2, 1)}, {"action": TaskResult(2, 1)}, None)
    tasks = {"action": TaskResult(4, 4), "order": TaskResult(3, 1)}
    second = MovingReport(4, View.clip, tasks, {"action": TaskResult(4, 4), "order_pair": TaskResult(3, 1)}, 0.5)
    third = MovingReport(1, View.clip, {"order": TaskResult(1, 1)}, {"order_first": TaskResult(1, 1)}, 0.25)
    whole = script.joined([first, second, third])
    assert whole.n_clips == 7 and whole.view is View.clip
    assert whole.tasks == {"action": TaskResult(6, 5), "order": TaskResult(4, 2)}
    assert whole.forms["order_pair"] == TaskResult(3, 1) and whole.forms["order_first"] == TaskResult(1, 1)
    assert whole.order_chance == pytest.approx((3 * 0.5 + 1 * 0.25) / 4)
    assert script.joined([first]).order_chance is None
