from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from PIL import Image

from olmo.exceptions import OLMoConfigurationError, OLMoInputError
from olmo.viz.curves import PANELS, plot_runs
from olmo.viz.run_metrics import Curve, RunMetrics, read_run, smoothed


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    """A run with numbers for every panel, a cut last line and a step that was written twice."""
    folder = tmp_path / "trial"
    folder.mkdir()
    lines = []
    for step in range(10, 101, 10):
        loss = 3.0 / step
        lines.append(
            {"step": step, "loss": loss, "loss_chart_qa": loss, "loss_caption": None if step == 50 else 2 * loss}
            | {"lr_llm": 1e-5, "lr_vit": 1e-6, "grad_norm_llm": 2.0}
            | {"tokens_per_s": 900.0, "mfu": 0.3, "wait_share": 0.01, "memory_gib": 2.0}
        )
        if step % 50 == 0:
            lines.append({"step": step, "evaluation": {"scenes/loss": loss, "scenes/naming": 0.5, "note": "text"}})
    lines += [{"step": 100, "warning": "the run overfits"}, {"step": 100, "loss": 0.25}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines) + '{"step": 110, "lo')
    return folder


def test_a_run_is_read_from_its_folder_or_its_file(run_folder: Path) -> None:
    run = read_run(run_folder)
    assert run == read_run(run_folder / "metrics.jsonl")
    assert run.name == "trial"
    assert run.curves["loss"].steps == tuple(range(10, 101, 10))
    assert run.curves["loss"].values[-1] == 0.25, "the later line of a step counts"
    assert 50 not in run.curves["loss_caption"].steps
    assert run.evaluations == {
        "scenes/loss": Curve((50, 100), (0.06, 0.03)),
        "scenes/naming": Curve((50, 100), (0.5, 0.5)),
    }
    assert run.warnings == ((100, "the run overfits"),)


@pytest.mark.parametrize("content", [None, "", "not json\n[1]\n"])
def test_what_is_no_run_is_said(tmp_path: Path, content: str | None) -> None:
    if content is not None:
        (tmp_path / "metrics.jsonl").write_text(content)
    with pytest.raises(OLMoInputError, match="is no run" if content is None else "no metrics yet"):
        read_run(tmp_path)


def test_smoothing_does_not_lag() -> None:
    assert smoothed([1.0, 5.0], 0) == [1.0, 5.0]
    assert smoothed([2.0] * 4, 3) == pytest.approx([2.0] * 4)
    values = smoothed([0.0] * 50 + [1.0] * 50, 5)
    assert values[0] == pytest.approx(0.0, abs=1e-3) and values[-1] == pytest.approx(1.0, abs=1e-3)
    assert values[49] + values[50] == pytest.approx(1.0) and values == sorted(values)


@pytest.mark.parametrize("ending", ["png", "svg", "pdf"])
def test_every_format_is_written(run_folder: Path, tmp_path: Path, ending: str) -> None:
    pytest.importorskip("matplotlib")
    path = plot_runs([read_run(run_folder)], tmp_path / "new" / f"curves.{ending}")
    content = path.read_bytes()
    assert content[:4] in (b"\x89PNG", b"<?xm", b"%PDF")
    if ending == "svg":
        text = content.decode()
        assert all(f"<!-- {panel.title}" in text for panel in PANELS)
        assert "<!-- chart_qa" in text


def test_a_panel_without_numbers_is_left_out_and_runs_lie_over_one_another(run_folder: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    small = RunMetrics("trial", {"loss": Curve((1, 2, 3), (3.0, 2.0, 1.0))})
    one = Image.open(plot_runs([small], tmp_path / "one.png"))
    all_panels = Image.open(plot_runs([read_run(run_folder), small], tmp_path / "all.png", smooth=0))
    assert one.size[0] * 2 < all_panels.size[0] and one.size[1] * 2 < all_panels.size[1]
    text = plot_runs([read_run(run_folder), small], tmp_path / "all.svg").read_text()
    assert "<!-- trial (1)" in text and "<!-- trial (2)" in text


def test_many_tasks_are_cut(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    run = RunMetrics("trial", {f"loss_task{i:02}": Curve((1, 2), (1.0, 2.0)) for i in range(14)})
    text = plot_runs([run], tmp_path / "curves.svg").read_text()
    assert "(first 10)" in text and "task09" in text and "task10" not in text


def test_mistakes_are_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunMetrics("trial", {"loss": Curve((1,), (1.0,))})
    for runs, path, smooth, message in (
        ([], "a.png", 1.0, "no run"),
        ([run], "a.gif", 1.0, r"\.svg"),
        ([run], "a.png", -1.0, "0 or more"),
        ([RunMetrics("empty", {"other": Curve((1,), (1.0,))})], "a.png", 1.0, "nothing to draw in empty"),
    ):
        with pytest.raises(OLMoInputError, match=message):
            plot_runs(runs, tmp_path / path, smooth)
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(OLMoConfigurationError, match=r"molmo\[plots\]"):
        plot_runs([run], tmp_path / "a.png")
