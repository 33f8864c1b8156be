from __future__ import annotations

import olmo.cli.train


def test_recipe_and_overrides_reach_the_trainer(molmo, monkeypatch):
    calls = []

    class Trainer:
        def fit(self) -> None:
            calls.append("fit")

    monkeypatch.setattr(olmo.cli.train, "build_trainer", lambda *given: calls.append(given) or Trainer())
    assert molmo("train", "recipe.yaml", "max_steps=3", "optimizer.llm.lr=1e-3").code == 0
    assert molmo("train", "recipe.yaml").code == 0
    overrides = ["max_steps=3", "optimizer.llm.lr=1e-3"]
    assert calls == [("recipe.yaml", overrides), "fit", ("recipe.yaml", ()), "fit"]


def test_a_wrong_recipe_or_override_is_one_line(molmo, tmp_path):
    (tmp_path / "recipe.yaml").write_text("task: language\nmodel: none\nrun_dir: runs/none\n")
    for arguments, expected in (
        (("nothing.yaml",), "no such configuration file"),
        ((tmp_path / "recipe.yaml", "max_step=3"), "did you mean 'max_steps'"),
        ((tmp_path / "recipe.yaml", "max_steps"), "key=value"),
        ((tmp_path / "recipe.yaml",), "none"),
    ):
        result = molmo("train", *arguments)
        assert (result.code, result.out) == (1, "")
        assert result.err.startswith("error: ") and result.err.count("\n") == 1
        assert expected in result.err
