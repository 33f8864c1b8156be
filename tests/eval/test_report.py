from __future__ import annotations

import json

import pytest
from scipy.stats import binomtest

from olmo.eval.report import Confusion, ScenesReport, TaskResult, wilson_interval


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
