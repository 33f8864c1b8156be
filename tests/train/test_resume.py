"""P38: ten steps, a restart and ten more equal twenty, bit for bit: weights, moments, average, rates, data, dropout."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from olmo.exceptions import OLMoConfigurationError
from olmo.train.run import build_trainer
from olmo.train.trainer import Trainer

EVERYTHING = (
    "max_steps=20",
    "ema_decay=0.9",
    "unfreeze_schedule=[[4,1],[12,all]]",
    "optimizer.llm.first_step=2",
    "model_overrides=[llm.residual_dropout=0.1,llm.response_residual_dropout=0.2]",
    "checkpoint.every_steps=100",
)
"""What a run carries from step to step, all at once: an average, blocks that begin to learn, dropout."""


def lines(run: Path) -> list[dict[str, Any]]:
    """Metrics by step, without what the clock says."""
    found = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    kept = ("loss", "lr_", "grad_norm_", "n_examples", "step")
    return [{k: v for k, v in line.items() if k.startswith(kept) and k != "step_s"} for line in found if "loss" in line]


def state_of(trainer: Trainer) -> dict[str, Tensor]:
    """Weights, moments and average."""
    found = {f"weight {name}": t.detach().clone() for name, t in trainer.task.module.state_dict().items()}
    for name, parameter in trainer.task.module.named_parameters():
        for key, value in trainer.optimizer.state.get(parameter, {}).items():
            found[f"{key} {name}"] = value.detach().clone()
    assert trainer.average is not None
    return found | {f"average {name}": t.clone() for name, t in trainer.average.tensors().items()}


def train(recipe: Path, settings: list[str], n_steps: int) -> dict[str, Tensor]:
    """Train as `fit` does, up to a step, and save it; the state there."""
    trainer = build_trainer(recipe, settings)
    trainer.start()
    for batch in trainer.batches():
        metrics = trainer.train_step(batch)
        for watcher in trainer.watchers:
            watcher.on_step(trainer.step, metrics)
        if trainer.step == n_steps:
            break
    trainer.save()
    state = state_of(trainer)
    trainer.close("stopped")
    return state


@pytest.mark.parametrize("is_async", [False, True], ids=["waiting", "in the background"])
@pytest.mark.parametrize("n_workers", [0, pytest.param(2, marks=pytest.mark.slow)])
def test_ten_and_ten_steps_equal_twenty(
    change: Callable[..., Path], tmp_path: Path, is_async: bool, n_workers: int
) -> None:
    settings = [*EVERYTHING, f"checkpoint.is_async={is_async}", f"n_workers={n_workers}"]
    straight = train(change(), [*settings, f"run_dir={tmp_path / 'straight'}"], 20)
    first = train(change(), settings, 10)
    torch.manual_seed(12345)
    second = train(change(), settings, 20)
    assert first.keys() < second.keys()  # more blocks have moments
    assert second.keys() == straight.keys()
    for name, tensor in straight.items():
        assert second[name].dtype == tensor.dtype and torch.equal(second[name], tensor), name
    assert lines(tmp_path / "run") == lines(tmp_path / "straight")


def test_other_hands_may_carry_on_and_another_recipe_may_not(change: Callable[..., Path], tmp_path: Path) -> None:
    settings = [*EVERYTHING, "checkpoint.every_steps=1"]
    train(change(), settings, 1)
    harmless = ["n_workers=1", "n_threads=2", "max_steps=30", "micro_batch_size=2", "checkpoint.keep_last=5"]
    again = build_trainer(change(), [*settings, *harmless])
    again.start()
    assert again.step == 1
    again.close()
    with pytest.raises(OLMoConfigurationError) as caught:
        train(change(), [*settings, "seed=5", "optimizer.vit.lr=1.0", "parallel.reduce_dtype=bfloat16"], 2)
    for line in ("seed: 6198 -> 5", "optimizer.vit.lr: 0.003 -> 1.0", "parallel.reduce_dtype: float32 -> bfloat16"):
        assert line in str(caught.value)
    allowed = build_trainer(change(), [*settings, "seed=5"], allow_changes=["seed"])
    allowed.start()
    assert allowed.step == 1
    allowed.close()


def test_a_run_that_ended_with_an_error_does_not_keep_the_folder(change: Callable[..., Path], tmp_path: Path) -> None:
    first = build_trainer(change(), list(EVERYTHING))
    first.start()
    first.close("an error")
    assert not (tmp_path / "run" / "LOCK").exists()
