"""Training a routed model: what is logged, that balance comes, and that a selection bias survives a restart."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import yaml

from olmo.models.molmo.molmo import Molmo
from olmo.train.run import build_trainer

ROUTED = ["model_overrides=[llm.block_type=olmoe,llm.n_experts=4,llm.router_bias_rate=0.01]"]


def rows(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def biases(model: torch.nn.Module) -> list[torch.Tensor]:
    return [buffer for name, buffer in model.named_buffers() if name.endswith("selection_bias")]


def test_losses_and_figures_of_the_routers_are_logged(recipe: Path, tmp_path: Path) -> None:
    build_trainer(recipe, ROUTED).fit()
    steps = [row for row in rows(tmp_path / "run") if "loss" in row]
    assert len(steps) == 6
    for row in steps:
        assert 0.009 <= row["loss_load_balance"] <= 0.01 * 2 and row["loss_router_z"] > 0
        assert 1.0 <= row["router_imbalance"] <= 4.0 and 0.0 < row["router_entropy"] <= 1.3863


def test_the_bias_moves_by_its_rate_and_is_part_of_the_checkpoint(recipe: Path, tmp_path: Path) -> None:
    straight = build_trainer(recipe, [*ROUTED, f"run_dir={tmp_path / 'straight'}"])
    straight.fit()
    found = biases(straight.task.module)
    assert len(found) == 2 and any(bias.abs().sum() > 0 for bias in found)
    for bias in found:  # six steps of 0.01 up, down or not at all
        assert torch.allclose(bias / 0.01, (bias / 0.01).round(), atol=1e-4)
        assert bias.abs().max() <= 0.06 + 1e-6


def test_a_restart_in_the_middle_gives_the_same_bias(recipe: Path, tmp_path: Path) -> None:
    straight = build_trainer(recipe, [*ROUTED, f"run_dir={tmp_path / 'straight'}"])
    straight.fit()
    killed = build_trainer(recipe, ROUTED)
    killed.start()
    for batch in killed.batches():
        killed.train_step(batch)
        if killed.step == 3:
            killed.save()
            break
    killed.close("killed")
    resumed = build_trainer(recipe, ROUTED)
    resumed.fit()
    for ours, theirs in zip(biases(resumed.task.module), biases(straight.task.module), strict=True):
        assert torch.equal(ours, theirs)
    saved = Molmo.from_pretrained(tmp_path / "run" / "final")
    for ours, theirs in zip(biases(saved), biases(straight.task.module), strict=True):
        assert torch.equal(ours, theirs)


def late_imbalance(run: Path, weight: float) -> float:
    """Mean over the last ten of 120 steps of the debug recipe, in which two experts are preferred at first."""
    recipe = Path(__file__).resolve().parents[2] / "configs" / "debug" / "molmoe.yaml"
    assert yaml.safe_load(recipe.read_text())["model"] == "moe_model"
    model = f"model_overrides=[llm.load_balance_weight={weight},llm.router_z_weight=0]"
    trainer = build_trainer(
        recipe, [f"run_dir={run}", "max_steps=120", "watch.every_steps=1", "watch.console=none", model]
    )
    with torch.no_grad():
        for block in trainer.task.module.llm.blocks:
            block.mlp.router.weight[:2] += 0.3
    trainer.fit()
    imbalances = [row["router_imbalance"] for row in rows(run) if "router_imbalance" in row]
    assert imbalances[0] > 2.0, "skewed at first"
    return sum(imbalances[-10:]) / 10


@pytest.mark.slow
def test_the_debug_recipe_balances_from_a_skewed_start(tmp_path: Path) -> None:
    """With the loss the load evens out; without, much of it stays. Seen: 1.54 and 3.43."""
    with_loss, without = (late_imbalance(tmp_path / name, w) for name, w in (("with", 0.01), ("without", 0.0)))
    assert with_loss - 1.0 < 0.6 * (without - 1.0), "of what is above an even load"
    assert with_loss < 1.8
