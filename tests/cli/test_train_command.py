from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import olmo.cli.train
from olmo.cli.errors import EXIT_INTERRUPTED

ROOT = Path(__file__).resolve().parents[2]


def test_recipe_and_overrides_reach_the_trainer(molmo, monkeypatch):
    calls = []

    class Trainer:
        run_dir = Path("runs/mine")
        stopped_by = None
        parallel = SimpleNamespace(is_main=True, close=lambda: calls.append("close"))

        def fit(self) -> None:
            calls.append("fit")

    monkeypatch.setattr(olmo.cli.train, "build_trainer", lambda *given: calls.append(given) or Trainer())
    result = molmo("train", "recipe.yaml", "max_steps=3", "optimizer.llm.lr=1e-3", "--allow-changes", "batch_size")
    assert result.code == 0
    assert result.out.splitlines() == ["metrics: runs/mine/metrics.jsonl", "model: runs/mine/final"]
    assert molmo("train", "recipe.yaml").code == 0
    overrides = ["max_steps=3", "optimizer.llm.lr=1e-3"]
    first, second = ("recipe.yaml", overrides, ["batch_size"]), ("recipe.yaml", (), ())
    assert calls == [first, "fit", "close", second, "fit", "close"]


def test_a_stopped_run_says_where_it_stands(molmo, monkeypatch):
    parallel = SimpleNamespace(is_main=True, close=lambda: None)
    trainer = SimpleNamespace(fit=lambda: None, stopped_by="SIGTERM", step=7, parallel=parallel)
    monkeypatch.setattr(olmo.cli.train, "build_trainer", lambda *given: trainer)
    result = molmo("train", "recipe.yaml")
    assert result.code == EXIT_INTERRUPTED
    assert result.out == "stopped by SIGTERM at step 7; the same command goes on from there\n"


def test_a_dry_run_starts_nothing(molmo, tmp_path):
    recipe = ROOT / "configs" / "debug" / "instruct.yaml"
    result = molmo("train", recipe, f"run_dir={tmp_path / 'run'}", "--dry-run", "--devices", "2")
    assert result.code == 0, result.err
    assert "tokens a step" in result.out and "memory: total" in result.out
    assert not (tmp_path / "run").exists()


def test_a_wrong_recipe_or_override_is_one_line(molmo, tmp_path):
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text("model: none\nrun_dir: runs/none\nmax_steps: 1\ndata: {sources: [{kind: scenes}]}\n")
    for arguments, expected in (
        (("nothing.yaml",), "no such configuration file"),
        ((recipe, "max_step=3"), "did you mean 'max_steps'"),
        ((recipe, "max_steps"), "key=value"),
        ((recipe,), "none"),
    ):
        result = molmo("train", *arguments)
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith("error: ") and result.err.count("\n") == 1
        assert expected in result.err
