from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from olmo.exceptions import OLMoCheckpointError, OLMoConfigurationError
from olmo.models.molmo.molmo import Molmo
from olmo.train.run import build_trainer
from olmo.train.train_config import TrainConfig
from olmo.train.trainer import Trainer


def losses(run: Path) -> dict[int, float]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["loss"] for line in lines if "loss" in line}


def run_to(trainer: Trainer, step: int, save_at: int) -> None:
    """Train as `fit` does, but be killed after `step` steps."""
    trainer.start()
    for batch in trainer.batches():
        metrics = trainer.train_step(batch)
        for watcher in trainer.watchers:
            watcher.on_step(trainer.step, metrics)
        if trainer.step == save_at:
            trainer.save()
        if trainer.step == step:
            break
    trainer.close("killed")


def test_a_run_writes_metrics_a_checkpoint_and_a_model_that_loads(recipe: Path, tmp_path: Path) -> None:
    build_trainer(recipe).fit()
    assert sorted(losses(tmp_path / "run")) == [1, 2, 3, 4, 5, 6]
    model = Molmo.from_pretrained(tmp_path / "run" / "final")
    assert model.tokenizer.decode(model.tokenizer.encode(" two cats")) == " two cats"


def test_resuming_equals_running_straight_bit_for_bit(recipe: Path, tmp_path: Path) -> None:
    straight = build_trainer(recipe, [f"run_dir={tmp_path / 'straight'}"])
    straight.fit()
    build_trainer(recipe)  # building alone changes nothing
    run_to(build_trainer(recipe), 3, save_at=3)
    resumed = build_trainer(recipe)
    resumed.start()
    assert resumed.step == 3
    resumed.fit()
    assert losses(tmp_path / "run") == losses(tmp_path / "straight")
    for (name, a), b in zip(
        straight.task.module.state_dict().items(), resumed.task.module.state_dict().values(), strict=True
    ):
        assert torch.equal(a, b), name


def test_metrics_of_steps_taken_again_are_not_written_twice(recipe: Path, tmp_path: Path) -> None:
    run_to(build_trainer(recipe), 5, save_at=3)
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
    assert {"loss_kind", "patches_named"} <= json.loads((vit_run / "metrics.jsonl").read_text().splitlines()[0]).keys()
    second = build_trainer(recipe, [f"init_from={vit_run / 'final'}"])
    trained = first.task.module.image_vit.state_dict()
    loaded = second.task.model.vision_backbone.image_vit.state_dict()
    assert all(torch.equal(trained[name], loaded[name]) for name in trained)


def test_a_start_from_weights_of_another_shape_is_refused(recipe: Path, tmp_path: Path) -> None:
    build_trainer(recipe, ["max_steps=1"]).fit()
    with pytest.raises(OLMoCheckpointError, match=r"blocks\.0\.mlp"):
        build_trainer(recipe, [f"init_from={tmp_path / 'run' / 'final'}", "model_overrides=[llm.mlp_hidden_size=40]"])


def test_a_start_from_weights_alone_takes_their_configuration(recipe: Path, tmp_path: Path) -> None:
    build_trainer(recipe, ["max_steps=1"]).fit()
    trainer = build_trainer(
        recipe,
        ["model=null", f"init_from={tmp_path / 'run' / 'final'}", "model_overrides=[llm.residual_dropout=0.25]"],
    )
    assert trainer.task.model.config.llm.d_model == 32
    assert trainer.task.model.config.llm.residual_dropout == 0.25


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch_size=0", "batch_size"),
        ("optimizer.vit.lr=0", "is_frozen"),
        ("optimiser.vit.lr=1", "did you mean 'optimizer'"),
        ("task=talking", "patch_naming"),
        ("epochs=2", "one of max_steps and epochs"),
        ("max_steps=null", "one of max_steps and epochs"),
        ("ema_decay=1", "ema_decay"),
        ("init_llm=x", "goes without init_llm"),
        ("unfreeze_schedule=[[5,1],[2,all]]", "rise"),
        ("unfreeze_schedule=[[0,some]]", "phase is"),
        ("model=null", "init_from"),
    ],
)
def test_bad_settings_name_the_field(recipe: Path, override: str, message: str) -> None:
    overrides = [override, "init_from=there"] if override.startswith("init_") else [override]
    with pytest.raises(OLMoConfigurationError, match=message):
        TrainConfig.load(recipe, overrides)


def test_epochs_count_all_rows(recipe: Path) -> None:
    config = TrainConfig.load(recipe, ["max_steps=null", "epochs=4", "batch_size=128"])
    assert config.n_steps(712_000) == 22_250


@pytest.mark.slow
@pytest.mark.parametrize(("task", "metric"), [("patch_naming", "loss_kind"), ("language", "loss")])
def test_training_lowers_the_loss(recipe: Path, tmp_path: Path, task: str, metric: str) -> None:
    build_trainer(recipe, [f"task={task}", "max_steps=60", "batch_size=8"]).fit()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    values = [line[metric] for line in lines]
    assert sum(values[-10:]) < 0.7 * sum(values[:10])


@pytest.mark.parametrize(("times", "is_told"), [(60.0, True), (0.4, False)])
def test_a_processor_without_bfloat16_is_said_before_the_first_step(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, times: float, is_told: bool
) -> None:
    monkeypatch.setattr("olmo.train.trainer.bfloat16_slowdown", lambda: times)
    build_trainer(recipe, ["precision=amp_bf16", "max_steps=1"]).fit()
    rows = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert any("precision=fp32" in str(row) for row in rows) is is_told
