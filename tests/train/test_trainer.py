from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.models.molmo.molmo import Molmo
from olmo.train.run import build_trainer
from olmo.train.train_config import TrainConfig


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines}


def test_a_run_writes_metrics_a_checkpoint_and_a_model_that_loads(recipe: Path, tmp_path: Path) -> None:
    build_trainer(recipe).fit()
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3, 4, 5, 6]
    model = Molmo.from_pretrained(tmp_path / "run" / "final")
    assert model.tokenizer.decode(model.tokenizer.encode(" two cats")) == " two cats"


def test_resuming_equals_running_straight_bit_for_bit(recipe: Path, tmp_path: Path) -> None:
    straight = build_trainer(recipe, [f"run_dir={tmp_path / 'straight'}"])
    straight.fit()
    build_trainer(recipe, ["max_steps=6"])  # building alone changes nothing
    first = build_trainer(recipe)
    for batch in first.batches():
        first.train_step(batch)
        if first.step == 3:
            first.save()
            break
    resumed = build_trainer(recipe)
    assert resumed.step == 3
    resumed.fit()
    after = {step: loss for step, loss in losses(tmp_path / "straight").items() if step > 3}
    assert losses(tmp_path / "run") == after
    for (name, a), b in zip(
        straight.task.module.state_dict().items(), resumed.task.module.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_metrics_of_steps_taken_again_are_not_written_twice(recipe: Path, tmp_path: Path) -> None:
    trainer = build_trainer(recipe)
    for batch in trainer.batches():
        metrics = trainer.train_step(batch)
        trainer.log.write(step=trainer.step, **metrics)
        if trainer.step == 3:
            trainer.save()
        if trainer.step == 5:
            break
    build_trainer(recipe).fit()
    steps = [json.loads(line)["step"] for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("frozen", ["vit", "llm", "connector"])
def test_a_frozen_component_stays_bit_identical(recipe: Path, frozen: str) -> None:
    trainer = build_trainer(recipe, [f"optimizer.{frozen}.is_frozen=true", "max_steps=2"])
    before = {k: {n: p.clone() for n, p in named.items()} for k, named in trainer.task.components().items()}
    trainer.fit()
    for component, named in trainer.task.components().items():
        changed = any(not torch.equal(p, before[component][n]) for n, p in named.items())
        assert changed == (component != frozen), component


def test_the_patch_naming_task_exports_a_vit_for_the_language_task(recipe: Path, tmp_path: Path) -> None:
    vit_run = tmp_path / "vit"
    first = build_trainer(recipe, ["task=patch_naming", f"run_dir={vit_run}", "max_steps=2"])
    first.fit()
    second = build_trainer(recipe, [f"init_from={vit_run / 'final'}"])
    trained = first.task.module.image_vit.state_dict()
    loaded = second.task.model.vision_backbone.image_vit.state_dict()
    assert all(torch.equal(trained[name], loaded[name]) for name in trained)


def test_a_cut_checkpoint_is_one_clear_error(recipe: Path, tmp_path: Path) -> None:
    trainer = build_trainer(recipe, ["max_steps=1"])
    trainer.fit()
    weights = tmp_path / "run" / "latest" / "weights.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(OLMoCheckpointError, match="cannot resume"):
        build_trainer(recipe, ["max_steps=2"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=0", "batch_size"),
        ("optimizer.vit.lr=0", "is_frozen"),
        ("optimiser.vit.lr=1", "did you mean 'optimizer'"),
        ("task=talking", "patch_naming"),
    ],
)
def test_bad_settings_name_the_field(recipe: Path, override: str, message: str) -> None:
    with pytest.raises(OLMoConfigurationError, match=message):
        TrainConfig.load(recipe, [override])


@pytest.mark.slow
@pytest.mark.parametrize(("task", "metric"), [("patch_naming", "loss_kind"), ("language", "loss")])
def test_training_lowers_the_loss(recipe: Path, tmp_path: Path, task: str, metric: str) -> None:
    build_trainer(recipe, [f"task={task}", "max_steps=60", "batch_size=8", "save_every=60"]).fit()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    values = [line[metric] for line in lines]
    assert sum(values[-10:]) < 0.7 * sum(values[:10])
