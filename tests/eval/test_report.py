from __future__ import annotations

import json

import pytest
from scipy.stats import binomtest

from olmo.eval.report import Confusion, PointsResult, ScenesReport, TaskResult, wilson_interval


@pytest.mark.parametrize(("n_right", "n"), [(0, 1), (1, 1), (0, 20), (20, 20), (7, 20), (325, 500), (499, 500)])
def test_interval_is_wilsons(n_right: int, n: int) -> None:
    peer = binomtest(n_right, n).proportion_ci(0.95, method="wilson")
    # Worst case measured: 1e-9, from the rounded quantile.
    assert wilson_interval(n_right, n) == pytest.approx((peer.low, peer.high), abs=1e-7)


def test_interval_holds_the_share_and_narrows() -> None:
    widths = []
    for n in (10, 100, 1000):
        low, high = wilson_interval(n // 5, n)
        assert 0 < low < 0.2 < high < 1
        widths.append(high - low)
    assert widths == sorted(widths, reverse=True)


def test_nothing_asked_is_nothing_known() -> None:
    result = TaskResult(n=0, n_right=0)
    assert result.accuracy is None
    assert result.asdict() == {"n": 0, "n_right": 0, "accuracy": None, "interval": [0.0, 1.0]}


def test_report_is_json() -> None:
    report = ScenesReport(
        n_scenes=3,
        is_blind=True,
        tasks={"naming": TaskResult(3, 2)},
        counting_by_count={2: TaskResult(1, 1)},
        confusions=(Confusion("cat", "dog", 1),),
    )
    found = json.loads(json.dumps(report.asdict()))
    assert found == report.asdict(), "nothing changes on the way through JSON"
    assert found["is_blind"] is True
    assert found["tasks"]["naming"]["accuracy"] == 0.6667
    assert found["counting_by_count"]["2"]["n"] == 1
    assert found["confusions"] == [{"expected": "cat", "answered": "dog", "n": 1}]


def test_points_are_averaged_over_answers() -> None:
    answers = [{"precision": 1.0, "recall": 0.5, "f1": 2 / 3}, {"precision": 0.0, "recall": 0.0, "f1": 0.0}]
    found = PointsResult.mean(answers)
    assert (found.n, found.precision, found.recall, found.f1) == (2, 0.5, 0.25, pytest.approx(1 / 3))
    low, high = found.interval
    assert 0 < low < 1 / 3 < high < 1
    assert PointsResult.mean([dict.fromkeys(("precision", "recall", "f1"), 1.0)] * 7).interval[1] == 1.0


def test_figures_by_name() -> None:
    report = ScenesReport(1, False, {"naming": TaskResult(4, 3)}, points={"pointing": PointsResult(2, 0.5, 0.25, 0.3)})
    assert report.figure("naming") == 0.75 and report.figure("pointing_f1") == 0.3
    assert report.figure("reading") is None and report.figure("pointing_several_f1") is None
    assert report.asdict()["points"]["pointing"]["f1"] == 0.3
