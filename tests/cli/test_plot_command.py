from __future__ import annotations

import json

import pytest


@pytest.fixture
def runs(tmp_path):
    """Two run folders with a loss that falls."""
    pytest.importorskip("matplotlib")
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        lines = [json.dumps({"step": step, "loss": 1.0 / step}) for step in (1, 2, 3)]
        (tmp_path / name / "metrics.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_the_curves_of_a_run_go_into_its_folder(molmo, runs):
    result = molmo("plot", runs / "first")
    assert (result.code, result.out.strip()) == (0, str(runs / "first" / "curves.png"))
    assert (runs / "first" / "curves.png").read_bytes()[:4] == b"\x89PNG"


def test_several_runs_go_into_one_picture(molmo, runs, monkeypatch):
    monkeypatch.chdir(runs)
    assert molmo("plot", "first", "second/metrics.jsonl").out.strip() == "curves.png"
    assert molmo("plot", "first", "second", "-o", "both.svg", "--smooth", "0").code == 0
    assert "second" in (runs / "both.svg").read_text()


def test_what_is_no_run_is_one_line(molmo, runs):
    result = molmo("plot", runs)
    assert (result.code, result.out) == (1, "") and "is no run" in result.err
    assert molmo("plot", runs / "first", "-o", "curves.gif").code == 1
