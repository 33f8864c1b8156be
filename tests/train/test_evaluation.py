"""Evaluation inside a run: held-out losses, answered tasks, and a watcher that ends the run."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest
import torch
from PIL import Image
from small_scenes import SCENES

from olmo.exceptions import OLMoConfigurationError
from olmo.train.evaluation import evaluate_losses
from olmo.train.run import build_trainer
from olmo.train.watch.base import Watcher

HELD_OUT = {"kind": "scenes", "name": "held_out", "split": "val", "scenes": SCENES}


def evaluations(run: Path) -> dict[int, dict[str, float]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["evaluation"] for line in lines if "evaluation" in line}


def test_held_out_losses_come_at_their_steps_and_at_the_end(change: Callable[..., Path], tmp_path: Path) -> None:
    evaluation = {"every_steps": 4, "n_examples": 6, "sources": [HELD_OUT, {**HELD_OUT, "name": "other", "skip": 6}]}
    build_trainer(change(evaluation=evaluation)).fit()
    found = evaluations(tmp_path / "run")
    assert sorted(found) == [4, 6]
    assert found[4].keys() == {"held_out/loss", "other/loss", "loss"}
    low, high = sorted((found[6]["held_out/loss"], found[6]["other/loss"]))
    assert low < found[6]["loss"] < high and found[6]["loss"] < found[4]["loss"]


def test_the_loss_is_that_of_the_examples_one_by_one(change: Callable[..., Path]) -> None:
    recipe = change(evaluation={"n_examples": 6, "sources": [HELD_OUT]})
    trainer = build_trainer(recipe, ["model_overrides=[llm.residual_dropout=0.5]", "micro_batch_size=2"])
    trainer.start()
    results = evaluate_losses(trainer.task, trainer.config, trainer.parallel)
    task, total, weight = trainer.task, 0.0, 0.0
    task.module.eval()
    for i in range(6):
        batch = task.collate([task.evaluation_prepare(task.evaluation_sources[0][i], None)])
        with torch.no_grad():
            loss, _ = task.loss(batch)
        total, weight = total + float(loss) * task.weight(batch), weight + task.weight(batch)
    trainer.close()
    assert results["held_out/loss"] == pytest.approx(total / weight, rel=1e-5)


def test_it_changes_nothing_of_the_training(change: Callable[..., Path], tmp_path: Path) -> None:
    plain = build_trainer(change(), [f"run_dir={tmp_path / 'plain'}"])
    plain.fit()
    watched = build_trainer(change(evaluation={"every_steps": 1, "n_examples": 4, "sources": [HELD_OUT]}))
    watched.fit()
    pairs = zip(plain.task.module.parameters(), watched.task.module.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_tasks_are_answered_and_scored(change: Callable[..., Path], tmp_path: Path) -> None:
    Image.new("RGB", (84, 84)).save(tmp_path / "a.png")
    (tmp_path / "val.jsonl").write_text('{"image": "a.png", "question": "What is this?", "answer": "nothing"}\n' * 2)
    evaluation = {"every_steps": 2, "tasks": ["val.jsonl:exact"], "task_limit": 1}
    build_trainer(change(evaluation=evaluation), ["max_steps=2"]).fit()
    (figures,) = evaluations(tmp_path / "run").values()
    assert figures and all(name.startswith("val/exact") for name in figures)


def test_a_wrong_task_is_found_before_the_run(change: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(OLMoConfigurationError, match="chart_qaa"):
        build_trainer(change(evaluation={"tasks": ["chart_qaa"]}))
    assert not (tmp_path / "run").exists()


def test_a_watcher_can_end_the_run_after_a_checkpoint(change: Callable[..., Path], tmp_path: Path) -> None:
    trainer = build_trainer(change(evaluation={"every_steps": 2, "n_examples": 4, "sources": [HELD_OUT]}))
    told: list[str] = []

    class Enough(Watcher):
        def on_evaluation(self, step: int, results: Mapping[str, float]) -> None:
            self.stop_reason = "stopped: enough"

        def on_end(self, reason: str) -> None:
            told.append(reason)

    trainer.start()
    trainer.watchers.append(Enough())
    trainer.start = lambda: None  # type: ignore[method-assign]
    trainer.fit()
    assert trainer.step == 2 and told == ["stopped: enough"]
    assert (tmp_path / "run" / "step00000002").is_dir() and (tmp_path / "run" / "final").is_dir()
